"""Several devices, and several processes, grow the trees that one device grows."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.search.processes import DEVICES, nodes
from tests.search.scripted import PROBLEMS, grown, policy

ROOT = Path(__file__).resolve().parent.parent.parent


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def run(count: int, kind: str) -> list[dict[str, Any]]:
    """What each of so many processes grew."""
    port = free_port()
    running = [
        subprocess.Popen(
            [sys.executable, "-m", "tests.search.processes", str(index), str(count), str(port), kind],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "JAX_PLATFORMS": "cpu"},
        )
        for index in range(count)
    ]
    try:
        ended = [process.communicate(timeout=600) for process in running]
    finally:
        for process in running:
            process.kill()
    for process, (_, said) in zip(running, ended, strict=True):
        assert process.returncode == 0, said[-3000:]
    return [json.loads(out.splitlines()[-1]) for out, _ in ended]  # a library may say something before


Found = dict[str, list[dict[str, Any]]]


@pytest.fixture(scope="module")
def pair() -> Found:
    """What two processes grew, by kind."""
    return {kind: run(2, kind) for kind in ("scripted", "model")}


@pytest.fixture(scope="module")
def alone() -> Found:
    """What one process with as many devices grew, by kind."""
    return {kind: run(1, kind) for kind in ("scripted", "model")}


def check(found: dict[str, Any], expected: dict[str, Any]) -> None:
    assert sorted(found) == sorted(expected)
    for name, tree in found.items():
        assert [node[:-1] for node in tree] == [[*node[:-1]] for node in expected[name]]
        assert [node[-1] for node in tree] == pytest.approx([node[-1] for node in expected[name]], abs=1e-4)


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


@pytest.mark.parametrize("kind", ["scripted", "model"])
def test_processes_talk_to_each_other_once_a_round(pair: Found, kind: str):
    for found in pair[kind]:
        assert found["waves"] > 10
        assert found["gathers"] == found["turns"] + 1  # the last of them says that all trees are finished
    if kind == "scripted":  # the pool is small: paths are read again, too
        assert sum(found["reread"] for found in pair[kind]) > 0
