"""One of several programs, `INDEX COUNT PORT`, that share four virtual devices: prints its own trees as JSON.

Without opinions, and with those of a value head on the policy.
"""

from __future__ import annotations

import dataclasses
import json
import sys

import jax

from o1coder_jax.mesh import MeshConfig, make_mesh, replicate
from search.tree import Tree
from tests.search.scripted import CONFIG, PROBLEMS, grown, head, policy

SMALL = dataclasses.replace(CONFIG, pages=4 * (CONFIG.path_pages + 1))
VALUED = dataclasses.replace(SMALL, value_weight=0.5)
DEVICES = 4


def nodes(tree: Tree) -> list[list[object]]:
    return [[n.parent, list(n.tokens), n.ended, n.visits, n.value, n.log_probability] for n in tree.nodes]


def rated_nodes(tree: Tree) -> list[list[object]]:
    return [[n.parent, list(n.tokens), n.ended, n.visits, n.opinion or 0.0] for n in tree.nodes]


def main(index: int, count: int, port: int) -> None:
    jax.config.update("jax_num_cpu_devices", DEVICES // count)
    if count > 1:
        jax.distributed.initialize(f"127.0.0.1:{port}", count, index)
    mesh = make_mesh(MeshConfig())
    coder = policy()
    coder = dataclasses.replace(coder, weights=replicate(mesh, coder.weights))
    # One more than is a multiple of the parts, so that one process is done before the other.
    trees = grown(SMALL, PROBLEMS[:7], policy=coder, mesh=mesh)
    rated = grown(VALUED, PROBLEMS[:7], policy=head().on(coder), mesh=mesh)
    found = {
        "devices": len(jax.devices()),
        "trees": {name: nodes(tree) for name, tree in trees.items()},
        "rated": {name: rated_nodes(tree) for name, tree in rated.items()},
    }
    json.dump(found, sys.stdout)


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
