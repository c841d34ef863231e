"""A child process for a run of a program: made, confined, watched and ended here.

Standard library only, and little of it (`dataclasses` brings much along): what a zygote holds, every fork pays for.
"""

from __future__ import annotations

import math
import os
import resource
import select
import signal
import time
from collections.abc import Callable
from typing import NamedTuple

from sandbox import confine, program

# Why a child ended; `ABANDONED`: the worker was gone before it did.
EXITED, CPU_SPENT, WALL_SPENT, ABANDONED = "exited", "cpu", "wall", "abandoned"

REPORT_FD, JOB_FD = 3, 4
MAX_FDS = 256
# A sleeper is told from a starved program by its share of a CPU over the wall limit.
_IDLE_SHARE = 0.1
MAX_WALL_WINDOWS = 4


class Job(NamedTuple):
    """What the worker says of a program; its code and inputs lie in a sealed memory file.

    The file begins with `tests + 3` offsets of 8 bytes (little-endian, from the file's start): of the code, the entry
    point's name, each input, and the end.
    """

    sequence: int
    tests: int
    cpu_seconds: float
    wall_seconds: float
    memory_bytes: int
    output_bytes: int

    def read_code(self, fd: int) -> bytes:
        return self._read(fd, 0)

    def read_name(self, fd: int) -> str:
        return self._read(fd, 1).decode()

    def read_input(self, fd: int, index: int) -> bytes:
        return self._read(fd, 2 + index)

    def _read(self, fd: int, part: int) -> bytes:
        bounds = os.pread(fd, 16, 8 * part)
        start, end = int.from_bytes(bounds[:8], "little"), int.from_bytes(bounds[8:], "little")
        pieces = []
        while start < end:
            piece = os.pread(fd, end - start, start)
            pieces.append(piece)
            start += len(piece)
        return b"".join(pieces)


class Ended(NamedTuple):
    """How a child ended: a cause, the wait status, and what it used."""

    cause: str
    status: int
    cpu_seconds: float
    wall_seconds: float
    memory_bytes: int


class Files(NamedTuple):
    """The descriptors that a child gets: as 0, 1, `REPORT_FD`, and, if given, `JOB_FD`."""

    stdin: int
    stdout: int
    report: int
    job: int | None = None

    def put_in_place(self) -> None:
        """Makes them the only ones that are open, besides 2."""
        os.dup2(self.stdin, 0)
        os.dup2(self.stdout, 1)
        os.dup2(self.report, REPORT_FD)
        if self.job is not None:
            os.dup2(self.job, JOB_FD)
        os.closerange(JOB_FD if self.job is None else JOB_FD + 1, MAX_FDS)


def memory_file(name: str, data: bytes = b"") -> int:
    """A new file in memory, read from its start."""
    fd = os.memfd_create(name, os.MFD_CLOEXEC)
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]
    if data:
        os.lseek(fd, 0, os.SEEK_SET)
    return fd


def limit_memory(job: Job, base_bytes: int) -> None:
    """`base_bytes` is the address space of the process before it has done anything."""
    confine.lower_limit(resource.RLIMIT_AS, base_bytes + job.memory_bytes)


class Starter:
    """Starts the children of a job. What it can it works out once, before the first: see `Runner`."""

    def __init__(self, job: Job, report_bytes: int, main: Callable[[], None]):
        """`main` is what a child runs, and never returns."""
        self._main, self._parent = main, os.getpid()
        self._file_size = confine.lowered(resource.RLIMIT_FSIZE, report_bytes + 1)
        self._cpu = confine.lowered(resource.RLIMIT_CPU, math.ceil(job.cpu_seconds) + 1)

    def start(self, files: Files) -> int:
        """The process id of a new child, which limits itself and runs `main`."""
        pid = os.fork()
        if pid == 0:
            try:
                confine.die_with_parent()
                if os.getppid() == self._parent:  # else it died before the line above
                    files.put_in_place()
                    resource.setrlimit(resource.RLIMIT_FSIZE, self._file_size)
                    resource.setrlimit(resource.RLIMIT_CPU, self._cpu)
                    self._main()
            finally:
                os._exit(program.EXIT_FAILED)
        return pid


def watch(pid: int, job: Job, hangup: int | None = None) -> Ended:
    """Waits for a child and ends it when it has used up its CPU time or its wall time.

    A child that is short of CPU because the machine is busy gets further windows of wall time. With `hangup`, the child
    is ended, too, when the other end of that socket is closed.
    """
    start = time.monotonic()
    pidfd = os.pidfd_open(pid)
    poll = select.poll()
    poll.register(pidfd, select.POLLIN)
    if hangup is not None:
        poll.register(hangup, 0)
    clock = (~pid << 3) | 2  # MAKE_PROCESS_CPUCLOCK(pid, CPUCLOCK_SCHED) of linux/posix-timers.h
    cause, used, windows, used_before = EXITED, 0.0, 1, 0.0
    while True:
        left = min(job.cpu_seconds - used, start + windows * job.wall_seconds - time.monotonic())
        events = dict(poll.poll(max(1, math.ceil(left * 1000))))
        if pidfd in events:
            break
        used = time.clock_gettime(clock)
        if events:
            cause = ABANDONED
        elif used >= job.cpu_seconds:
            cause = CPU_SPENT
        elif time.monotonic() < start + windows * job.wall_seconds:
            continue
        elif used - used_before >= _IDLE_SHARE * job.wall_seconds and windows < MAX_WALL_WINDOWS:
            windows, used_before = windows + 1, used
            continue
        else:
            cause = WALL_SPENT
        os.kill(pid, signal.SIGKILL)
        break
    _, status, usage = os.wait4(pid, 0)
    os.close(pidfd)
    cpu = usage.ru_utime + usage.ru_stime
    return Ended(cause, status, cpu, time.monotonic() - start, usage.ru_maxrss * 1024)
