"""The assert form: one child with the program and one with the tests, watched together.

Standard library only.
"""

from __future__ import annotations

import contextlib
import math
import os
import select
import signal
import socket
import time

from sandbox import channel, child, confine, link, program, serving, testing
from sandbox.caller import compile_reported
from sandbox.child import JOB_FD, READING_FD, REPORT_FD, WRITING_FD, Files, Job, memory_file, move_high

_REPORT_BYTES = 1 << 20
_LINE_BYTES = 4000  # room for a test's line
_FRAME_ROOM = 2
_GONE_MS = 100


def run_asserts(
    end: socket.socket,
    job: Job,
    job_fds: tuple[int, ...],
    indices: list[int],
    child_filter: confine.SystemCallFilter | None,
    base_bytes: int,
) -> bool:
    """Runs the tests of these indices in a pair of children and sends both reports; False when the worker is gone.

    The first of `job_fds` is the file of the program, the second that of the tests: setup in place of code, then the
    entry point's name, then the tests.
    """
    stdin, stdout = move_high(memory_file("stdin")), move_high(os.open(os.devnull, os.O_WRONLY))
    reports = [move_high(memory_file("report")) for _ in range(2)]
    (asked, asking), (answered, answering) = (tuple(map(move_high, os.pipe())) for _ in range(2))

    def confined() -> None:
        if child_filter is not None:
            child_filter.install()

    def serve() -> None:
        child.limit_memory(job, base_bytes)
        lines = program.Reporter(REPORT_FD, job.output_bytes)
        code = compile_reported(job, lines)
        if code is not None:
            confined()
            serving.run(code, job.read_name(JOB_FD), lines, link.Link(READING_FD, WRITING_FD))

    def test() -> None:
        child.limit_memory(job, base_bytes)
        lines = program.Reporter(REPORT_FD, job.output_bytes, _ClockOf(program_pid).nanoseconds)
        setup = compile_reported(job, lines, testing.FILE_NAME)
        if setup is not None:
            # A value may be written in more bytes than it has, and the arguments come back beside it.
            line = link.Link(READING_FD, WRITING_FD, _FRAME_ROOM * job.output_bytes)
            texts = {index: job.read_input(JOB_FD, index) for index in indices}
            setup_text = job.read_code(JOB_FD).decode("utf-8", "surrogatepass")
            tests = testing.Tests(line, lines, setup, setup_text, job.read_name(JOB_FD))
            tests.run_all(tests.compiled(texts, job.memory_bytes), confined)
        os._exit(0)

    files = Files(stdin, stdout, reports[0], job_fds[0], (asked, answering))
    program_pid = child.fork(job, files, _REPORT_BYTES, serve)
    files = Files(stdin, stdout, reports[1], job_fds[1], (answered, asking))
    tests_pid = child.fork(job, files, _REPORT_BYTES + _LINE_BYTES * len(indices), test)
    for fd in (asked, asking, answering):
        os.close(fd)  # so that each child sees the other's end
    ended = watch_pair(program_pid, tests_pid, job, end.fileno())
    alive = ended[0].cause != child.ABANDONED
    if alive:
        channel.send(end, ("asserted", job.sequence, tuple(ended[0]), tuple(ended[1])), reports)
    # Open until now, or what a program forged too early would fail to be written at a moment that chance decides.
    for fd in (answered, stdin, stdout, *reports):
        os.close(fd)
    return alive


class _ClockOf:
    """Another process's CPU time."""

    def __init__(self, pid: int):
        self._clock = child.cpu_clock(pid)
        self._last = 0

    def nanoseconds(self) -> int:
        """So far; stands still when the process is gone."""
        with contextlib.suppress(OSError):
            self._last = time.clock_gettime_ns(self._clock)
        return self._last


def watch_pair(program_pid: int, tests_pid: int, job: Job, hangup: int) -> tuple[child.Ended, child.Ended]:
    """Waits until the tests have ended, then ends the program; both when a limit is reached or the worker hangs up.

    Each has the CPU limit to itself. The wall clock is theirs together, with further windows while one computes.
    """
    start = time.monotonic()
    pids = (program_pid, tests_pid)
    pidfds = [os.pidfd_open(pid) for pid in pids]
    poll = select.poll()
    for fd in pidfds:
        poll.register(fd, select.POLLIN)
    poll.register(hangup, 0)
    causes = [child.EXITED, child.EXITED]
    running, windows, before = {0, 1}, 1, 0.0
    used, least = [0.0, 0.0], child.least_cpu_seconds(job)
    while True:
        deadline = start + windows * job.wall_seconds
        left = min([deadline - time.monotonic(), *(job.cpu_seconds - used[which] for which in running)])
        events = dict(poll.poll(max(1, math.ceil(left * 1000))))
        if pidfds[1] in events:
            causes[0] = child.STOPPED
        elif pidfds[0] in events:  # the tests may need it no more
            running.discard(0)
            poll.unregister(pidfds[0])
            continue
        elif events:
            causes = [child.ABANDONED, child.ABANDONED]
        else:
            for which in running:
                used[which] = time.clock_gettime(child.cpu_clock(pids[which]))
            spent = [which for which in running if used[which] >= job.cpu_seconds]
            if spent:
                causes = [child.CPU_SPENT if which in spent else child.STOPPED for which in (0, 1)]
            elif time.monotonic() < deadline:
                continue
            elif sum(used) - before >= least and windows < child.MAX_WALL_WINDOWS:
                windows, before = windows + 1, sum(used)
                continue
            else:
                causes = [child.WALL_SPENT, child.WALL_SPENT]
        break
    if causes[1] != child.EXITED:
        os.kill(program_pid, signal.SIGKILL)  # first, or it would end by itself when the tests do
    tests = _end(pids[1], pidfds[1], causes[1], start)
    if os.WIFEXITED(tests.status) and os.WEXITSTATUS(tests.status) == testing.EXIT_PROGRAM_GONE:
        poll = select.poll()
        poll.register(pidfds[0], select.POLLIN)
        if poll.poll(_GONE_MS):  # its pipes are closed a moment before it has ended
            causes[0] = child.EXITED
    return _end(pids[0], pidfds[0], causes[0], start), tests


def _end(pid: int, pidfd: int, cause: str, start: float) -> child.Ended:
    """Ends a child, if it has not ended, and collects it."""
    os.kill(pid, signal.SIGKILL)
    _, status, usage = os.wait4(pid, 0)
    os.close(pidfd)
    if cause == child.STOPPED and not (os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL):
        cause = child.EXITED  # by itself, before we came
    cpu = usage.ru_utime + usage.ru_stime
    return child.Ended(cause, status, cpu, time.monotonic() - start, usage.ru_maxrss * 1024)
