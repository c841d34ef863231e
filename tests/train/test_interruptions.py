"""Whatever ends a run, Ctrl-C or a kill in the middle of a stage: the same command goes on, to the same end."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import pytest

from tests.train.world import Done, finish, read_lines, start, summary_of, wait_until

Interrupted = tuple[Path, list[Done], list[list[str]]]


@pytest.fixture(scope="module")
def interrupted(wee: Path, settings: Path, tmp_path_factory: pytest.TempPathFactory) -> Interrupted:
    """A run that is stopped by Ctrl-C in step 1 and killed in step 5, and what was finished each time."""
    runs = tmp_path_factory.mktemp("interrupted")
    (runs / ".compiled").symlink_to(wee.parent / ".compiled")
    run, done, finished = runs / "wee", [], []

    def logged(stage: str) -> bool:
        path = run / "metrics.jsonl"
        return path.exists() and f'"stage": "{stage}"' in path.read_text()

    # Tests in the background ignore Ctrl-C, and what they start would inherit that.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for stage, end in (("tcg", signal.SIGINT), ("001-rl", signal.SIGKILL)):
        process = start(settings, "--runs", str(runs), "--checkpoint_every", "15")
        wait_until(process, lambda stage=stage: logged(stage))  # type: ignore[misc]
        os.killpg(process.pid, end)  # a terminal sends Ctrl-C to all
        done.append(finish(process))
        finished.append(sorted(path.stem for path in (run / "stages").glob("*.json")))
    done.append(finish(start(settings, "--runs", str(runs), "--checkpoint_every", "15")))
    return run, done, finished


def test_interrupt_is_one_line_and_status_130(interrupted: Interrupted):
    done = interrupted[1][0]
    assert done.status == 130
    assert done.err == "stopped; the same command goes on from the last finished stage\n"


def test_runs_were_ended_in_the_middle_of_a_stage(interrupted: Interrupted):
    first, second = interrupted[2]
    assert "tcg" not in first and "bootstrap" in first
    assert "001-rl" not in second and "001-prm" in second
    assert interrupted[1][1].status == -signal.SIGKILL


def test_run_goes_on_from_the_last_finished_stage(interrupted: Interrupted):
    _, (_, killed, last), _ = interrupted
    assert last.status == 0 and last.err == ""
    assert "tcg: step 1 of 6" in killed.out and "bootstrap" not in killed.out
    assert "001-rl: step 5 of 6" in last.out and "001-prm" not in last.out


def test_stage_goes_on_from_its_own_checkpoint(interrupted: Interrupted):
    run, (_, killed, _), _ = interrupted
    assert "goes on after update 15, from" in killed.out or "goes on after update 30, from" in killed.out
    assert not list((run / "underway").glob("tcg/*"))


def test_run_that_was_killed_ends_with_the_same_summary(wee: Path, interrupted: Interrupted):
    assert summary_of(interrupted[0]) == summary_of(wee)


def test_run_that_was_killed_ends_with_the_same_metrics(wee: Path, interrupted: Interrupted):
    def rows(run: Path) -> list[dict[str, Any]]:
        lines = read_lines(run / "metrics.jsonl")
        # Times and memory differ, and so does what the sandbox of a killed run had forgotten.
        timed = ("second", "cache_", "memory_gib")
        return [{k: v for k, v in row.items() if not any(name in k for name in timed)} for row in lines]

    assert rows(interrupted[0]) == rows(wee)
