"""The loop as one program in two processes: the same run as in one, and whatever ends one of them ends both."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from o1coder_jax.hosts import LOST_EXIT_STATUS, SILENCE_SECONDS
from tests.together import free_port
from tests.train.world import Done, finish, results, start, summary_of, wait_until, write_files

# Beyond the tiny loop of `world`: one round, and no more updates than it takes to come to every stage.
SETTINGS: dict[str, Any] = {
    "iterations": 1,
    "mesh": {"cpu_devices": 1},
    "bootstrap": {"updates": 60, "tokenizer_texts": 300},
    "tcg": {"sft_updates": 20, "dpo_updates": 2, "suite": 3},
    "search": {"trees": 4, "slots": 8, "rollouts": 3},
    "sft": {"updates": 3},
    "prm": {"updates": 3},
    "rl": {"updates": 1},
    "evaluate": {"samples": 2, "aspr_samples": 2, "hard_samples": 0},
}


def both(settings: Path, runs: Path, *arguments: str) -> list[subprocess.Popen[str]]:
    """The command in two processes with one device each."""
    port = free_port()
    distributed = [f"--distributed.coordinator=127.0.0.1:{port}", "--distributed.processes=2"]
    return [
        start(settings, "--runs", str(runs), *distributed, f"--distributed.process={index}", *arguments)
        for index in range(2)
    ]


@pytest.fixture(scope="module")
def few(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The settings file."""
    folder = tmp_path_factory.mktemp("few")
    settings = yaml.safe_load(write_files(folder).read_text())
    for section, values in SETTINGS.items():
        settings[section] = {**settings.get(section, {}), **values} if isinstance(values, dict) else values
    (folder / "few.yaml").write_text(yaml.safe_dump(settings))
    return folder / "few.yaml"


@dataclass(frozen=True)
class Pair:
    """A run of two processes, of which the second was killed in the middle, then begun again.

    Attributes:
      killed, done: how the processes ended, in the first attempt and in the second.
      seconds: from the kill to the end of the other.
    """

    run: Path
    killed: list[Done]
    seconds: float
    done: list[Done]


@pytest.fixture(scope="module")
def pair(few: Path, tmp_path_factory: pytest.TempPathFactory) -> Pair:
    runs = tmp_path_factory.mktemp("pair")
    metrics = runs / "wee" / "metrics.jsonl"
    first, second = both(few, runs)
    wait_until(first, lambda: metrics.exists() and '"stage": "tcg"' in metrics.read_text())
    began = time.monotonic()
    os.killpg(second.pid, signal.SIGKILL)
    killed = [finish(process) for process in (first, second)]
    seconds = time.monotonic() - began
    return Pair(runs / "wee", killed, seconds, [finish(process) for process in both(few, runs)])


@pytest.fixture(scope="module")
def alone(few: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same run in one process with two devices."""
    runs = tmp_path_factory.mktemp("alone")
    done = finish(start(few, "--runs", str(runs), "--mesh.cpu_devices=2"))
    assert done.status == 0, done.err
    return runs / "wee"


def test_kill_of_one_process_ends_the_other_with_one_line(pair: Pair):
    first, second = pair.killed
    assert (first.status, second.status) == (LOST_EXIT_STATUS, -signal.SIGKILL)
    [line] = [line for line in first.err.splitlines() if not line.startswith("[Gloo]")]
    assert line.startswith("error: process 1 is gone") and "start all 2 processes again" in line
    assert pair.seconds < 4 * SILENCE_SECONDS  # of which the processes of a busy machine need some to end


def test_two_processes_go_on_from_the_last_finished_stage(pair: Pair):
    first, second = pair.done
    assert (first.status, second.status) == (0, 0), first.err[-3000:] + second.err[-3000:]
    assert "bootstrap" not in first.out and "tcg: step 1 of 6" in first.out
    assert "step" not in second.out  # only the first process speaks


def test_two_processes_come_to_the_summary_of_one(pair: Pair, alone: Path):
    assert summary_of(pair.run) == summary_of(alone)


def test_two_processes_come_to_the_weights_of_one(pair: Pair, alone: Path):
    here, there = ({n: r["weights"] for n, r in results(run).items() if "weights" in r} for run in (pair.run, alone))
    assert len(here) == 5 and here == there


def test_two_processes_leave_the_records_of_one(pair: Pair, alone: Path):
    for name in ("process.jsonl", "trees.jsonl", "tests.jsonl"):
        assert (pair.run / name).read_bytes() == (alone / name).read_bytes()
