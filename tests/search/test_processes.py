"""Several devices, and several processes, grow the trees that one device grows."""

from __future__ import annotations

import dataclasses
import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.search.processes import DEVICES, VALUED, nodes, rated_nodes
from tests.search.scripted import PROBLEMS, grown, head, policy

ROOT = Path(__file__).resolve().parent.parent.parent


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def run(count: int) -> list[dict[str, Any]]:
    """What each of so many processes grew."""
    port = free_port()
    running = [
        subprocess.Popen(
            [sys.executable, "-m", "tests.search.processes", str(index), str(count), str(port)],
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


@pytest.fixture(scope="module")
def expected() -> dict[str, Any]:
    """On one device, with pages for all."""
    return {name: nodes(tree) for name, tree in grown(problems=PROBLEMS[:7], policy=policy()).items()}


@pytest.fixture(scope="module")
def rated() -> dict[str, Any]:
    config = dataclasses.replace(VALUED, pages=0)
    trees = grown(config, PROBLEMS[:7], policy=head().on(policy()))
    return {name: rated_nodes(tree) for name, tree in trees.items()}


def check(found: dict[str, Any], expected: dict[str, Any]) -> None:
    assert sorted(found) == sorted(expected)
    for name, tree in found.items():
        assert [node[:-1] for node in tree] == [[*node[:-1]] for node in expected[name]]
        assert [node[-1] for node in tree] == pytest.approx([node[-1] for node in expected[name]], abs=1e-4)


def test_four_devices_grow_the_trees_of_one(expected, rated):
    [alone] = run(1)
    assert alone["devices"] == DEVICES
    check(alone["trees"], expected)
    check(alone["rated"], rated)


def test_two_processes_with_two_devices_grow_the_same_trees(expected, rated):
    first, second = run(2)
    assert (first["devices"], second["devices"]) == (DEVICES, DEVICES)
    # Problem i belongs to part i modulo 4, and each process has two parts.
    names = [problem.id for problem in PROBLEMS[:7]]
    assert sorted(first["trees"]) == sorted(name for i, name in enumerate(names) if i % DEVICES < 2)
    check({**first["trees"], **second["trees"]}, expected)
    check({**first["rated"], **second["rated"]}, rated)
