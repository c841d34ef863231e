"""The judge as a process: pipes, signals, exit statuses, and nothing left behind."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from sandbox.processes import descendants
from tests.sandbox.processes import remaining

FLAGS = ("--isolation", "trusted", "--workers", "2", "--wall-seconds", "60")
Judge = subprocess.Popen[bytes]


def line(name: str, code: str = "print(1)") -> bytes:
    row = {"id": name, "code": f"{code}  # {name}", "tests": [{"input": "", "output": "1"}]}
    return json.dumps(row).encode() + b"\n"


def sleeping(name: str) -> bytes:
    return line(name, "import time; time.sleep(50)")


def start(*arguments: str) -> Judge:
    code = (  # tests in the background ignore Ctrl-C, and what they start would inherit that
        "import signal, runpy; signal.signal(signal.SIGINT, signal.default_int_handler);"
        "runpy.run_module('sandbox.judge', run_name='__main__', alter_sys=True)"
    )
    command = [sys.executable, "-c", code, *arguments, *FLAGS]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


@pytest.fixture
def judge() -> Iterator[Judge]:
    """A judge between two pipes."""
    process = start("-")
    yield process
    process.kill()
    process.communicate()


def write(process: Judge, *lines: bytes) -> None:
    assert process.stdin is not None
    process.stdin.write(b"".join(lines))
    process.stdin.flush()


def read(process: Judge) -> Any:
    assert process.stdout is not None
    return json.loads(process.stdout.readline())


def wait_for_programs(process: Judge, count: int) -> set[int]:
    """Waits until that many programs are at work; all processes below the judge."""
    deadline = time.monotonic() + 30
    while len(below := descendants(process.pid)) < 2 * 2 + 2 * count:  # workers, zygotes, runners and programs
        assert time.monotonic() < deadline
        time.sleep(0.05)
    return below


def test_verdicts_come_while_lines_are_still_to_come(judge: Judge) -> None:
    for name in "ab":
        write(judge, line(name))
        assert read(judge)["id"] == name


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("to", ["-", "file"])
def test_a_signal_leaves_what_is_done_and_no_process(number: signal.Signals, to: str, tmp_path: Path) -> None:
    source, target = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    names = [f"{i}" for i in range(10)]
    lines = [*map(line, names), sleeping("long"), line("after"), sleeping("long 2"), sleeping("never")]
    source.write_bytes(b"".join(lines))
    process = start(str(source), "-o", "-" if to == "-" else str(target))
    below = wait_for_programs(process, 2)
    time.sleep(0.2)
    begin = time.monotonic()
    process.send_signal(number)
    out, err = process.communicate(timeout=30)
    assert time.monotonic() - begin < 10
    assert process.returncode == 128 + number
    written = (out if to == "-" else target.read_bytes()).decode()
    assert written.endswith("\n")
    rows = [json.loads(row) for row in written.splitlines()]
    ids = [row["id"] for row in rows]
    assert ids in ([*names], [*names, "after"])  # the last one may have been given to a worker that is busy
    assert all(row["verdict"] == "accepted" for row in rows)
    assert err.decode().splitlines()[1:] == [f"stopped by {number.name}: {len(ids)} verdicts are written"]
    assert not remaining(below, 3.0)
    assert not list(tmp_path.glob("*.part"))


def test_a_signal_ends_a_judge_that_waits_for_input(judge: Judge) -> None:
    write(judge, line("a"))
    assert read(judge)["id"] == "a"
    judge.send_signal(signal.SIGTERM)
    out, err = judge.communicate(timeout=20)
    assert (judge.returncode, out) == (128 + signal.SIGTERM, b"")
    assert err.count(b"\n") == 2


def test_a_reader_that_leaves_ends_it_quietly(judge: Judge) -> None:
    assert judge.stdout is not None and judge.stderr is not None
    write(judge, line("a"))
    assert read(judge)["id"] == "a"
    below = descendants(judge.pid)
    judge.stdout.close()
    write(judge, line("b"), line("c"))
    assert judge.wait(20) == 128 + signal.SIGPIPE
    assert judge.stderr.read().count(b"\n") == 1  # the tier
    assert not remaining(below, 3.0)


def test_a_long_file_is_judged_in_order(judge: Judge) -> None:
    names = [f"{i}" for i in range(600)]  # more than are under way at once
    out, _ = judge.communicate(b"".join(map(line, names)), timeout=120)
    assert [json.loads(row)["id"] for row in out.splitlines()] == names
    assert judge.returncode == 0


@pytest.mark.parametrize("closed", ["input", "output"])
def test_a_closed_stream_is_one_line(closed: str) -> None:
    shut = {"input": "<&-", "output": "</dev/null >&-"}[closed]
    command = f"{sys.executable} -m sandbox.judge - --isolation trusted {shut}"
    done = subprocess.run(["/bin/sh", "-c", command], stderr=subprocess.PIPE, timeout=20)
    assert (done.returncode, done.stderr.count(b"\n")) == (2, 1) and f"standard {closed}".encode() in done.stderr


def test_wrong_flags_are_one_line() -> None:
    process = start("none.jsonl", "--cpu-seconds", "0")
    _, err = process.communicate(timeout=20)
    assert (process.returncode, err.count(b"\n")) == (2, 1) and b"cpu_seconds" in err
