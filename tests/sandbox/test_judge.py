"""The commands: verdicts in order, invalid lines reported, clear refusals."""

from __future__ import annotations

import concurrent.futures
import json
import os
import sys
from pathlib import Path
from typing import Any

import pytest

from o1coder_jax.errors import UserError, run_command
from sandbox import judge, selftest
from sandbox.limits import Limits
from sandbox.pool import Pool, SandboxConfig, Submission
from sandbox.stream import Stream

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
    text = "".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows)
    source.write_text(text, "utf-8", "surrogateescape")
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
    near = {**call, "compare": {"mode": "float", "abs_tol": 1e-3}}
    loop = {**GOOD, "code": "while True: pass", "limits": {"cpu_seconds": 0.2}}
    verdicts = [row["verdict"] for row in judged(monkeypatch, tmp_path, [call, near, loop])[1]]
    assert verdicts == ["wrong_answer", "accepted", "time_limit"]


def test_a_checker_and_infinity_are_read(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    checker = "def check(input, output, expected): return expected is None and int(output) > 5"
    any_large = {"id": "c", "code": "print(7)", "tests": [{"input": "", "output": None}]}
    any_large["compare"] = {"mode": "checker", "checker": checker}
    infinite = {"id": "i", "code": "def f(x): return -x", "fn_name": "f"}
    infinite["tests"] = [{"input": [float("inf")], "output": float("-inf")}]  # written as -Infinity
    digits = {**infinite, "code": "def f(x): return 10 ** 20_000", "tests": [{"input": [1], "output": 0}]}
    digits_line = json.dumps(digits).replace('"output": 0', '"output": 1' + "0" * 20_000)
    status, rows = judged(monkeypatch, tmp_path, [any_large, infinite, digits_line])
    assert (status, [row["verdict"] for row in rows]) == (0, ["accepted"] * 3)


def test_a_broken_checker_is_an_infra_error(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    status, [row] = judged(monkeypatch, tmp_path, [{**GOOD, "compare": {"mode": "checker", "checker": "x = 1"}}])
    assert (status, row["verdict"]) == (0, "infra_error")
    assert "cannot be used: NameError" in row["tests"][0]["detail"]
    assert "1 submissions could not be checked" in capsys.readouterr().err


def test_details_that_are_no_text_are_written(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    code = "raise ValueError(chr(0xd800) + 'é')"
    call = {"id": chr(0xD800), "code": f"def f(): {code}", "fn_name": "f", "tests": [{"input": [], "output": 1}]}
    status, rows = judged(monkeypatch, tmp_path, [{**GOOD, "code": code}, call])
    assert (status, [row["verdict"] for row in rows]) == (0, ["runtime_error"] * 2)
    assert rows[1]["id"] == chr(0xD800)


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
        {**GOOD, "limits": {"cpu_seconds": 99}},
        {**GOOD, "limits": {"memory_mb": "1"}},
        {**GOOD, "limits": []},
        {**GOOD, "compare": {"mode": "checker"}},
        {**GOOD, "compare": {"mode": "float", "abs_tol": 10**300 * 10**300}},
        {**GOOD, "asserts": ["assert True"]},
        {**GOOD, "tests": [{"input": "1", "output": "2", "weight": 3}]},
        {**GOOD, "tests": [{"input": "1", "output": None}]},
        {**GOOD, "tests": {"input": "1", "output": "2"}},
        {**GOOD, "fn_name": ""},
        '{"id": "a", "id": "b", "code": "1", "tests": []}',
        '{"id": "a", "code": "1", "fn_name": "f", "tests": [{"input": [NaN], "output": 1}]}',
        '{"id": "a", "code": "1", "fn_name": "f", "tests": [{"input": [], "output": ' + "[" * 800 + "]" * 800 + "}]}",
        '{"id": "a", "code": "1", "fn_name": "f", "tests": [{"input": ' + "[" * 600 + "]" * 600 + ', "output": 1}]}',
        "[" * 100_000,
        "caf\udce9",  # not UTF-8
        {**GOOD, "compare": {"mode": "sets"}},
        {**GOOD, "tests": [{"input": 1, "output": 1}]},
    ],
    ids=lambda line: str(line)[:60].encode("ascii", "replace").decode(),
)
def test_invalid_line_is_reported_and_the_rest_goes_on(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str], line: Any
) -> None:
    status, rows = judged(monkeypatch, tmp_path, [GOOD, line, GOOD])
    assert (status, [row["verdict"] for row in rows]) == (2, ["accepted", "accepted"])
    [report] = [line for line in capsys.readouterr().err.splitlines() if not line.startswith("sandbox isolation")]
    assert report.startswith("error: ") and "submissions.jsonl, line 2: " in report and len(report) < 400


def test_a_defect_while_lines_are_read_ends_the_work(tmp_path: Path) -> None:
    def submit(submission: Submission) -> concurrent.futures.Future[None]:
        raise ZeroDivisionError

    source = tmp_path / "submissions.jsonl"
    source.write_text(json.dumps(GOOD) + "\n")
    with source.open() as file, pytest.raises(ZeroDivisionError):
        list(Stream(source.name, file.fileno(), Limits(), submit).results())


def test_a_line_that_is_too_long_is_reported(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    long = json.dumps({**GOOD, "id": "x" * (65 << 20)})
    status, rows = judged(monkeypatch, tmp_path, [GOOD, long, GOOD])
    assert (status, len(rows)) == (2, 2)
    assert "line 2: longer than 64 MiB" in capsys.readouterr().err


def test_the_last_line_needs_no_newline(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    source, target = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    source.write_text(json.dumps(GOOD) + "\r\n\n" + json.dumps(GOOD))
    assert run_judge(monkeypatch, str(source), "-o", str(target)) == 0
    assert target.read_text().count("\n") == 2


def test_missing_file_is_one_line_and_status_2(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_judge(monkeypatch, str(tmp_path / "none.jsonl")) == 2
    assert capsys.readouterr().err.count("\n") == 1


@pytest.mark.parametrize("output", ["none/out.jsonl", "in.jsonl", ".", "link.jsonl"])
def test_output_that_cannot_be_is_one_line_and_status_2(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str], output: str
) -> None:
    source = tmp_path / "in.jsonl"
    source.write_text(json.dumps(GOOD))
    (tmp_path / "link.jsonl").symlink_to(source)
    assert run_judge(monkeypatch, str(source), "-o", str(tmp_path / output)) == 2
    assert capsys.readouterr().err.count("\n") == 1
    assert source.read_text() == json.dumps(GOOD)


def test_a_device_stays_a_device(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    source, pipe = tmp_path / "in.jsonl", tmp_path / "pipe"
    source.write_text(json.dumps(GOOD))
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    assert run_judge(monkeypatch, str(source), "-o", str(pipe)) == 0
    assert json.loads(os.read(reader, 10_000))["verdict"] == "accepted"
    os.close(reader)
    assert pipe.is_fifo()


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
