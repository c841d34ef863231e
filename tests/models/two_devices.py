"""Run as a program with two virtual devices: what one device computes, computed on each mesh; prints JSON."""

from __future__ import annotations

import dataclasses
import json
import sys
from typing import Any

import jax
import numpy as np
from flax import nnx
from jax.sharding import Mesh

from o1coder_jax import losses
from o1coder_jax.generate import generate
from o1coder_jax.mesh import MeshConfig, make_mesh, parameter_name, replicate, row_shards, shard_parameters, shard_rows
from o1coder_jax.sampling import SamplingConfig
from o1coder_jax.stopping import stop_ids
from tests.search.scripted import grown, policy
from tests.tiny import SHAPE, VOCAB, decoder, one_device

MESHES = {"data": MeshConfig(), "fsdp": MeshConfig(fsdp=2), "tensor": MeshConfig(tensor=2)}
SMALL = dataclasses.replace(SHAPE, layers=1)
PROMPTS = [[5], [3, 1, 4, 1, 5, 9], [2, 7, 1, 8], [6, 6], [9, 8, 7]]


def answers(mesh: Mesh) -> list[list[list[int]]]:
    graph, weights = nnx.split(decoder(SMALL, VOCAB + 1))
    drawn = generate(
        graph,
        shard_parameters(mesh, weights),
        PROMPTS,
        samples=2,
        stops=stop_ids(VOCAB + 1, (2,)),
        rows=8,
        answer_tokens=8,
        sampling=SamplingConfig(),
        mesh=mesh,
        seed=(1,),
    )
    return [[list(sample.tokens) for sample in samples] for samples in drawn]


def trees(mesh: Mesh, *, sharded: bool) -> list[list[Any]]:
    coder = policy()
    coder = dataclasses.replace(coder, weights=(shard_parameters if sharded else replicate)(mesh, coder.weights))
    found = grown(policy=coder, mesh=mesh)
    return [
        [name, [[node.parent, node.tokens, node.ended, node.visits, node.value] for node in tree.nodes]]
        for name, tree in sorted(found.items())
    ]


def loss_and_gradient(mesh: Mesh) -> tuple[float, Any]:
    graph, weights = nnx.split(decoder(SMALL, VOCAB + 1))
    rng = np.random.default_rng(0)
    batch = {
        "tokens": rng.integers(0, VOCAB, (4, 10)).astype(np.int32),
        "positions": np.tile(np.arange(10, dtype=np.int32), (4, 1)),
        "segments": np.ones((4, 10), np.int32),
        "weight": (rng.random((4, 10)) < 0.7).astype(np.float32),
    }

    @jax.jit
    def both(weights: Any, batch: Any) -> Any:
        return jax.value_and_grad(lambda w: losses.sft(nnx.merge(graph, w), batch)[0])(weights)

    loss, gradient = both(shard_parameters(mesh, weights), shard_rows(mesh, batch))
    return float(loss), nnx.to_pure_dict(jax.device_get(gradient))


def split_share(mesh: Mesh) -> dict[str, float]:
    """Which share of each parameter lies on the first device."""
    weights = shard_parameters(mesh, nnx.to_pure_dict(nnx.state(decoder(SMALL, VOCAB + 1))))
    flat = {parameter_name(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(weights)}
    return {name: leaf.addressable_shards[0].data.size / leaf.size for name, leaf in flat.items()}


def main() -> None:
    single = one_device()
    expected = answers(single), trees(single, sharded=False), loss_and_gradient(single)
    report: dict[str, Any] = {"devices": len(jax.devices())}
    for name, config in MESHES.items():
        mesh = make_mesh(config)
        loss, gradient = loss_and_gradient(mesh)
        apart = jax.tree.map(lambda a, b: float(np.abs(a - b).max()), gradient, expected[2][1])
        report[name] = {
            "row_shards": row_shards(mesh),
            "loss": abs(loss - expected[2][0]),
            "gradient": max(jax.tree.leaves(apart)),
            "share": split_share(mesh),
        }
        if name != "fsdp":
            report[name]["answers"] = answers(mesh) == expected[0]
        if name != "tensor":
            report[name]["trees"] = trees(mesh, sharded=name == "fsdp") == expected[1]
    json.dump(report, sys.stdout)


if __name__ == "__main__":
    jax.config.update("jax_num_cpu_devices", 2)
    main()
