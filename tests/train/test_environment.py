"""What a run says of the checkout that it was run from."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from train.environment import commit

pytestmark = pytest.mark.skipif(shutil.which("git") is None, reason="there is no git")
WRITTEN = ("docs/results.md", "benchmarks/results/a.json")


def git(folder: Path, *arguments: str) -> str:
    command = ["git", "-C", str(folder), "-c", "user.name=a", "-c", "user.email=a@b.c", *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", os.devnull)  # a user's settings may sign commits, or run hooks
    for name in ("train/a.py", *WRITTEN):
        (tmp_path / name).parent.mkdir(parents=True)
        (tmp_path / name).write_text("1")
    git(tmp_path, "init", "--quiet")
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "--quiet", "--message", "all")
    return tmp_path


def test_commit_says_whether_what_runs_differs_from_it(checkout: Path):
    head = git(checkout, "rev-parse", "HEAD")
    assert commit(checkout) == head
    for name in WRITTEN:  # by the command that keeps results
        (checkout / name).write_text("2")
    (checkout / "new.json").touch()
    assert commit(checkout) == head
    (checkout / "train/a.py").write_text("2")
    assert commit(checkout) == f"{head}+"


def test_outside_a_checkout_there_is_no_commit(tmp_path: Path):
    assert commit(tmp_path) is None
    (tmp_path / ".git").touch()  # damaged
    assert commit(tmp_path) is None
