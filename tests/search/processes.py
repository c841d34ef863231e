"""One of several programs, `INDEX COUNT PORT KIND`, that share four virtual devices: prints its own trees as JSON.

KIND is `scripted`, or `model`: another random decoder, and a process reward model that takes part.
"""

from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Iterator
from typing import Any
from unittest import mock

import jax
from flax import nnx
from jax.experimental import multihost_utils
from jax.sharding import Mesh

from o1coder_jax.mesh import MeshConfig, make_mesh, replicate
from o1coder_jax.prm import RewardModel
from search.device import Device
from search.tree import Tree
from search.waves import Search
from tests.search.scripted import CONFIG, PIECES, PROBLEMS, instant, policy
from tests.tiny import SHAPE, decoder

SMALL = dataclasses.replace(CONFIG, pages=4 * (CONFIG.path_pages + 1))
RATED = dataclasses.replace(SMALL, value_weight=0.5)
DEVICES = 4


def nodes(tree: Tree) -> list[list[object]]:
    return [[n.parent, list(n.tokens), n.ended, n.visits, n.value, n.log_probability] for n in tree.nodes]


def scripted(mesh: Mesh) -> Search:
    coder = policy()
    coder = dataclasses.replace(coder, weights=replicate(mesh, coder.weights))
    return Search(coder, PROBLEMS[:7], instant, SMALL, mesh, seed=0, iteration=1)


def modelled(mesh: Mesh) -> Search:
    coder = policy(seed=21)
    coder = dataclasses.replace(coder, weights=replicate(mesh, coder.weights))
    graph, weights = nnx.split(decoder(SHAPE, len(PIECES), seed=4, value_head=True))
    rater = RewardModel(graph, replicate(mesh, weights), "random")
    return Search(coder, PROBLEMS[:7], instant, RATED, mesh, seed=0, iteration=1, reward_model=rater)


def grown(search: Search) -> dict[str, Any]:
    """The trees, and how often the loop went round and the processes talked to each other."""
    calls = {"turns": 0, "gathers": 0}

    def counted(name: str, function: Any) -> Any:
        def call(*arguments: Any, **settings: Any) -> Any:
            calls[name] += 1
            return function(*arguments, **settings)

        return call

    gather = counted("gathers", multihost_utils.process_allgather)
    with (
        mock.patch.object(multihost_utils, "process_allgather", gather),
        mock.patch.object(Device, "turn", counted("turns", Device.turn)),
    ):
        trees: Iterator[Tree] = iter(search)
        found = {tree.problem.id: nodes(tree) for tree in trees}
    counters = search.counters
    return {"trees": found, "waves": counters.waves, "reread": counters.reread, **calls}


def main(index: int, count: int, port: int, kind: str) -> None:
    jax.config.update("jax_num_cpu_devices", DEVICES // count)
    if count > 1:
        jax.distributed.initialize(f"127.0.0.1:{port}", count, index)
    mesh = make_mesh(MeshConfig())
    # One more problem than is a multiple of the parts, so that one process is done before the other.
    found = grown({"scripted": scripted, "model": modelled}[kind](mesh))
    json.dump({"devices": len(jax.devices()), **found}, sys.stdout)


if __name__ == "__main__":
    main(*map(int, sys.argv[1:4]), sys.argv[4])
