"""`python -m train.prm_judge` on the run of the tiny loop."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from o1coder_jax.records import ProcessRecord
from tests.train.world import bare_command, read_lines
from train import prm_examples
from train.continuations import prefixes_of


def judge(run: Path, output: Path, *arguments: str):
    flags = ("--run", str(run), "--continuations", "3", "--output", str(output), *arguments)
    return bare_command("prm_judge", *flags)


@pytest.fixture
def all_held_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """So few problems that none need be held out: judge on all."""
    monkeypatch.setattr(prm_examples, "HELD_OUT_ONE_IN", 1)


@pytest.mark.usefixtures("all_held_out")
def test_checkpoint_is_judged_on_continuations_that_the_next_one_finds_again(tmp_path: Path, wee: Path):
    before = sorted(wee.rglob("*"))
    done = judge(wee, tmp_path)
    assert done.status == 0, done.err
    found = json.loads((tmp_path / "prm-001.json").read_text())
    records = [ProcessRecord.from_json(row) for row in read_lines(wee / "process.jsonl")]
    steps = prefixes_of(record for record in records if record.iteration == 1)
    assert found["non_terminal"]["steps"] == len(steps)
    kept = (tmp_path / "continuations-001.jsonl").read_text()
    assert all(len(row["outcomes"]) == 3 for line in kept.splitlines()[1:] for row in json.loads(line))
    assert "| non terminal |" in done.out and (tmp_path / "prm-001.md").read_text() in done.out
    again = judge(wee, tmp_path, "--prm", "prm-002")
    assert again.status == 0, again.err
    assert (tmp_path / "continuations-001.jsonl").read_text() == kept
    assert json.loads((tmp_path / "prm-002.json").read_text())["halves"] == found["halves"]
    assert sorted(wee.rglob("*")) == before  # the run is only read


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (("--iteration", "0"), "iteration is 0; it must be at least 1"),
        (("--iteration", "9"), "has no paths of held-out problems of round 9; do its search first"),
    ],
)
def test_mistakes_are_said_in_one_line(tmp_path: Path, wee: Path, arguments: tuple[str, ...], line: str):
    done = judge(wee, tmp_path, *arguments)
    assert done.status == 2 and line in done.err and len(done.err.splitlines()) == 1
