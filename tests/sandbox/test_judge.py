"""The commands: verdicts in order, invalid lines reported, clear refusals."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from o1coder_jax.errors import UserError, run_command
from sandbox import judge, selftest
from sandbox.pool import Pool, SandboxConfig

GOOD = {"id": "good", "code": "print(int(input()) + 1)", "tests": [{"input": "1", "output": "2"}]}


def run_judge(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    """The command's status."""
    command = ["judge", *arguments, "--isolation", "trusted", "--workers", "1"]
    monkeypatch.setattr(sys, "argv", command)
    with pytest.raises(SystemExit) as left:
        run_command(judge.main)
    return int(str(left.value.code))


def judged(monkeypatch: pytest.MonkeyPatch, folder: Path, rows: list[Any]) -> tuple[int, list[dict[str, Any]]]:
    """Status and verdict lines for submission lines given as JSON values or as text."""
    source, target = folder / "submissions.jsonl", folder / "verdicts.jsonl"
    source.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))
    status = run_judge(monkeypatch, str(source), "-o", str(target))
    return status, [json.loads(line) for line in target.read_text().splitlines()]


def test_verdict_line_has_its_fields(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    status, [row] = judged(monkeypatch, tmp_path, [GOOD])
    times = {"cpu_seconds", "wall_seconds", "memory_bytes", "detail"}
    assert status == 0
    assert set(row["tests"][0]) == {"verdict", *times}
    assert {**row, "tests": 0} == {
        "id": "good",
        "verdict": "accepted",
        "compiled": True,
        "passed": 1,
        "total": 1,
        "pass_rate": 1.0,
        "tests": 0,
    }


def test_verdicts_keep_the_order(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    slow = {**GOOD, "id": "slow", "code": "import time; time.sleep(0.2); print(2)"}
    rows = [slow, GOOD, {**GOOD, "id": "wrong", "code": "print(1)"}]
    assert [row["id"] for row in judged(monkeypatch, tmp_path, rows)[1]] == ["slow", "good", "wrong"]


def test_call_form_compare_and_limits_are_read(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    tests = [{"input": [1], "output": 0.333333}]
    call = {"id": "call", "code": "def f(x): return x / 3", "fn_name": "f", "tests": tests}
    near = {**call, "compare": {"mode": "float", "abs": 1e-3}}
    loop = {**GOOD, "code": "while True: pass", "limits": {"cpu_seconds": 0.2}}
    verdicts = [row["verdict"] for row in judged(monkeypatch, tmp_path, [call, near, loop])[1]]
    assert verdicts == ["wrong_answer", "accepted", "time_limit"]


def test_assert_form_is_read(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    tests = {"setup": "def two(): return 2", "asserts": ["assert f(1) == two()", "assert f(1) == 1"]}
    [row] = judged(monkeypatch, tmp_path, [{"id": "a", "code": "def f(x): return x + 1", **tests}])[1]
    assert [test["verdict"] for test in row["tests"]] == ["accepted", "wrong_answer"]
    assert (row["verdict"], row["passed"], row["total"]) == ("wrong_answer", 1, 2)


@pytest.mark.parametrize(
    "line",
    [
        "junk",
        "[]",
        {"id": "x", "code": "1"},
        {**GOOD, "tests": []},
        {**GOOD, "tests": [{"input": "1"}]},
        {**GOOD, "extra": 1},
        {**GOOD, "code": 1},
        {**GOOD, "limits": {"cpu": 1}},
        {**GOOD, "limits": {"cpu_seconds": -1}},
        {**GOOD, "compare": {"mode": "sets"}},
        {**GOOD, "tests": [{"input": 1, "output": 1}]},
    ],
    ids=str,
)
def test_invalid_line_is_reported_and_the_rest_goes_on(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str], line: Any
) -> None:
    status, rows = judged(monkeypatch, tmp_path, [GOOD, line, GOOD])
    assert (status, [row["verdict"] for row in rows]) == (2, ["accepted", "accepted"])
    assert "submissions.jsonl, line 2: " in capsys.readouterr().err


def test_missing_file_is_one_line_and_status_2(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_judge(monkeypatch, str(tmp_path / "none.jsonl")) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_selftest_names_the_tier(pool: Pool, capsys: pytest.CaptureFixture[str]) -> None:
    assert selftest.main() == 0
    assert f"{pool.isolation}: {len(selftest.PROBES)} attacks refused" in capsys.readouterr().out


def test_selftest_finds_a_crew_without_isolation_unsafe(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    with Pool(SandboxConfig(workers=1, isolation="trusted")) as pool:
        found = " ".join(selftest.findings(pool._crew))
    Path("/dev/shm/o1coder-probe").unlink(missing_ok=True)
    for attempt in (
        "read a file",
        "write a file",
        "fork",
        "run a command",
        "open a socket",
        "signal the pool",
        "make a memory file",
    ):
        assert f"a program can {attempt}" in found


def test_a_tier_that_does_not_hold_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(selftest, "findings", lambda crew: ["a program can fly"])
    monkeypatch.setattr(selftest, "_tried", {})
    with pytest.raises(UserError, match="can fly"):
        selftest.trusty_crew("auto", 1)
