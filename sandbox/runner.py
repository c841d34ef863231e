"""One program: compiles it once, then forks a child for each run of it and watches over that child.

This process runs no line of the program itself; it has its code and inputs, never an expected output.
Standard library only.
"""

from __future__ import annotations

import contextlib
import dataclasses
import math
import os
import resource
import select
import signal
import socket
import time
import types
from collections.abc import Callable
from typing import Any

from sandbox import channel, confine, program

# Why a child ended.
EXITED, CPU_SPENT, WALL_SPENT = "exited", "cpu", "wall"

# Why a program did not compile; the values are those of `records.Verdict`.
_BAD_SYNTAX, _FAILED, _MEMORY = "compile_error", "runtime_error", "memory_limit"

_REPORT_FD, _JOB_FD, _FIRST_CLOSED_FD = 3, 4, 5
MAX_FDS = 256
_NOTE_BYTES = 1200
# A sleeper is told from a starved program by its share of a CPU over the wall limit.
_IDLE_SHARE = 0.1
MAX_WALL_WINDOWS = 4

# Modules that programs use and that are worth importing once for all runs. All are pure computation.
PRELOADABLE = frozenset(
    """abc argparse array ast base64 binascii bisect calendar cmath collections contextlib copy csv dataclasses
    datetime decimal difflib enum fractions functools gc hashlib heapq html inspect io itertools json keyword locale
    logging math numbers operator pickle platform pprint queue random re secrets signal statistics string struct sys
    textwrap threading time timeit tokenize traceback types typing unicodedata unittest uuid warnings weakref zlib
    zoneinfo""".split()
)


@dataclasses.dataclass(frozen=True)
class Job:
    """What the worker says of a program; its code and inputs lie in a sealed memory file.

    The file begins with `tests + 3` offsets of 8 bytes (little-endian, from the file's start): of the code, the entry
    point's name, each input, and the end.
    """

    sequence: int
    call_form: bool
    tests: int
    cpu_seconds: float
    wall_seconds: float
    memory_bytes: int
    output_bytes: int

    def read(self, fd: int, part: int) -> bytes:
        """Part 0 is the code, 1 the name, 2 and up the inputs."""
        bounds = os.pread(fd, 16, 8 * part)
        start, end = int.from_bytes(bounds[:8], "little"), int.from_bytes(bounds[8:], "little")
        pieces = []
        while start < end:
            piece = os.pread(fd, end - start, start)
            pieces.append(piece)
            start += len(piece)
        return b"".join(pieces)


class CompileFailure(Exception):
    """The program cannot be run; `verdict` says as what that counts."""

    def __init__(self, verdict: str, detail: str):
        super().__init__(detail)
        self.verdict = verdict


def compile_program(source: str, memory_bytes: int) -> types.CodeType:
    """Compiles, or raises `CompileFailure`.

    Source that is beyond the compiler (a NUL, nesting without end) is a runtime error, as it is with a plain
    interpreter on other versions of Python; a wrong syntax is a compile error.
    """
    if "\0" in source:
        raise CompileFailure(_FAILED, "ValueError: the source contains a NUL")
    try:
        return compile(source, "<program>", "exec", dont_inherit=True)
    except SyntaxError as error:
        deep = "too many" in str(error.msg) or "too deeply" in str(error.msg)
        detail = f"{type(error).__name__}: {error.msg} (line {error.lineno})"
        raise CompileFailure(_FAILED if deep else _BAD_SYNTAX, detail) from None
    except MemoryError:
        # The parser says this of nesting beyond its own stack, too, and then little memory has been used.
        deep = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 < memory_bytes // 2
        raise CompileFailure(_FAILED if deep else _MEMORY, "MemoryError while compiling") from None
    except RecursionError as error:
        raise CompileFailure(_FAILED, f"RecursionError: {error}") from None
    except (ValueError, OverflowError) as error:
        raise CompileFailure(_BAD_SYNTAX, f"{type(error).__name__}: {error}") from None


def preload(code: types.CodeType) -> None:
    """Imports what the program will: once here, not in every child. Names that only look like modules cost little."""
    found: set[str] = set()
    stack = [code]
    while stack:
        block = stack.pop()
        found.update(PRELOADABLE.intersection(block.co_names))
        stack.extend(constant for constant in block.co_consts if isinstance(constant, types.CodeType))
    for name in sorted(found):
        # A module that this interpreter was built without fails again, and visibly, in the program.
        with contextlib.suppress(ImportError):
            __import__(name)


@dataclasses.dataclass(frozen=True)
class Ended:
    """How a child ended: a cause, the wait status, and what it used."""

    cause: str
    status: int
    cpu_seconds: float
    wall_seconds: float
    memory_bytes: int

    def row(self) -> tuple[Any, ...]:
        return dataclasses.astuple(self)


def watch(pid: int, cpu_limit: float, wall_limit: float) -> Ended:
    """Waits for a child and ends it when it has used up its CPU time or its wall time.

    A child that is short of CPU because the machine is busy gets further windows of wall time.
    """
    start = time.monotonic()
    pidfd = os.pidfd_open(pid)
    poll = select.poll()
    poll.register(pidfd, select.POLLIN)
    clock = (~pid << 3) | 2  # MAKE_PROCESS_CPUCLOCK(pid, CPUCLOCK_SCHED) of linux/posix-timers.h
    cause, used, windows, window_used = EXITED, 0.0, 1, 0.0
    while not poll.poll(_milliseconds(min(cpu_limit - used, start + windows * wall_limit - time.monotonic()))):
        used = time.clock_gettime(clock)
        if used >= cpu_limit:
            cause = CPU_SPENT
        elif time.monotonic() >= start + windows * wall_limit:
            if used - window_used >= _IDLE_SHARE * wall_limit and windows < MAX_WALL_WINDOWS:
                windows, window_used = windows + 1, used
                continue
            cause = WALL_SPENT
        else:
            continue
        os.kill(pid, signal.SIGKILL)
        break
    _, status, usage = os.wait4(pid, 0)
    os.close(pidfd)
    cpu = usage.ru_utime + usage.ru_stime
    return Ended(cause, status, cpu, time.monotonic() - start, usage.ru_maxrss * 1024)


def _milliseconds(seconds: float) -> int:
    return max(1, math.ceil(seconds * 1000))


def memory_file(name: str, data: bytes = b"") -> int:
    """A new file in memory, read from its start."""
    fd = os.memfd_create(name, os.MFD_CLOEXEC)
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]
    if data:
        os.lseek(fd, 0, os.SEEK_SET)
    return fd


class Runner:
    """Serves the worker's wishes about one compiled program."""

    def __init__(self, end: socket.socket, job: Job, job_fd: int, call_filter: confine.SystemCallFilter | None):
        self._end, self._job, self._job_fd, self._filter = end, job, job_fd, call_filter

    def serve(self, base_bytes: int) -> None:
        """Compiles, says so, and runs what is asked for until told to end."""
        job = self._job
        confine.lower_limit(resource.RLIMIT_AS, base_bytes + job.memory_bytes)
        unlimited = resource.getrlimit(resource.RLIMIT_CPU)
        # Compilation runs no foreign code, so the kernel's signal at whole seconds is enough for it.
        resource.setrlimit(resource.RLIMIT_CPU, (math.ceil(job.cpu_seconds), unlimited[1]))
        try:
            source = job.read(self._job_fd, 0).decode("utf-8", "surrogatepass")
            code = compile_program(source, job.memory_bytes)
            del source
            preload(code)
        except CompileFailure as failure:
            self._say("compiled", failure.verdict, str(failure))
            return
        except MemoryError:
            self._say("compiled", _MEMORY, "MemoryError while compiling")
            return
        resource.setrlimit(resource.RLIMIT_CPU, unlimited)
        self._say("compiled", "", "")
        self._serve_runs(code)

    def _serve_runs(self, code: types.CodeType) -> None:
        while True:
            (kind, sequence, *rest), _ = channel.receive(self._end)
            if sequence != self._job.sequence or kind != "run":
                return
            first, stop = rest
            if self._job.call_form:
                self._run_calls(code, range(first, stop))
            else:
                for index in range(first, stop):
                    self._run_script(code, index)

    def _say(self, kind: str, *values: Any, fds: tuple[int, ...] = ()) -> None:
        channel.send(self._end, (kind, self._job.sequence, *values), fds)

    def _run_script(self, code: types.CodeType, index: int) -> None:
        stdin = memory_file("stdin", self._job.read(self._job_fd, 2 + index))
        stdout, report = memory_file("stdout"), memory_file("report")
        ended = self._run((stdin, stdout, report), lambda: program.run_script(code, _REPORT_FD))
        note = os.pread(report, _NOTE_BYTES, 0)
        self._say("ran", index, ended.row(), note, fds=(stdout,))
        for fd in (stdin, stdout, report):
            os.close(fd)

    def _run_calls(self, code: types.CodeType, indices: range) -> None:
        job = self._job
        name = job.read(self._job_fd, 1).decode()
        stdin, stdout, report = memory_file("stdin"), os.open(os.devnull, os.O_WRONLY), memory_file("report")

        def main() -> None:
            def read(index: int) -> bytes:
                return job.read(_JOB_FD, 2 + index)

            program.run_calls(code, name, indices, read, _REPORT_FD, job.output_bytes)

        ended = self._run((stdin, stdout, report), main, keep_job=True)
        self._say("ran", indices.start, ended.row(), b"", fds=(report,))
        for fd in (stdin, stdout, report):
            os.close(fd)

    def _run(self, fds: tuple[int, int, int], main: Callable[[], None], keep_job: bool = False) -> Ended:
        """Forks a child that confines itself and runs `main`; waits for it."""
        parent = os.getpid()
        pid = os.fork()
        if pid == 0:
            try:
                self._confine(fds, parent, keep_job)
                main()
            finally:
                os._exit(program.EXIT_FAILED)
        return watch(pid, self._job.cpu_seconds, self._job.wall_seconds)

    def _confine(self, fds: tuple[int, int, int], parent: int, keep_job: bool) -> None:
        confine.die_with_parent()
        if os.getppid() != parent:  # it died before the line above
            os._exit(program.EXIT_FAILED)
        stdin, stdout, report = fds
        os.dup2(stdin, 0)
        os.dup2(stdout, 1)
        os.dup2(report, _REPORT_FD)
        if keep_job:
            os.dup2(self._job_fd, _JOB_FD)
        os.closerange(_FIRST_CLOSED_FD if keep_job else _JOB_FD, MAX_FDS)
        job = self._job
        # In the call form the report holds all tests' results, so it is given room for more than one.
        room = 16 if job.call_form else 1
        confine.lower_limit(resource.RLIMIT_FSIZE, room * job.output_bytes + 1)
        confine.lower_limit(resource.RLIMIT_CPU, math.ceil(job.cpu_seconds) + 1)
        if self._filter is not None:
            self._filter.install()
