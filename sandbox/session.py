"""One submission from job to verdict: what the worker asks of a runner, and how it reads the answers."""

from __future__ import annotations

import dataclasses
import itertools
import json
import os
import signal
from typing import Any

from sandbox import asserting, child, compare, program
from sandbox.batch import (
    ACCEPTED,
    FAILED,
    IDLE,
    MEMORY,
    OUTPUT,
    TIME,
    WRONG,
    Batch,
    Line,
    Row,
    broken,
    ended_row,
    how_it_ended,
    lines_of,
    read_all,
    sealed_file,
    text_of,
)
from sandbox.host import InfraFailure, Zygote

_SLACK_SECONDS = 30.0
_MAX_TEXT_BYTES = 1 << 16  # of a line that holds no value
_MAX_BATCH = 10_000  # indices that fit into a message
_SHARED_KINDS = (program.EXCEPTION, program.EXIT, program.TOO_LARGE)  # lines of the call and of the assert form
_sequence = itertools.count(1)


@dataclasses.dataclass(frozen=True)
class Work:
    """A submission as it comes from the pool.

    `expected` is None when only the outputs are wanted; `asserts` is given, and `inputs` empty, for the assert form.
    With `keep_values` the outputs are wanted besides the verdicts (`sandbox.afterwards`).
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
    keep_values: bool = False


class Session:
    """Runs one `Work` on a zygote that is idle."""

    def __init__(self, zygote: Zygote, work: Work, expected: list[Any] | None, matches: compare.Matcher):
        self._zygote, self._work, self._expected, self._matches = zygote, work, expected, matches
        self._sequence = next(_sequence)
        self.loaded = True  # False once a program of the call form has failed before its first test
        self._total = len(work.inputs) if work.asserts is None else len(work.asserts)
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
        files = [texts]
        if work.asserts is not None:
            files.append([work.setup, work.fn_name or "", *work.asserts])
        fds = [sealed_file([text.encode("utf-8", "surrogatepass") for text in texts]) for texts in files]
        try:
            if call_form or work.asserts is not None:
                self._run_calls(fds)
            else:
                self._run_scripts(fds[0])
        finally:
            for fd in fds:
                os.close(fd)
        verdict = next((row[0] for row in self._rows if row[0] != ACCEPTED), ACCEPTED)
        passed = sum(row[0] == ACCEPTED for row in self._rows)
        values = self._values if self._expected is None else []
        return verdict, self._compiled, passed, self._total, self._rows, values, self._executed

    def _job(self) -> tuple[Any, ...]:
        """The fields of `child.Job`."""
        work = self._work
        limits = (work.cpu_seconds, work.wall_seconds, work.memory_bytes, work.output_bytes)
        return self._sequence, self._total, *limits

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
        ended_by = os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0
        # The limit's own signal says so itself: the time that is reported may lie a tick below the limit.
        if cpu_seconds >= self._work.cpu_seconds or ended_by == signal.SIGXCPU:
            self._not_compiled(TIME, "compilation took too long")
        elif ended_by not in (0, signal.SIGKILL):
            self._not_compiled(FAILED, f"the compiler was ended by {signal.Signals(ended_by).name}")
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
        verdict, detail = how_it_ended(ended)
        size = os.fstat(fd).st_size
        if verdict not in (TIME, IDLE) and size > limit:
            verdict, detail = OUTPUT, f"more than {limit} bytes"
        elif verdict == FAILED and os.WIFEXITED(ended.status):
            if note.startswith(program.MEMORY):
                verdict = MEMORY
            detail = note[1:].decode("utf-8", "replace") or detail
        text = None
        if verdict == ACCEPTED:
            data = read_all(fd, size)
            if self._expected is None:
                text = data.decode("utf-8", "replace")
            elif not self._matches(self._expected[index], data.decode("utf-8", "surrogateescape")):
                verdict = WRONG
        return (verdict, ended.cpu_seconds, ended.wall_seconds, ended.memory_bytes, detail), text

    # The call form: all tests in one process. What fails there is run again, so that no test fails because of another.

    def _run_calls(self, fds: list[int]) -> None:
        total, start, doubted = self._total, 0, []
        while start < total and not (self._rows and self._stopped()):
            batch = self._call(fds, list(range(start, total)))
            if not batch.loaded:
                self._not_loaded(start, batch)
                break
            for index, line in zip(range(start, total), batch.lines, strict=False):
                row, value = self._judge_line(line, index, batch.ended)
                if row[0] != ACCEPTED and index != start:
                    if self._work.stop_at_failure:
                        row, value = self._alone(fds, index)
                    else:
                        doubted.append((index, line))
                self._add(row, value)
                if self._stopped():
                    break
            if not batch.lines:  # the first test did not end, and it was in a fresh process
                self._add(batch.unfinished, None)
            start = len(self._rows)
        self._executed = len(self._rows) if self._compiled else 0
        self._confirm(fds, doubted)

    def _confirm(self, fds: list[int], doubted: list[tuple[int, Line]]) -> None:
        """Runs failed tests again in the opposite order, in a fresh process; each alone if any then says otherwise.

        A program that keeps no state says the same both times, so a wrong one costs two processes, not one a test.
        """
        if not doubted:
            return
        again = self._call(fds, [index for index, _ in reversed(doubted)])
        claims = [(line.kind, line.payload) for line in again.lines]
        if claims == [(line.kind, line.payload) for _, line in reversed(doubted)]:
            return
        for index, _ in doubted:
            self._rows[index], self._values[index] = self._alone(fds, index)

    def _alone(self, fds: list[int], index: int) -> tuple[Row, Any]:
        batch = self._call(fds, [index])
        if batch.loaded and batch.lines:
            return self._judge_line(batch.lines[0], index, batch.ended)
        return batch.unfinished, None

    def _call(self, fds: list[int], indices: list[int]) -> Batch:
        indices = indices[:_MAX_BATCH]
        form = "calls" if self._work.asserts is None else "asserts"
        self._zygote.send((form, self._job(), indices), tuple(fds))
        (kind, *rows), reports = self._receive()
        if kind not in ("called", "asserted"):
            raise InfraFailure(f"the sandbox's zygote said {kind} to {form}")
        try:
            ended = [self._ended(row) for row in rows]
            lines = [lines_of(read_all(fd, os.fstat(fd).st_size), indices) for fd in reports]
        finally:
            for fd in reports:
                os.close(fd)
        if kind == "asserted":
            return asserting.batch(ended, lines)
        return Batch(ended[0], lines[0], ended_row(ended[0]))

    def _not_loaded(self, start: int, batch: Batch) -> None:
        """Compiling and loading are the same for every test, so their failure is every test's."""
        self.loaded = False
        said = batch.about_loading
        if not said or said[0].kind == program.NOT_COMPILED:
            verdict, detail = how_it_ended(batch.ended) if not said else broken(said[0])
            self._not_compiled(FAILED if verdict == ACCEPTED else verdict, detail)
            return
        # A line of a test, which only the program itself can have written here, says nothing.
        about_it = len(said) > 1 and said[1].kind in (program.EXCEPTION, program.EXIT, program.MEMORY)
        row = self._judge_line(said[1], start, batch.ended)[0] if about_it else batch.unfinished
        for _ in range(1 if self._work.stop_at_failure else self._total - start):
            self._add(row, None)

    def _judge_line(self, line: Line, index: int, ended: child.Ended) -> tuple[Row, Any]:
        verdict, detail, value = self._judge_claim(line, index)
        cpu = min(line.cpu_seconds, ended.cpu_seconds)
        return (verdict, cpu, cpu, ended.memory_bytes, detail), value

    def _judge_claim(self, line: Line, index: int) -> tuple[str, str, Any]:
        if len(line.payload) > max(self._work.output_bytes, _MAX_TEXT_BYTES):
            # No line of ours is that long, so the program wrote it: read, it may take thirty times the memory.
            return WRONG, "the returned value is larger than the output limit", None
        if line.kind == program.MEMORY:
            return MEMORY, text_of(line), None
        if self._work.asserts is not None and line.kind not in _SHARED_KINDS:
            return asserting.VERDICTS.get(line.kind, WRONG), text_of(line), None
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
