"""The stdin form: a process that compiles a program once, then forks a child for each of its inputs.

It runs no line of the program itself; it has its code and inputs, never an expected output. Standard library only.
"""

from __future__ import annotations

import math
import os
import resource
import socket
import sys
import types
from collections.abc import Sequence
from typing import Any

from sandbox import channel, confine, program, source
from sandbox.channel import MAX_FDS as MAX_RESULTS
from sandbox.child import REPORT_FD, Ended, Files, Job, Starter, limit_memory, memory_file

_NOTE_BYTES = 1200
_MAX_WAITING_SECONDS = 0.1  # results of tests that take longer than this together do not wait for each other


class Runner:
    """Serves the worker's wishes about one program."""

    def __init__(self, end: socket.socket, job: Job, job_fd: int, child_filter: confine.SystemCallFilter | None):
        self._end, self._job, self._job_fd, self._filter = end, job, job_fd, child_filter

    def serve(self, base_bytes: int) -> None:
        """Compiles, says so, and runs what is asked for until told to end."""
        limit_memory(self._job, base_bytes)
        unlimited = resource.getrlimit(resource.RLIMIT_CPU)
        # Compilation runs no foreign code, so the kernel's signal at whole seconds is enough for it.
        resource.setrlimit(resource.RLIMIT_CPU, (math.ceil(self._job.cpu_seconds), unlimited[1]))
        try:
            code = source.compile_program(self._job.read_code(self._job_fd), self._job.memory_bytes)
            source.preload(code)
        except source.CompileFailure as failure:
            self._say("compiled", failure.verdict, str(failure))
            return
        except MemoryError:
            self._say("compiled", "memory_limit", "MemoryError while compiling")
            return
        resource.setrlimit(resource.RLIMIT_CPU, unlimited)
        self._say("compiled", "", "")
        self._serve_runs(code)

    def _serve_runs(self, code: types.CodeType) -> None:
        sys.argv = ["program.py"]
        namespace, run_script = program.fresh_module("__main__"), program.run_script
        install = self._filter.install if self._filter is not None else None

        def main() -> None:
            if install is not None:
                install()
            run_script(code, namespace, REPORT_FD)

        starter = Starter(self._job, self._job.output_bytes, main)
        while True:
            (kind, sequence, *rest), _ = channel.receive(self._end)
            if sequence != self._job.sequence or kind != "run":
                return
            self._run_tests(starter, *rest)

    def _run_tests(self, starter: Starter, first: int, stop: int) -> None:
        """Runs the tests from `first` to before `stop`, and says how they ended, several in a message."""
        rows: list[tuple[Any, ...]] = []
        outputs: list[int] = []
        waiting_seconds = 0.0
        for index in range(first, stop):
            ended, note, stdout = self._run(starter, index)
            rows.append((index, tuple(ended), note))
            outputs.append(stdout)
            waiting_seconds += ended.wall_seconds
            if len(rows) == MAX_RESULTS or index == stop - 1 or waiting_seconds > _MAX_WAITING_SECONDS:
                self._say("ran", rows, fds=outputs)
                for fd in outputs:
                    os.close(fd)
                rows, outputs, waiting_seconds = [], [], 0.0

    def _say(self, kind: str, *values: Any, fds: Sequence[int] = ()) -> None:
        channel.send(self._end, (kind, self._job.sequence, *values), fds)

    def _run(self, starter: Starter, index: int) -> tuple[Ended, bytes, int]:
        """How a test ended, its note, and the file that holds what it printed."""
        stdin = memory_file("stdin", self._job.read_input(self._job_fd, index))
        stdout, report = memory_file("stdout"), memory_file("report")

        ended = starter.run(Files(stdin, stdout, report))
        note = os.pread(report, _NOTE_BYTES, 0)
        os.close(stdin)
        os.close(report)
        return ended, note, stdout
