"""What an accelerator gives: MFU of fine-tuning, decoding against the memory's bandwidth, kernels against XLA's own.

    python -m benchmarks.gpu        (a few minutes on one GPU or TPU; writes benchmarks/results/gpu.json)

The shape is that of Qwen2.5-Coder-1.5B, weights random. MFU counts the model's mathematics (`o1coder_jax/flops.py`)
over the device's dense bf16 peak; decoding counts the bytes that a step has to read, weights and caches, over the
memory's bandwidth (`o1coder_jax/hardware.py`).
"""

from __future__ import annotations

import dataclasses
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from o1coder_jax import hardware, losses
from o1coder_jax.attention import attention
from o1coder_jax.attention_kernels import kernel_for
from o1coder_jax.errors import run_command
from o1coder_jax.generate import decode_batch, start_batch
from o1coder_jax.mesh import MeshConfig, arrange, make_mesh
from o1coder_jax.sampling import SamplingConfig, fold, seed_for
from o1coder_jax.stopping import stop_ids
from o1coder_jax.transformer import ModelConfig, Transformer
from train.meter import Meter
from train.step import Objective, OptimizerConfig, Trainer

RESULTS = Path(__file__).parent / "results" / "gpu.json"
VOCABULARY = 151_936
QWEN = ModelConfig(
    width=1536,
    layers=28,
    heads=12,
    kv_heads=2,
    head_size=128,
    mlp_width=8960,
    rope_theta=1e6,
    qkv_bias=True,
    dtype="bfloat16",
    rematerialize="dots",
)
WANTED = {"mfu": ">= 0.5", "bandwidth_share": ">= 0.6", "kernel_over_xla": ">= 1"}


def fine_tuning(
    config: ModelConfig, vocabulary: int, *, rows: int, length: int, microbatches: int, updates: int
) -> dict[str, Any]:
    """Figures of `Meter.read` over some updates of SFT on full rows, after one that compiles."""
    graph, weights = nnx.split(jax.jit(lambda: Transformer(config, vocabulary, rngs=nnx.Rngs(0)))())
    mesh = make_mesh(MeshConfig())
    optimizer = OptimizerConfig(microbatches=microbatches)
    trainer = Trainer(graph, weights, Objective.of(losses.sft), optimizer, mesh, updates=updates + 1)
    del weights  # the trainer has its own
    tokens = np.random.default_rng(0).integers(0, vocabulary, (rows, length), dtype=np.int32)
    batch = {
        "tokens": tokens,
        "segments": np.ones_like(tokens),
        "positions": np.tile(np.arange(length, dtype=np.int32), (rows, 1)),
        "weight": np.ones(tokens.shape, np.float32),
    }
    jax.block_until_ready(trainer.step(batch))
    meter = Meter(trainer)
    for _ in range(updates):
        meter.count(batch)
        metrics = trainer.step(batch)
    jax.block_until_ready((metrics, trainer.state))
    return {"rows": rows, "length": length, "updates": updates, "loss": float(metrics["loss"]), **meter.read()}


def decoding(config: ModelConfig, vocabulary: int, *, rows: int, prompt: int, new: int) -> dict[str, Any]:
    """Tokens a second of rows with prompts of their own, and the share of the memory's bandwidth that they need."""

    @jax.jit
    def half() -> Any:  # weights as the sampler holds them
        weights = nnx.state(Transformer(config, vocabulary, rngs=nnx.Rngs(0)))
        return jax.tree.map(lambda leaf: leaf.astype(config.dtype), weights)

    graph = nnx.graphdef(nnx.eval_shape(lambda: Transformer(config, vocabulary, rngs=nnx.Rngs(0))))
    weights, mesh = half(), arrange(MeshConfig(), np.array(jax.devices()[:1]))
    stops, settings = stop_ids(vocabulary, []), SamplingConfig().arrays()
    tokens = jnp.asarray(np.random.default_rng(0).integers(0, vocabulary, (1, rows, prompt), dtype=np.int32))
    seeds = fold(jnp.tile(seed_for(0), (rows, 1)), jnp.arange(rows)).reshape(1, rows, 1, 2)
    lengths = jnp.full((1, rows), prompt)
    times = []
    for _ in range(4):
        paths, state = start_batch(
            graph, weights, tokens, lengths, seeds, stops, settings, mesh=mesh, capacity=new, truncated=False
        )
        jax.block_until_ready(state)
        start = time.perf_counter()
        state = decode_batch(
            graph, weights, paths, state, stops, settings, mesh=mesh, steps=new - 1, width=1, truncated=False
        )
        assert int(jax.block_until_ready(state).length.sum()) == rows * new
        times.append(time.perf_counter() - start)
    step = statistics.median(times[1:]) / (new - 1)  # the first one compiled
    caches = (paths.keys, paths.values, paths.valid, state.keys, state.values)
    read = sum(leaf.nbytes for leaf in jax.tree.leaves((weights, caches)))
    device = hardware.find(jax.devices()[0].device_kind)
    return {
        "rows": rows,
        "prompt": prompt,
        "new": new,
        "tokens_per_second": rows / step,
        "bytes_a_step": read,
        "bandwidth_share": read / step / device.bandwidth if device else None,
    }


def kernels(config: ModelConfig, *, rows: int, length: int, rounds: int) -> dict[str, Any]:
    """Attention forward and backward by the device's kernel and by XLA: seconds of each, and how many times faster."""
    c, key = config, jax.random.split(jax.random.key(0), 3)
    q = jax.random.normal(key[0], (rows, length, c.heads, c.head_size), c.dtype)
    k, v = (jax.random.normal(one, (rows, length, c.kv_heads, c.head_size), c.dtype) for one in key[1:])
    segments = jnp.ones((rows, length), jnp.int32)
    name = kernel_for(config)

    def seconds(kernel: str) -> float:
        def total(q: jax.Array, k: jax.Array, v: jax.Array) -> jax.Array:
            return attention(q, k, v, segments, kernel=kernel).astype(jnp.float32).sum()

        return _median(jax.jit(jax.grad(total, argnums=(0, 1, 2))), q, k, v, rounds=rounds)

    found = {one: seconds(one) for one in dict.fromkeys((name, "xla"))}
    return {"kernel": name, "seconds": found, "kernel_over_xla": found["xla"] / found[name]}


def _median(run: Callable[..., Any], *given: Any, rounds: int) -> float:
    jax.block_until_ready(run(*given))
    times = []
    for _ in range(rounds):
        start = time.perf_counter()
        jax.block_until_ready(run(*given))
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def main() -> None:
    device = jax.devices()[0]
    if device.platform == "cpu":
        print("there is no accelerator here; python -m benchmarks.models is the benchmark for CPUs")
        return
    found: dict[str, Any] = {"device": device.device_kind, "jax": jax.__version__, "wanted": WANTED}
    found["fine_tuning"] = fine_tuning(QWEN, VOCABULARY, rows=16, length=2048, microbatches=4, updates=10)
    print(json.dumps(found["fine_tuning"]), flush=True)
    found["decoding"] = decoding(QWEN, VOCABULARY, rows=128, prompt=512, new=128)
    print(json.dumps(found["decoding"]), flush=True)
    found["kernels"] = kernels(dataclasses.replace(QWEN, attention="auto"), rows=8, length=2048, rounds=20)
    print(json.dumps(found["kernels"]), flush=True)
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    run_command(main)
