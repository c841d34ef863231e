"""A training that was killed goes on from its last checkpoint to the same end, bit for bit."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.train.fitting import EVERY, UPDATES, fitted, lessons
from tests.train.world import ENVIRONMENT, ROOT
from train.kept import Kept


def start(folder: Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "tests.train.fitting", str(folder)]
    pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen(command, cwd=ROOT, env={**os.environ, **ENVIRONMENT}, **pipes)


@pytest.fixture(scope="module")
def straight() -> dict[str, Any]:
    """The training without a checkpoint or a break."""
    end: dict[str, Any] = json.loads(json.dumps(fitted(None)))
    return end


def test_killed_training_ends_as_if_it_had_not_been(tmp_path: Path, straight: dict[str, Any]):
    process = start(tmp_path)
    assert process.stdout is not None
    for line in process.stdout:
        if line == f"update {EVERY + 2}\n":
            process.send_signal(signal.SIGKILL)
            break
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    out, said = start(tmp_path).communicate(timeout=600)
    lines = out.splitlines()
    assert f"goes on after update {EVERY}, from {tmp_path / str(EVERY)}" in lines, said
    assert json.loads(lines[-1]) == straight
    assert [path.name for path in tmp_path.iterdir()] == [str(UPDATES)]


def test_finished_training_is_not_done_again(tmp_path: Path, straight: dict[str, Any]):
    for _ in range(2):
        assert json.loads(json.dumps(fitted(Kept(tmp_path, EVERY, lessons())))) == straight


def test_checkpoint_of_other_examples_is_not_taken_up(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    fitted(Kept(tmp_path, EVERY, lessons()))
    other = fitted(Kept(tmp_path, EVERY, lessons(8)), examples=8)
    assert f"{tmp_path / str(UPDATES)} is of another training; it is not taken up" in capsys.readouterr().out
    assert other == fitted(None, examples=8)


def test_damaged_checkpoint_is_named_and_left_out(
    tmp_path: Path, straight: dict[str, Any], capsys: pytest.CaptureFixture[str]
):
    fitted(Kept(tmp_path, EVERY, lessons()))
    (tmp_path / str(UPDATES) / "_METADATA").write_text("")
    assert json.loads(json.dumps(fitted(Kept(tmp_path, EVERY, lessons())))) == straight
    assert "is damaged" in capsys.readouterr().out
