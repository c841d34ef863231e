"""The command line."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from o1coder_jax.errors import UserError
from o1coder_jax.problems.curriculum import __main__ as command
from o1coder_jax.problems.curriculum.config import CurriculumConfig
from o1coder_jax.records import read_problems


def _run(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> None:
    monkeypatch.setattr(sys, "argv", ["curriculum", *arguments])
    command.main()


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    config = CurriculumConfig(training=12, selfplay=6, validation=3, heldout=6)
    monkeypatch.setattr(command, "CurriculumConfig", lambda: config)


@pytest.mark.usefixtures("small")
def test_examples_and_figures_are_printed(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    _run(monkeypatch, "--seed", "3", "--show", "2")
    text = capsys.readouterr().out
    assert text.count("-- the teacher's likeliest answer") == 2
    for part in ("problems: training 12", "groups, largest", "of heldout", "answer: ", "words on average"):
        assert part in text


@pytest.mark.usefixtures("small")
def test_problems_are_written(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    path = tmp_path / "problems.jsonl"
    _run(monkeypatch, "--show", "0", "--output", str(path))
    assert len(read_problems(path)) == 27


def test_counting_stops_at_the_limit(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    _run(monkeypatch, "--count", "300")
    assert 300 <= int(capsys.readouterr().out.split()[-1]) < 400


def test_a_negative_number_is_a_user_error(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match="--show is -1"):
        _run(monkeypatch, "--show", "-1")
