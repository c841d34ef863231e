"""One submission from job to verdict: what the worker asks of a runner, and how it reads the answers."""

from __future__ import annotations

import dataclasses
import fcntl
import itertools
import json
import os
import signal
from typing import Any

from sandbox import child, compare, program
from sandbox.host import InfraFailure, Zygote

# A row is (verdict, cpu seconds, wall seconds, memory bytes, detail); verdicts are the values of `records.Verdict`.
Row = tuple[str, float, float, int, str]

ACCEPTED, WRONG, FAILED, MEMORY = "accepted", "wrong_answer", "runtime_error", "memory_limit"
TIME, IDLE, OUTPUT = "time_limit", "idle_limit", "output_limit"

_SLACK_SECONDS = 30.0
_SEALS = fcntl.F_SEAL_SEAL | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE
_MAX_BATCH = 10_000  # indices that fit into a message
_COMPILE_VERDICTS = ("compile_error", FAILED, MEMORY)
_sequence = itertools.count(1)


@dataclasses.dataclass(frozen=True)
class Work:
    """A submission as it comes from the pool.

    `expected` is None when only the outputs are wanted; `asserts` is given, and `inputs` empty, for the assert form.
    """

    code: str
    fn_name: str | None
    inputs: list[Any]
    expected: list[Any] | None
    asserts: list[str] | None
    setup: str
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
    cpu_seconds: float
    payload: bytes


@dataclasses.dataclass(frozen=True)
class Batch:
    """The report of one child: how it ended, and the lines that it wrote."""

    ended: child.Ended
    report: list[Line]

    @property
    def about_loading(self) -> list[Line]:
        return self.report[:2]

    @property
    def loaded(self) -> bool:
        """The program is compiled and its entry point was found."""
        return [line.kind for line in self.about_loading] == [program.COMPILED, program.READY]

    @property
    def lines(self) -> list[Line]:
        """Those of the tests, in the order in which they were run."""
        return self.report[2:]


class Session:
    """Runs one `Work` on a zygote that is idle."""

    def __init__(self, zygote: Zygote, work: Work, expected: list[Any] | None, matches: compare.Matcher):
        self._zygote, self._work, self._expected, self._matches = zygote, work, expected, matches
        self._sequence = next(_sequence)
        self._compiled = True
        self._executed = 0
        self._rows: list[Row] = []
        self._values: list[Any] = []

    def run(self) -> tuple[Any, ...]:
        """(verdict, compiled, passed, total, rows, values, tests run); `InfraFailure` when nothing can be said."""
        work = self._work
        call_form = work.fn_name is not None
        inputs = [json.dumps(value) if call_form else value for value in work.inputs]
        texts = [work.code, work.fn_name or "", *inputs]
        fd = _sealed_file([text.encode("utf-8", "surrogatepass") for text in texts])
        try:
            if call_form:
                self._run_calls(fd)
            else:
                self._run_scripts(fd)
        finally:
            os.close(fd)
        verdict = next((row[0] for row in self._rows if row[0] != ACCEPTED), ACCEPTED)
        passed = sum(row[0] == ACCEPTED for row in self._rows)
        values = self._values if self._expected is None else []
        return verdict, self._compiled, passed, len(work.inputs), self._rows, values, self._executed

    def _job(self) -> tuple[Any, ...]:
        """The fields of `child.Job`."""
        work = self._work
        limits = (work.cpu_seconds, work.wall_seconds, work.memory_bytes, work.output_bytes)
        return self._sequence, len(work.inputs), *limits

    def _receive(self) -> tuple[tuple[Any, ...], list[int]]:
        """The next message about this job, its kind first."""
        wall = child.MAX_WALL_WINDOWS * self._work.wall_seconds + self._work.cpu_seconds
        while True:
            (kind, sequence, *rest), fds = self._zygote.receive(wall + _SLACK_SECONDS)
            if sequence == self._sequence:
                return (kind, *rest), fds
            for fd in fds:
                os.close(fd)

    def _ended(self, row: tuple[Any, ...]) -> child.Ended:
        ended = child.Ended(*row)
        killed = os.WIFSIGNALED(ended.status) and os.WTERMSIG(ended.status) == signal.SIGKILL
        if ended.cause == child.EXITED and killed and ended.cpu_seconds < self._work.cpu_seconds:
            raise InfraFailure("a program was killed from outside: the machine may be short of memory")
        return ended

    def _add(self, row: Row, value: Any) -> None:
        self._rows.append(row)
        self._values.append(value if row[0] == ACCEPTED else None)

    def _not_compiled(self, verdict: str, detail: str) -> None:
        self._compiled = False
        self._add((verdict, 0.0, 0.0, 0, detail), None)

    def _stopped(self) -> bool:
        return self._work.stop_at_failure and self._rows[-1][0] != ACCEPTED

    # The stdin form: a runner compiles, then runs each test in a process of its own.

    def _run_scripts(self, fd: int) -> None:
        self._zygote.send(("scripts", self._job()), (fd,))
        if not self._runner_compiles():
            return
        total, one_by_one = len(self._work.inputs), self._work.stop_at_failure
        if not one_by_one:
            self._zygote.send(("run", self._sequence, 0, total))
        while len(self._rows) < total:
            if one_by_one:
                self._zygote.send(("run", self._sequence, len(self._rows), len(self._rows) + 1))
            self._script_results()
            if self._stopped():
                break
        self._zygote.send(("end", self._sequence))
        (kind, *_), _ = self._receive()
        if kind != "done":
            raise InfraFailure(f"the sandbox's runner said {kind} at its end")

    def _runner_compiles(self) -> bool:
        (kind, *rest), _ = self._receive()
        if kind == "compiled":
            verdict, detail = rest
            if verdict:
                self._not_compiled(verdict, detail)
                self._receive()  # done
            return not verdict
        status, cpu_seconds = rest
        if cpu_seconds >= self._work.cpu_seconds:
            self._not_compiled(TIME, "compilation took too long")
        elif os.WIFSIGNALED(status) and os.WTERMSIG(status) != signal.SIGKILL:
            self._not_compiled(FAILED, f"the compiler was ended by {signal.Signals(os.WTERMSIG(status)).name}")
        else:
            raise InfraFailure(f"the sandbox's compiler ended with status {status}")
        return False

    def _script_results(self) -> None:
        """Judges the tests of the runner's next message."""
        (kind, *rest), fds = self._receive()
        try:
            if kind != "ran" or [row[0] for row in rest[0]] != [len(self._rows) + i for i in range(len(fds))]:
                raise InfraFailure(f"the sandbox's runner ended early: {kind} {rest}"[:300])
            for (index, ended, note), fd in zip(rest[0], fds, strict=True):
                self._executed += 1
                self._add(*self._judge_script(index, self._ended(ended), note, fd))
        finally:
            for fd in fds:
                os.close(fd)

    def _judge_script(self, index: int, ended: child.Ended, note: bytes, fd: int) -> tuple[Row, Any]:
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

    # The call form: all tests in one process. What fails there is run again, so that no test fails because of another.

    def _run_calls(self, fd: int) -> None:
        total, start, doubted = len(self._work.inputs), 0, []
        while start < total and not (self._rows and self._stopped()):
            batch = self._call(fd, list(range(start, total)))
            if not batch.loaded:
                self._not_loaded(start, batch)
                break
            for index, line in zip(range(start, total), batch.lines, strict=False):
                row, value = self._judge_line(line, index, batch.ended)
                if row[0] != ACCEPTED and index != start:
                    if self._work.stop_at_failure:
                        row, value = self._alone(fd, index)
                    else:
                        doubted.append((index, line))
                self._add(row, value)
                if self._stopped():
                    break
            if not batch.lines:  # the first test did not end, and it was in a fresh process
                self._add(_ended_row(batch.ended), None)
            start = len(self._rows)
        self._executed = len(self._rows) if self._compiled else 0
        self._confirm(fd, doubted)

    def _confirm(self, fd: int, doubted: list[tuple[int, Line]]) -> None:
        """Runs failed tests again in the opposite order, in a fresh process; each alone if any then says otherwise.

        A program that keeps no state says the same both times, so a wrong one costs two processes, not one a test.
        """
        if not doubted:
            return
        again = self._call(fd, [index for index, _ in reversed(doubted)])
        claims = [(line.kind, line.payload) for line in again.lines]
        if claims == [(line.kind, line.payload) for _, line in reversed(doubted)]:
            return
        for index, _ in doubted:
            self._rows[index], self._values[index] = self._alone(fd, index)

    def _alone(self, fd: int, index: int) -> tuple[Row, Any]:
        batch = self._call(fd, [index])
        if batch.loaded and batch.lines:
            return self._judge_line(batch.lines[0], index, batch.ended)
        return _ended_row(batch.ended), None

    def _call(self, fd: int, indices: list[int]) -> Batch:
        indices = indices[:_MAX_BATCH]
        self._zygote.send(("calls", self._job(), indices), (fd,))
        (kind, *rest), fds = self._receive()
        if kind != "called":
            raise InfraFailure(f"the sandbox's zygote said {kind} to a call")
        try:
            ended = self._ended(rest[0])
            return Batch(ended, _lines(_read_all(fds[0], os.fstat(fds[0]).st_size), indices))
        finally:
            os.close(fds[0])

    def _not_loaded(self, start: int, batch: Batch) -> None:
        """Compiling and loading are the same for every test, so their failure is every test's."""
        said = batch.about_loading
        if not said or said[0].kind == program.NOT_COMPILED:
            verdict, detail = _how_it_ended(batch.ended) if not said else _broken(said[0])
            self._not_compiled(FAILED if verdict == ACCEPTED else verdict, detail)
            return
        row = self._judge_line(said[1], start, batch.ended)[0] if len(said) > 1 else _ended_row(batch.ended)
        for _ in range(1 if self._work.stop_at_failure else len(self._work.inputs) - start):
            self._add(row, None)

    def _judge_line(self, line: Line, index: int, ended: child.Ended) -> tuple[Row, Any]:
        verdict, detail, value = self._judge_claim(line, index)
        cpu = min(line.cpu_seconds, ended.cpu_seconds)
        return (verdict, cpu, cpu, ended.memory_bytes, detail), value

    def _judge_claim(self, line: Line, index: int) -> tuple[str, str, Any]:
        if line.kind == program.MEMORY:
            return MEMORY, "", None
        try:
            value = compare.parse(line.payload)
            if line.kind == program.VALUE:
                expected = None if self._expected is None else self._expected[index]
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
    """A memory file of `child.Job`'s layout that no one can change any more."""
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


def _how_it_ended(ended: child.Ended) -> tuple[str, str]:
    if ended.cause == child.WALL_SPENT:
        return IDLE, f"{ended.wall_seconds:.1f} s on the wall clock"
    if os.WIFSIGNALED(ended.status):
        name = signal.Signals(os.WTERMSIG(ended.status)).name
        if ended.cause == child.CPU_SPENT or name in ("SIGKILL", "SIGXCPU"):
            return TIME, f"{ended.cpu_seconds:.1f} s of CPU time"
        return FAILED, f"ended by {name}"
    status = os.WEXITSTATUS(ended.status)
    return (FAILED, f"exit status {status}") if status else (ACCEPTED, "")


def _ended_row(ended: child.Ended) -> Row:
    """The verdict on a test during which the process ended."""
    verdict, detail = _how_it_ended(ended)
    if verdict == ACCEPTED:
        verdict, detail = WRONG, "the process ended before the function returned"
    return verdict, ended.cpu_seconds, ended.wall_seconds, ended.memory_bytes, detail


def _broken(line: Line) -> tuple[str, str]:
    """Verdict and detail of a program that does not compile."""
    verdict, _, detail = _text(line).partition(" ")
    return (verdict if verdict in _COMPILE_VERDICTS else FAILED), detail


def _text(line: Line) -> str:
    try:
        return str(compare.parse(line.payload))[:300]
    except ValueError:
        return ""


def _lines(data: bytes, indices: list[int]) -> list[Line]:
    """The report's lines as far as they make sense: those of loading, then the tests' in order."""
    lines: list[Line] = []
    wanted = [program.LOADING, program.LOADING, *indices]
    for raw, index in zip(data.split(b"\n")[:-1], wanted, strict=False):
        words = raw.split(b" ", 3)
        if len(words) != 4 or words[1] != b"%d" % index or not words[2].isdigit():
            break
        lines.append(Line(words[0], int(words[2][:15]) / 1e6, words[3]))
    return lines
