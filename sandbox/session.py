"""One submission from job to verdict: what the worker asks of a runner, and how it reads the answers."""

from __future__ import annotations

import dataclasses
import fcntl
import itertools
import json
import os
import signal
from typing import Any

from sandbox import compare, program, runner
from sandbox.host import InfraFailure, Zygote

# A row is (verdict, cpu seconds, wall seconds, memory bytes, detail); verdicts are the values of `records.Verdict`.
Row = tuple[str, float, float, int, str]

ACCEPTED, WRONG, FAILED, MEMORY = "accepted", "wrong_answer", "runtime_error", "memory_limit"
TIME, IDLE, OUTPUT = "time_limit", "idle_limit", "output_limit"

_SLACK_SECONDS = 30.0
_SEALS = fcntl.F_SEAL_SEAL | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE
_sequence = itertools.count(1)


@dataclasses.dataclass(frozen=True)
class Work:
    """A submission as it comes from the pool. `expected` is None when only the outputs are wanted."""

    code: str
    fn_name: str | None
    inputs: list[Any]
    expected: list[Any] | None
    compare: dict[str, Any]
    cpu_seconds: float
    wall_seconds: float
    memory_bytes: int
    output_bytes: int
    stop_at_failure: bool


@dataclasses.dataclass(frozen=True)
class Line:
    """One line of the call form's report: a claim of the program about one test."""

    kind: bytes
    index: int
    cpu_seconds: float
    payload: bytes


class Session:
    """Runs one `Work` on a zygote that is idle."""

    def __init__(self, zygote: Zygote, work: Work, expected: list[Any] | None, matches: compare.Matcher):
        self._zygote, self._work, self._expected, self._matches = zygote, work, expected, matches
        self._sequence = next(_sequence)
        self._executed = 0
        self._rows: list[Row] = []
        self._values: list[Any] = []

    def run(self) -> tuple[Any, ...]:
        """(verdict, compiled, passed, total, rows, values, tests run); `InfraFailure` when nothing can be said."""
        self._send_job()
        broken = self._compiled()
        if broken is not None:
            verdict, detail = broken
            self._rows.append((verdict, 0.0, 0.0, 0, detail))
        elif self._work.fn_name is not None:
            self._run_calls()
        else:
            self._run_scripts()
        if broken is None:
            self._end()
        return self._summary(broken is None)

    def _summary(self, compiled: bool) -> tuple[Any, ...]:
        verdict = next((row[0] for row in self._rows if row[0] != ACCEPTED), ACCEPTED)
        passed = sum(row[0] == ACCEPTED for row in self._rows)
        values = self._values if self._expected is None else []
        return verdict, compiled, passed, len(self._work.inputs), self._rows, values, self._executed

    # Talking to the runner.

    def _send_job(self) -> None:
        work = self._work
        call_form = work.fn_name is not None
        inputs = [json.dumps(value) if call_form else value for value in work.inputs]
        texts = [work.code, work.fn_name or "", *inputs]
        fd = _sealed_file([text.encode("utf-8", "surrogatepass") for text in texts])
        limits = (work.cpu_seconds, work.wall_seconds, work.memory_bytes, work.output_bytes)
        try:
            self._zygote.send(("job", (self._sequence, call_form, len(inputs), *limits)), (fd,))
        finally:
            os.close(fd)

    def _receive(self) -> tuple[tuple[Any, ...], list[int]]:
        """The next message about this job, its kind first."""
        wall = runner.MAX_WALL_WINDOWS * self._work.wall_seconds + self._work.cpu_seconds
        while True:
            (kind, sequence, *rest), fds = self._zygote.receive(wall + _SLACK_SECONDS)
            if sequence == self._sequence:
                return (kind, *rest), fds
            for fd in fds:
                os.close(fd)

    def _compiled(self) -> tuple[str, str] | None:
        """None, or the verdict and detail of a program that does not compile."""
        (kind, *rest), _ = self._receive()
        if kind == "compiled":
            verdict, detail = rest
            if not verdict:
                return None
            self._receive()  # done
            return verdict, detail
        status, cpu_seconds = rest
        if cpu_seconds >= self._work.cpu_seconds:
            return TIME, "compilation took too long"
        if os.WIFSIGNALED(status) and os.WTERMSIG(status) != signal.SIGKILL:
            return FAILED, f"the compiler was ended by {signal.Signals(os.WTERMSIG(status)).name}"
        raise InfraFailure(f"the sandbox's compiler ended with status {status}")

    def _ask(self, first: int, stop: int) -> None:
        self._zygote.send(("run", self._sequence, first, stop))

    def _ran(self, index: int) -> tuple[runner.Ended, bytes, int]:
        """How the child ended that began with test `index`; its note; the descriptor of what it wrote."""
        (kind, *rest), fds = self._receive()
        if kind != "ran" or rest[0] != index:
            raise InfraFailure(f"the sandbox's runner ended early: {kind} {rest}")
        ended = runner.Ended(*rest[1])
        killed = os.WIFSIGNALED(ended.status) and os.WTERMSIG(ended.status) == signal.SIGKILL
        if ended.cause == runner.EXITED and killed and ended.cpu_seconds < self._work.cpu_seconds:
            os.close(fds[0])
            raise InfraFailure("a program was killed from outside: the machine may be short of memory")
        return ended, rest[2], fds[0]

    def _end(self) -> None:
        self._zygote.send(("end", self._sequence))
        (kind, *_), _ = self._receive()
        if kind != "done":
            raise InfraFailure(f"the sandbox's runner said {kind} at its end")

    # The stdin form.

    def _run_scripts(self) -> None:
        total, one_by_one = len(self._work.inputs), self._work.stop_at_failure
        if not one_by_one:
            self._ask(0, total)
        for index in range(total):
            if one_by_one:
                self._ask(index, index + 1)
            ended, note, fd = self._ran(index)
            self._executed += 1
            try:
                row, value = self._judge_script(index, ended, note, fd)
            finally:
                os.close(fd)
            self._add(row, value)
            if one_by_one and row[0] != ACCEPTED:
                return

    def _add(self, row: Row, value: Any) -> None:
        self._rows.append(row)
        self._values.append(value if row[0] == ACCEPTED else None)

    def _judge_script(self, index: int, ended: runner.Ended, note: bytes, fd: int) -> tuple[Row, Any]:
        limit = self._work.output_bytes
        verdict, detail = _how_it_ended(ended)
        size = os.fstat(fd).st_size
        if verdict not in (TIME, IDLE) and size > limit:
            verdict, detail = OUTPUT, f"more than {limit} bytes"
        elif verdict == FAILED and os.WIFEXITED(ended.status):
            if note.startswith(program.MEMORY):
                verdict = MEMORY
            detail = note[1:].decode("utf-8", "replace") or detail
        text = None
        if verdict == ACCEPTED:
            data = _read_all(fd, size)
            if self._expected is None:
                text = data.decode("utf-8", "replace")
            elif not self._matches(self._expected[index], data.decode("utf-8", "surrogateescape")):
                verdict = WRONG
        return (verdict, ended.cpu_seconds, ended.wall_seconds, ended.memory_bytes, detail), text

    # The call form: all tests in one process; whatever fails there, or is not reached, in a process of its own.

    def _run_calls(self) -> None:
        total, start = len(self._work.inputs), 0
        while start < total:
            ended, lines = self._batch(start, total)
            if not lines or lines[0].kind != program.READY:
                self._not_loaded(start, ended, lines)
                return
            lines = lines[1:]
            for line in lines:
                row, value = self._judge_line(line, ended)
                if row[0] != ACCEPTED and line.index != start:
                    row, value = self._alone(line.index)
                self._add(row, value)
                if self._stopped():
                    return
            if not lines:  # the first test did not end, and it was in a fresh process
                self._add(_ended_row(ended), None)
                if self._stopped():
                    return
            start += max(1, len(lines))

    def _stopped(self) -> bool:
        return self._work.stop_at_failure and self._rows[-1][0] != ACCEPTED

    def _batch(self, start: int, stop: int) -> tuple[runner.Ended, list[Line]]:
        self._ask(start, stop)
        ended, _, fd = self._ran(start)
        try:
            lines = _lines(_read_all(fd, os.fstat(fd).st_size), start, stop)
        finally:
            os.close(fd)
        self._executed += max(1, len(lines) - 1)
        return ended, lines

    def _alone(self, index: int) -> tuple[Row, Any]:
        before = self._executed
        ended, lines = self._batch(index, index + 1)
        self._executed = before  # the test has been counted
        if len(lines) == 2:
            return self._judge_line(lines[1], ended)
        return _ended_row(ended), None

    def _not_loaded(self, start: int, ended: runner.Ended, lines: list[Line]) -> None:
        """Loading is the same for every test, so its failure is every test's."""
        row = self._judge_line(lines[0], ended)[0] if lines else _ended_row(ended)
        count = 1 if self._work.stop_at_failure else len(self._work.inputs) - start
        for _ in range(count):
            self._add(row, None)

    def _judge_line(self, line: Line, ended: runner.Ended) -> tuple[Row, Any]:
        verdict, detail, value = self._judge_claim(line)
        cpu = min(line.cpu_seconds, ended.cpu_seconds)
        return (verdict, cpu, cpu, ended.memory_bytes, detail), value

    def _judge_claim(self, line: Line) -> tuple[str, str, Any]:
        if line.kind == program.MEMORY:
            return MEMORY, "", None
        try:
            value = compare.parse(line.payload)
            if line.kind == program.VALUE:
                expected = None if self._expected is None else self._expected[line.index]
                right = self._expected is None or self._matches(expected, value)
                return (ACCEPTED if right else WRONG), "", value
        except (ValueError, RecursionError) as error:
            return WRONG, f"the returned value cannot be read: {error}"[:300], None
        text = str(value)[:300]
        if line.kind == program.TOO_LARGE:
            return WRONG, text, None
        if line.kind == program.EXIT and text == "0":
            return WRONG, "SystemExit: 0", None
        return FAILED, f"SystemExit: {text}" if line.kind == program.EXIT else text, None


def _sealed_file(parts: list[bytes]) -> int:
    """A memory file of `runner.Job`'s layout that no one can change any more."""
    offsets = list(itertools.accumulate(map(len, parts), initial=8 * (len(parts) + 1)))
    fd = os.memfd_create("job", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    with open(fd, "wb", closefd=False) as file:
        file.write(b"".join(offset.to_bytes(8, "little") for offset in offsets))
        file.writelines(parts)
    fcntl.fcntl(fd, fcntl.F_ADD_SEALS, _SEALS)
    return fd


def _read_all(fd: int, size: int) -> bytes:
    pieces, position = [], 0
    while position < size and (piece := os.pread(fd, size - position, position)):
        pieces.append(piece)
        position += len(piece)
    return b"".join(pieces)


def _how_it_ended(ended: runner.Ended) -> tuple[str, str]:
    if ended.cause == runner.WALL_SPENT:
        return IDLE, f"{ended.wall_seconds:.1f} s on the wall clock"
    if os.WIFSIGNALED(ended.status):
        name = signal.Signals(os.WTERMSIG(ended.status)).name
        if ended.cause == runner.CPU_SPENT or name in ("SIGKILL", "SIGXCPU"):
            return TIME, f"{ended.cpu_seconds:.1f} s of CPU time"
        return FAILED, f"ended by {name}"
    status = os.WEXITSTATUS(ended.status)
    return (FAILED, f"exit status {status}") if status else (ACCEPTED, "")


def _ended_row(ended: runner.Ended) -> Row:
    """The verdict on a test during which the process ended."""
    verdict, detail = _how_it_ended(ended)
    if verdict == ACCEPTED:
        verdict, detail = WRONG, "the process ended before the function returned"
    return verdict, ended.cpu_seconds, ended.wall_seconds, ended.memory_bytes, detail


def _lines(data: bytes, start: int, stop: int) -> list[Line]:
    """The report's lines as far as they make sense: that of loading (index -1), then the tests' in order."""
    lines: list[Line] = []
    for raw in data.split(b"\n")[:-1]:
        words = raw.split(b" ", 3)
        wanted = start + len(lines) - 1 if lines else -1
        if len(words) != 4 or words[1] != b"%d" % wanted or not words[2].isdigit() or wanted >= stop:
            break
        lines.append(Line(words[0], wanted, min(int(words[2][:15]), 10**12) / 1e6, words[3]))
    return lines
