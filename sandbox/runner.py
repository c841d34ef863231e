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
from typing import Any

from sandbox import channel, confine, program, source
from sandbox.child import REPORT_FD, Files, Job, Starter, limit_memory, memory_file, watch

_NOTE_BYTES = 1200


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
        namespace, child_filter = program.fresh_module("__main__"), self._filter

        def main() -> None:
            if child_filter is not None:
                child_filter.install()
            program.run_script(code, namespace, REPORT_FD)

        starter = Starter(self._job, self._job.output_bytes, main)
        while True:
            (kind, sequence, *rest), _ = channel.receive(self._end)
            if sequence != self._job.sequence or kind != "run":
                return
            first, stop = rest
            for index in range(first, stop):
                self._run(starter, index)

    def _say(self, kind: str, *values: Any, fds: tuple[int, ...] = ()) -> None:
        channel.send(self._end, (kind, self._job.sequence, *values), fds)

    def _run(self, starter: Starter, index: int) -> None:
        stdin = memory_file("stdin", self._job.read_input(self._job_fd, index))
        stdout, report = memory_file("stdout"), memory_file("report")

        ended = watch(starter.start(Files(stdin, stdout, report)), self._job)
        note = os.pread(report, _NOTE_BYTES, 0)
        self._say("ran", index, ended.row(), note, fds=(stdout,))
        for fd in (stdin, stdout, report):
            os.close(fd)
