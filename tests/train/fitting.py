"""Run as `FOLDER`: fits a tiny model with checkpoints there, a line after every update; prints its end as JSON."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import jax
from flax import nnx

from o1coder_jax import losses
from o1coder_jax.mesh import MeshConfig, make_mesh, replicate
from o1coder_jax.transformer import ModelConfig, Transformer
from train.data import BatchConfig, example, packed_batches
from train.kept import Kept
from train.session import fingerprint
from train.step import Objective, OptimizerConfig, Trainer, fit

MODEL = ModelConfig(width=16, layers=1, heads=2, kv_heads=1, head_size=8, mlp_width=16)
UPDATES, EVERY = 12, 4
OPTIMIZER = OptimizerConfig(learning_rate=1e-2, warmup=2)


def fitted(kept: Kept | None, *, say: bool = False, examples: int = 9) -> dict[str, Any]:
    """Weights and moments after the last update, and all reports but their clocks."""
    mesh = make_mesh(MeshConfig())
    graph, weights = nnx.split(Transformer(MODEL, 32, rngs=nnx.Rngs(0)))
    trainer = Trainer(graph, replicate(mesh, weights), Objective.of(losses.sft), OPTIMIZER, mesh, updates=UPDATES)
    batches = packed_batches(lessons(examples), BatchConfig(rows=2, length=16), seed=0, name="sft")
    reports: list[list[Any]] = []

    def report(update: int, metrics: dict[str, float | None]) -> None:
        timeless = ("tokens_per_second", "tflops_per_second", "mfu", "memory_gib")
        reports.append([update, {name: value for name, value in metrics.items() if name not in timeless}])
        if say:
            print("update", update, flush=True)

    end = fit(trainer, batches, report=report, every=1, kept=kept)
    return {"state": fingerprint((trainer.state.weights, trainer.state.moments)), "reports": reports, "end": end}


def lessons(count: int = 9) -> list[Any]:
    return [example([1, 2 + number], [3 + number] * (number % 4 + 2)) for number in range(count)]


if __name__ == "__main__":
    jax.config.update("jax_num_cpu_devices", 1)
    print(json.dumps(fitted(Kept(Path(sys.argv[1]), EVERY, lessons()), say=True)))
