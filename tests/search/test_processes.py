"""Several devices, and several processes, grow the trees that one device grows."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from tests.search.processes import DEVICES, RATED, nodes
from tests.search.scripted import PROBLEMS, grown, head, policy
from tests.together import free_port, printed


def run(count: int, kind: str) -> list[dict[str, Any]]:
    """What each of so many processes grew."""
    port = str(free_port())
    commands = [["tests.search.processes", str(index), str(count), port, kind] for index in range(count)]
    return printed(commands, {"JAX_PLATFORMS": "cpu"})


Found = dict[str, list[dict[str, Any]]]


@pytest.fixture(scope="module")
def pair() -> Found:
    """What two processes grew, by kind."""
    return {kind: run(2, kind) for kind in ("scripted", "model", "head")}


@pytest.fixture(scope="module")
def alone() -> Found:
    """What one process with as many devices grew, by kind."""
    return {kind: run(1, kind) for kind in ("scripted", "model")}


def check(found: dict[str, Any], expected: dict[str, Any]) -> None:
    assert sorted(found) == sorted(expected)
    for name, tree in found.items():
        assert [node[:4] for node in tree] == [node[:4] for node in expected[name]]
        for here, there in zip(tree, expected[name], strict=True):
            assert here[4:] == pytest.approx(there[4:], abs=1e-4)


def test_four_devices_grow_the_trees_of_one(alone: Found):
    [found] = alone["scripted"]
    assert found["devices"] == DEVICES
    on_one_device = grown(problems=PROBLEMS[:7], policy=policy())  # with pages for all
    check(found["trees"], {name: nodes(tree) for name, tree in on_one_device.items()})


def test_two_processes_with_two_devices_grow_the_same_trees(alone: Found, pair: Found):
    first, second = pair["scripted"]
    assert (first["devices"], second["devices"]) == (DEVICES, DEVICES)
    # Problem i belongs to part i modulo 4, and each process has two parts.
    names = [problem.id for problem in PROBLEMS[:7]]
    assert sorted(first["trees"]) == sorted(name for i, name in enumerate(names) if i % DEVICES < 2)
    check({**first["trees"], **second["trees"]}, alone["scripted"][0]["trees"])


def test_a_value_head_on_two_processes_grows_the_trees_of_one_device(pair: Found):
    first, second = pair["head"]
    on_one_device = grown(dataclasses.replace(RATED, pages=0), PROBLEMS[:7], policy=head().on(policy()))
    check({**first["trees"], **second["trees"]}, {name: nodes(tree) for name, tree in on_one_device.items()})


def test_a_model_on_two_processes_grows_the_trees_of_one_within_rounding(alone: Found, pair: Found):
    first, second = pair["model"]
    found, expected = {**first["trees"], **second["trees"]}, alone["model"][0]["trees"]
    assert sorted(found) == sorted(expected)
    tokens = flipped = 0
    largest = 0.0
    for name, tree in found.items():
        for here, there in zip(tree, expected[name], strict=False):
            tokens += len(there[1])
            flipped += sum(a != b for a, b in zip(here[1], there[1], strict=False))
            flipped += abs(len(here[1]) - len(there[1]))
            if here[:2] != there[:2]:
                break  # what grows from here on is another tree
            largest = max(largest, abs(here[-1] - there[-1]))
    print(f"{flipped} of {tokens} tokens flipped, log-probabilities differ by {largest:.1e} at most")
    assert tokens > 100 and flipped <= tokens // 100 and largest < 1e-4


@pytest.mark.parametrize("kind", ["scripted", "model", "head"])
def test_processes_talk_to_each_other_once_a_round(pair: Found, kind: str):
    for found in pair[kind]:
        assert found["waves"] > 10
        assert found["gathers"] == found["turns"] + 1  # the last of them says that all trees are finished
    if kind != "model":  # the pool is small: paths are read again, too
        assert sum(found["reread"] for found in pair[kind]) > 0
