"""The call form: one child that compiles a program and calls its function on many inputs.

Standard library only.
"""

from __future__ import annotations

import os
import socket
import types

from sandbox import channel, confine, program, source
from sandbox.child import ABANDONED, JOB_FD, REPORT_FD, Files, Job, Starter, limit_memory, memory_file

# A report holds the results of many tests, so it is given room for more than one of the largest.
REPORT_ROOM = 16


def compile_reported(job: Job, lines: program.Reporter, file_name: str = source.FILE_NAME) -> types.CodeType | None:
    """Compiles the job's code, imports what it uses and reports that; None, with a line that says why, if it fails."""
    try:
        code = source.compile_program(job.read_code(JOB_FD), job.memory_bytes, file_name)
        source.preload(code)
    except source.CompileFailure as failure:
        lines.text(program.NOT_COMPILED, program.LOADING, f"{failure.verdict} {failure}")
        return None
    except MemoryError:
        lines.text(program.NOT_COMPILED, program.LOADING, "memory_limit MemoryError while compiling")
        return None
    lines.text(program.COMPILED, program.LOADING, "")
    return code


def run_calls(
    end: socket.socket,
    job: Job,
    job_fd: int,
    indices: list[int],
    child_filter: confine.SystemCallFilter | None,
    base_bytes: int,
) -> bool:
    """Runs the tests of these indices in one child and sends its report; False when the worker is gone."""

    def main() -> None:
        limit_memory(job, base_bytes)
        lines = program.Reporter(REPORT_FD, job.output_bytes)
        code = compile_reported(job, lines)
        if code is None:
            return
        if child_filter is not None:
            child_filter.install()
        program.run_calls(code, job.read_name(JOB_FD), indices, lambda index: job.read_input(JOB_FD, index), lines)

    stdin, stdout, report = memory_file("stdin"), os.open(os.devnull, os.O_WRONLY), memory_file("report")
    starter = Starter(job, REPORT_ROOM * job.output_bytes, main, end.fileno())
    ended = starter.run(Files(stdin, stdout, report, job_fd))
    if ended.cause != ABANDONED:
        channel.send(end, ("called", job.sequence, tuple(ended)), (report,))
    for fd in (stdin, stdout, report):
        os.close(fd)
    return ended.cause != ABANDONED
