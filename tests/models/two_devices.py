"""Run as a program with two virtual devices: what one device computes, computed on each mesh; prints JSON."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import re
import sys
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np
from flax import nnx
from jax.sharding import Mesh

from o1coder_jax import generate as generation
from o1coder_jax import losses
from o1coder_jax.adapters import AdapterConfig, attach, trained
from o1coder_jax.generate import generate
from o1coder_jax.mesh import MeshConfig, make_mesh, parameter_name, row_shards, shard_parameters, shard_rows
from o1coder_jax.sampler import sampler_weights
from o1coder_jax.sampling import SamplingConfig
from o1coder_jax.stopping import stop_ids
from search import engine
from tests.search.scripted import grown, policy
from tests.tiny import SHAPE, VOCAB, decoder, one_device

MESHES = {"data": MeshConfig(), "fsdp": MeshConfig(fsdp=2), "tensor": MeshConfig(tensor=2)}
SMALL = dataclasses.replace(SHAPE, layers=1)
COLLECTIVES = r"(all-gather|all-reduce|all-to-all|collective-permute|reduce-scatter)"
PROMPTS = [[5], [3, 1, 4, 1, 5, 9], [2, 7, 1, 8], [6, 6], [9, 8, 7]]


def sampler(mesh: Mesh, graph: Any, weights: Any) -> tuple[Any, Any]:
    """Weights as a session brings them from training's layout to the sampler."""
    return sampler_weights(graph, shard_parameters(mesh, weights), mesh)


def answers(mesh: Mesh) -> list[list[list[int]]]:
    drawn = generate(
        *sampler(mesh, *nnx.split(decoder(SMALL, VOCAB + 1))),
        PROMPTS,
        samples=2,
        stops=stop_ids(VOCAB + 1, (2,)),
        rows=8,
        answer_tokens=generation.CHUNK_STEPS + 8,
        sampling=SamplingConfig(),
        mesh=mesh,
        seed=(1,),
    )
    return [[list(sample.tokens) for sample in samples] for samples in drawn]


def trees(mesh: Mesh) -> list[list[Any]]:
    coder = policy()
    graph, weights = sampler(mesh, coder.graph, coder.weights)
    found = grown(policy=dataclasses.replace(coder, graph=graph, weights=weights), mesh=mesh)
    return [
        [name, [[node.parent, node.tokens, node.ended, node.visits, node.value] for node in tree.nodes]]
        for name, tree in sorted(found.items())
    ]


@contextlib.contextmanager
def decoded_places() -> Iterator[list[Any]]:
    """Where the rows lie that are decoded in the meantime: of each call the places of its arrays, and the shares of
    keys and values and of tokens that the first device holds."""
    original, found = generation.decode_batch, []

    def held(leaf: Any) -> float:
        return leaf.addressable_shards[0].data.size / leaf.size

    def decode(graph: Any, weights: Any, paths: Any, rows: Any, *arguments: Any, **settings: Any) -> Any:
        places = jax.tree.map(lambda leaf: str(leaf.sharding), rows)
        found.append((str(places), max(held(leaf) for leaf in (*rows.keys, *rows.values)), held(rows.tokens)))
        return original(graph, weights, paths, rows, *arguments, **settings)

    generation.decode_batch = decode  # type: ignore[assignment]
    try:
        yield found
    finally:
        generation.decode_batch = original


@contextlib.contextmanager
def compiled_waves() -> Iterator[dict[str, set[str]]]:
    """What the waves run in the meantime are compiled to: by the places of their arguments, the collectives."""
    original, found = engine.wave, {}

    def wave(*arguments: Any, **settings: Any) -> Any:
        places = str([leaf.sharding for leaf in jax.tree.leaves(arguments)])
        if places not in found:
            text = original.lower(*arguments, **settings).compile().as_text()
            found[places] = set(
                re.findall(r"(all-gather|all-reduce|all-to-all|collective-permute|reduce-scatter)", text)
            )
        return original(*arguments, **settings)

    engine.wave = wave  # type: ignore[assignment]
    try:
        yield found
    finally:
        engine.wave = original


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


def adapted(mesh: Mesh) -> tuple[Any, Any]:
    """A model with an adapter on a packed base, as training lays it on the mesh."""
    graph, weights = nnx.split(decoder(SMALL, VOCAB + 1))
    config = AdapterConfig(rank=2, targets=("*",), base="nf4")
    graph, weights = attach(graph, shard_parameters(mesh, weights), config, jax.random.key(0))
    weights = nnx.merge_state(weights, jax.tree.map(lambda w: w + 0.1, trained(weights)))
    return graph, shard_parameters(mesh, weights)


def split_share(mesh: Mesh) -> dict[str, float]:
    """Which share of each parameter lies on the first device, packed ones and adapters included."""
    weights = shard_parameters(mesh, nnx.to_pure_dict(nnx.state(decoder(SMALL, VOCAB + 1))))
    return _shares(nnx.to_pure_dict(adapted(mesh)[1])) | _shares(weights)


def _shares(weights: Any) -> dict[str, float]:
    flat = {parameter_name(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(weights)}
    return {name: leaf.addressable_shards[0].data.size / leaf.size for name, leaf in flat.items()}


def largest_difference(first: Any, second: Any) -> float:
    pairs = zip(jax.tree.leaves(jax.device_get(first)), jax.tree.leaves(jax.device_get(second)), strict=True)
    return max(float(np.abs(a - b).max()) for a, b in pairs)


def main() -> None:
    single = one_device()
    expected = answers(single), trees(single), loss_and_gradient(single)
    merged = sampler_weights(*adapted(single), single)[1]
    report: dict[str, Any] = {"devices": len(jax.devices())}
    for name, config in MESHES.items():
        mesh = make_mesh(config)
        loss, gradient = loss_and_gradient(mesh)
        report[name] = {
            "row_shards": row_shards(mesh),
            "loss": abs(loss - expected[2][0]),
            "gradient": largest_difference(gradient, expected[2][1]),
            "share": split_share(mesh),
            "merged": largest_difference(sampler_weights(*adapted(mesh), mesh)[1], merged),
        }
        if name != "fsdp":
            with decoded_places() as places:
                report[name]["answers"] = answers(mesh) == expected[0]
            report[name]["decoded"] = len(places), places.count(places[0])
            report[name]["rows_held"] = places[0][1:]
        with compiled_waves() as found:
            report[name]["trees"] = trees(mesh) == expected[1]
        report[name]["collectives"] = sorted(set().union(*found.values()))
    json.dump(report, sys.stdout)


if __name__ == "__main__":
    jax.config.update("jax_num_cpu_devices", 2)
    main()
