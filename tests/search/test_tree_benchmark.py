"""What benchmarks/trees.py compares grows the same trees; without that its times would say little."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks.trees import Shape, alternating, ours, plain, simulations

SHAPE = Shape(trees=6, simulations=24, width=3)


@pytest.fixture(scope="module")
def forest():
    return ours(SHAPE, "puct")()


def test_plain_python_grows_the_same_trees(forest):
    for t, root in enumerate(plain(SHAPE)()):
        nodes, number = [root], 0
        while number < len(nodes):  # in any order: compared as multisets of (visits, total, closed)
            nodes += nodes[number].children
            number += 1
        assert forest.count[t] == len(nodes)
        planes = (np.asarray(plane[t, : len(nodes)]).tolist() for plane in (forest.visits, forest.total, forest.closed))
        found = sorted(zip(*planes, strict=True))
        assert found == [
            (visits, pytest.approx(total, abs=1e-4), closed)
            for visits, total, closed in sorted((n.visits, n.total, n.closed) for n in nodes)
        ]


def test_simulations_are_counted_where_they_happened(forest):
    assert simulations(forest) == sum(root.visits for root in plain(SHAPE)())
    assert 0 < simulations(forest) <= SHAPE.trees * SHAPE.simulations


def test_times_are_per_simulation_of_a_tree():
    times = alternating({"python": plain(SHAPE)}, rounds=1)["python"]
    assert 0 < times["cpu_us"] < 1e4
