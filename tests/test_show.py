"""`train.show`: what it tells of a run that is finished, under way, or no run at all."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import jax.numpy as jnp
import pytest
import rich.console

from o1coder_jax import checkpoint
from o1coder_jax.errors import UserError
from tests.test_run import open_run, work
from train.show import show


def shown(folder: Path) -> str:
    console = rich.console.Console(width=200, record=True, quiet=False, file=sys.stdout)
    show(folder, console)
    return console.export_text()


def line_with(text: str, *words: str) -> list[str]:
    """The words of the one line that holds `words`."""
    (line,) = [line for line in text.splitlines() if all(word in line.split() for word in words)]
    return line.split()


def test_stages_are_listed_with_seconds_and_lines(tmp_path: Path):
    with open_run(tmp_path / "r") as run:
        work(run, "bootstrap", rows=3)
    assert line_with(shown(tmp_path / "r"), "bootstrap") == ["bootstrap", "0.0", "3"]


def test_results_stand_by_iteration(tmp_path: Path):
    with open_run(tmp_path / "r") as run:
        work(run, "001-sft", rows=3)
        work(run, "002-sft", rows=4)
    assert line_with(shown(tmp_path / "r"), "sft.rows") == ["sft.rows", "3", "4"]


def test_which_generator_was_kept_is_shown(tmp_path: Path):
    with open_run(tmp_path / "r") as run, run.stage_scope("002-coevolve") as stage:
        stage.result |= {"kept": "old", "weights": "abc"}
    text = shown(tmp_path / "r")
    assert line_with(text, "coevolve.kept") == ["coevolve.kept", "old"] and "coevolve.weights" not in text


def test_arrays_of_checkpoints_are_listed(tmp_path: Path):
    with open_run(tmp_path / "r") as run:
        checkpoint.save(run.checkpoint("001-sft"), {"params": {"w": jnp.ones((3, 4))}}, {"iteration": 1})
    text = shown(tmp_path / "r")
    assert line_with(text, "params/w") == ["params/w", "3", "x", "4", "float32", "48"]
    assert "checkpoint 001-sft: 12 numbers; iteration 1" in text


def test_unfinished_stage_shows_its_last_metrics(tmp_path: Path):
    with open_run(tmp_path / "r") as run, run.stage_scope("002-rl") as stage:
        stage.log(7, loss=0.25)
        text = shown(tmp_path / "r")
    assert "not finished: stage 002-rl, step 7, " in text and "loss 0.25" in text


def test_metrics_that_are_gone_are_one_line(tmp_path: Path):
    with open_run(tmp_path / "r") as run:
        work(run, "a")
    (tmp_path / "r" / "metrics.jsonl").unlink()
    with pytest.raises(UserError, match=r"metrics\.jsonl is gone, of which finished stages left"):
        shown(tmp_path / "r")


def test_summary_is_shown(tmp_path: Path):
    with open_run(tmp_path / "r") as run:
        run.write_summary({"pass": {"greedy": 0.123456}})
    assert line_with(shown(tmp_path / "r"), "pass.greedy") == ["pass.greedy", "0.1235"]


def test_broken_checkpoint_does_not_hide_the_rest(tmp_path: Path):
    with open_run(tmp_path / "r") as run:
        run.checkpoint("001-sft").mkdir(parents=True)
        run.write_summary({"accuracy": 1})
    text = shown(tmp_path / "r")
    assert "001-sft is no checkpoint" in text and line_with(text, "accuracy") == ["accuracy", "1"]


def test_folder_that_is_no_run_is_refused(tmp_path: Path):
    with pytest.raises(UserError, match="is no run folder"):
        shown(tmp_path)


def test_command_says_one_line_and_leaves_with_status_2(tmp_path: Path):
    done = subprocess.run([sys.executable, "-m", "train.show", str(tmp_path)], capture_output=True, text=True)
    assert done.returncode == 2 and done.stderr.startswith(f"error: {tmp_path} is no run folder")
    assert len(done.stderr.splitlines()) == 1
