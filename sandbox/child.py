"""A child process for a run of a program: made, confined, watched and ended here.

Standard library only, and little of it (`dataclasses` brings much along): what a zygote holds, every fork pays for.
"""

from __future__ import annotations

import fcntl
import math
import os
import resource
import select
import signal
import time
from collections.abc import Callable
from typing import NamedTuple

from sandbox import confine, program

# Why a child ended; `ABANDONED`: the worker was gone before it did; `STOPPED`: it was no longer needed.
EXITED, CPU_SPENT, WALL_SPENT, ABANDONED, STOPPED = "exited", "cpu", "wall", "abandoned", "stopped"

REPORT_FD, JOB_FD, READING_FD, WRITING_FD = 3, 4, 5, 6
MAX_FDS = 256
_FIRST_HIGH_FD = 16
# A sleeper is told from a starved program by the CPU time that it used in a window of wall time: this share of its CPU
# limit, or of the window where that is shorter.
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
    """The descriptors that a child gets: as 0, 1, `REPORT_FD`, and, if given, `JOB_FD`, `READING_FD`, `WRITING_FD`.

    No other is open, but 2. The last two are ends of pipes; with them all have to be high (`move_high`).
    """

    stdin: int
    stdout: int
    report: int
    job: int | None = None
    pipes: tuple[int, int] | None = None


def memory_file(name: str, data: bytes = b"") -> int:
    """A new file in memory, read from its start."""
    fd = os.memfd_create(name, os.MFD_CLOEXEC)
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]
    if data:
        os.lseek(fd, 0, os.SEEK_SET)
    return fd


def move_high(fd: int) -> int:
    """Out of the way of the descriptors that a child puts in order."""
    high = fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, _FIRST_HIGH_FD)
    os.close(fd)
    return high


def cpu_clock(pid: int) -> int:
    """The clock of a process's CPU time."""
    return (~pid << 3) | 2  # MAKE_PROCESS_CPUCLOCK(pid, CPUCLOCK_SCHED) of linux/posix-timers.h


def least_cpu_seconds(job: Job) -> float:
    """What a program that is not idle uses in a window of wall time, however busy the machine is."""
    return _IDLE_SHARE * min(job.cpu_seconds, job.wall_seconds)


def limit_memory(job: Job, base_bytes: int) -> None:
    """`base_bytes` is the address space of the process before it has done anything."""
    confine.lower_limit(resource.RLIMIT_AS, base_bytes + job.memory_bytes)


class Starter:
    """Runs the children of a job, one at a time.

    What can be is worked out before the first, and before each fork: while a child lives, each page that its parent
    touches is copied.
    """

    def __init__(self, job: Job, report_bytes: int, main: Callable[[], None], hangup: int | None = None):
        """`main` is what a child runs, and never returns; a child is ended when the other end of `hangup` is closed."""
        self._job, self._hangup = job, hangup
        self._become_child = _prepared(job, report_bytes, main)
        self._first_wait_ms = _milliseconds(min(job.cpu_seconds, job.wall_seconds))

    def run(self, files: Files) -> Ended:
        """Starts a child, waits for it, and ends it when it has used up its CPU time or its wall time."""
        poll, wait_ms, become_child = select.poll(), self._first_wait_ms, self._become_child
        if self._hangup is not None:
            poll.register(self._hangup, 0)
        start = time.monotonic()
        pid = os.fork()
        if pid == 0:
            become_child(*files)
        pidfd = os.pidfd_open(pid)
        poll.register(pidfd, select.POLLIN)
        events = poll.poll(wait_ms)
        cause = EXITED
        if pidfd not in dict(events):
            cause = ABANDONED if events else self._wait_on(pid, pidfd, poll, start)
            if cause != EXITED:
                os.kill(pid, signal.SIGKILL)
        _, status, usage = os.wait4(pid, 0)
        os.close(pidfd)
        cpu = usage.ru_utime + usage.ru_stime
        return Ended(cause, status, cpu, time.monotonic() - start, usage.ru_maxrss * 1024)

    def _wait_on(self, pid: int, pidfd: int, poll: select.poll, start: float) -> str:
        """Why a child that was not done at the first look has ended, or has to be.

        One that is short of CPU because the machine is busy gets further windows of wall time.
        """
        job, windows, used_before = self._job, 1, 0.0
        clock, least = cpu_clock(pid), least_cpu_seconds(job)
        while True:
            used = time.clock_gettime(clock)
            wall_left = start + windows * job.wall_seconds - time.monotonic()
            if used >= job.cpu_seconds:
                return CPU_SPENT
            if wall_left <= 0:
                if used - used_before < least or windows == MAX_WALL_WINDOWS:
                    return WALL_SPENT
                windows, used_before = windows + 1, used
                continue
            events = dict(poll.poll(_milliseconds(min(job.cpu_seconds - used, wall_left))))
            if events:
                return EXITED if pidfd in events else ABANDONED


def fork(job: Job, files: Files, report_bytes: int, main: Callable[[], None]) -> int:
    """Starts one child of a job, which limits itself and runs `main`; gives its process id."""
    become_child = _prepared(job, report_bytes, main)
    pid = os.fork()
    if pid == 0:
        become_child(*files)
    return pid


def _prepared(job: Job, report_bytes: int, main: Callable[[], None]) -> Callable[..., None]:
    """What a child does before `main`, given its `Files`: names are looked up here, not in each child."""
    parent, die_with_parent, getppid, leave = os.getpid(), confine.die_with_parent, os.getppid, os._exit
    dup2, closerange, setrlimit = os.dup2, os.closerange, resource.setrlimit
    file_size_limit, cpu_limit, failed = resource.RLIMIT_FSIZE, resource.RLIMIT_CPU, program.EXIT_FAILED
    file_size = confine.lowered(file_size_limit, report_bytes + 1)
    cpu = confine.lowered(cpu_limit, math.ceil(job.cpu_seconds) + 1)

    def become_child(
        stdin: int, stdout: int, report: int, job_fd: int | None = None, pipes: tuple[int, int] | None = None
    ) -> None:
        try:
            die_with_parent()
            if getppid() == parent:  # else it died before the line above
                dup2(stdin, 0)
                dup2(stdout, 1)
                dup2(report, REPORT_FD)
                if job_fd is not None:
                    dup2(job_fd, JOB_FD)
                first_unused = JOB_FD if job_fd is None else READING_FD
                if pipes is not None:
                    dup2(pipes[0], READING_FD)
                    dup2(pipes[1], WRITING_FD)
                    first_unused = WRITING_FD + 1
                closerange(first_unused, MAX_FDS)
                setrlimit(file_size_limit, file_size)
                setrlimit(cpu_limit, cpu)
                main()
        finally:
            leave(failed)

    return become_child


def _milliseconds(seconds: float) -> int:
    return max(1, math.ceil(seconds * 1000))
