"""Run as `FOLDER INDEX COUNT PORT`, with eight virtual devices in all: one update on each mesh; prints JSON.

The first update (loss, gradients, weights after plain descent) on one device is what each mesh must come to. With one
process it also saves a checkpoint on one mesh and restores it on the others.
"""

from __future__ import annotations

import json
import math
import re
import sys
from pathlib import Path
from typing import Any

import jax
import numpy as np
from flax import nnx
from jax.experimental import multihost_utils
from jax.sharding import Mesh

from o1coder_jax import checkpoint, losses
from o1coder_jax.mesh import MeshConfig, make_mesh, own_slice, parameter_shardings, shard_parameters
from o1coder_jax.transformer import ModelConfig
from tests.tiny import decoder, one_device
from train.data import HostBatch
from train.step import split_rows

DEVICES = 8
MODEL = ModelConfig(width=16, layers=5, heads=4, kv_heads=2, head_size=8, mlp_width=32, rematerialize="layers")
VOCABULARY = 24
MESHES = {"1x8x1": (1, 8, 1), "2x2x2": (2, 2, 2), "8x1x1": (8, 1, 1), "1x2x4": (1, 2, 4)}
ACROSS = {name: MESHES[name] for name in ("1x8x1", "2x2x2", "8x1x1")}  # what two processes compute
RATE = 0.1


def batch() -> HostBatch:
    rng = np.random.default_rng(0)
    lengths = rng.integers(3, 7, (8, 2))
    segments = np.zeros((8, 12), np.int32)
    positions = np.zeros((8, 12), np.int32)
    for row, (first, second) in enumerate(lengths):
        segments[row, :first], segments[row, first : first + second] = 1, 2
        positions[row, :first], positions[row, first : first + second] = np.arange(first), np.arange(second)
    weight = (rng.random((8, 12)) < 0.7) * (positions > 0) * 1.0
    tokens = rng.integers(0, VOCABULARY, (8, 12)).astype(np.int32)
    return {"tokens": tokens, "positions": positions, "segments": segments, "weight": weight.astype(np.float32)}


def descended(mesh: Mesh) -> dict[str, Any]:
    """The loss, its gradients, and the weights after one step of plain descent, on the host."""
    graph, weights = nnx.split(decoder(MODEL, VOCABULARY))

    def update(weights: Any, batch: Any) -> tuple[Any, Any, Any]:
        loss, gradient = jax.value_and_grad(lambda w: losses.sft(nnx.merge(graph, w), batch)[0])(weights)
        return loss, gradient, jax.tree.map(lambda w, g: w - RATE * g, weights, gradient)

    with jax.set_mesh(mesh):
        places = parameter_shardings(mesh, weights)
        own = {name: rows[own_slice(mesh, 8)] for name, rows in batch().items()}
        given = shard_parameters(mesh, weights), split_rows(mesh, own)
        step = jax.jit(update, out_shardings=(None, places, places)).lower(*given).compile()
        found = step(*given)
    loss, gradient, after = found
    read = multihost_utils.process_allgather if mesh.is_multi_process else lambda tree, tiled: jax.device_get(tree)
    return {
        "loss": float(loss),
        "gradient": read(gradient, tiled=True),
        "after": read(after, tiled=True),
        "gathered": largest_gathered(step.as_text()),
    }


def largest_gathered(program: str) -> int:
    """Elements of the largest array that a compiled program gathers from several devices."""
    shapes = re.findall(r"= \w+\[([\d,]*)\][^ ]* all-gather(?:-start)?\(", program)
    return max((math.prod(map(int, shape.split(","))) for shape in shapes), default=0)


def apart(found: dict[str, Any], expected: dict[str, Any]) -> dict[str, float]:
    def largest(a: Any, b: Any) -> float:
        return max(jax.tree.leaves(jax.tree.map(lambda x, y: float(np.abs(x - y).max()), a, b)))

    return {name: largest(found[name], expected[name]) for name in ("loss", "gradient", "after")}


def restored(folder: Path, kept: Mesh, other: Mesh) -> bool:
    """Whether weights that were saved on one mesh come back on another, bit by bit, and lie where they belong."""
    weights = nnx.to_pure_dict(nnx.state(decoder(MODEL, VOCABULARY)))
    if not folder.exists():
        checkpoint.save(folder, shard_parameters(kept, weights))
    places = parameter_shardings(other, weights)
    like = jax.tree.map(lambda w, place: jax.ShapeDtypeStruct(w.shape, w.dtype, sharding=place), weights, places)
    back = checkpoint.restore(folder, like)
    same = jax.tree.map(lambda a, b: bool((np.asarray(a) == np.asarray(b)).all()), weights, back)
    lie = jax.tree.map(lambda a, place: a.sharding.is_equivalent_to(place, a.ndim), back, places)
    return all(jax.tree.leaves((same, lie)))


def main(folder: Path, index: int, count: int, port: int) -> None:
    jax.config.update("jax_num_cpu_devices", DEVICES // count)
    if count > 1:
        jax.distributed.initialize(f"127.0.0.1:{port}", count, index)
    report: dict[str, Any] = {"devices": len(jax.devices())}
    # The first of this process's own devices, so that each process has what to compare with.
    alone = Mesh(np.array(jax.local_devices()[:1]).reshape(1, 1, 1), one_device().axis_names)
    expected = descended(alone)
    made = {name: make_mesh(MeshConfig(*sizes)) for name, sizes in (MESHES if count == 1 else ACROSS).items()}
    for name, mesh in made.items():
        found = descended(mesh)
        report[name] = apart(found, expected) | {"gathered": found["gathered"]}
        if count == 1:
            report[name]["restored"] = restored(folder, made["2x2x2"], mesh)
    json.dump(report, sys.stdout)


if __name__ == "__main__":
    main(Path(sys.argv[1]), *map(int, sys.argv[2:]))
