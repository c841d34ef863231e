"""The assert form, as the worker reads it: what the reports of the program's and of the tests' process say together."""

from __future__ import annotations

import json
import os

from sandbox import child, program, testing
from sandbox.batch import ACCEPTED, FAILED, TIME, WRONG, Batch, Line, Row, broken, ended_row, how_it_ended

# Of the lines that only the tests' process writes.
VERDICTS = {
    testing.PASSED: ACCEPTED,
    testing.ASSERTION: WRONG,
    testing.TEST_ERROR: WRONG,
    testing.RAISED: FAILED,
    testing.UNREADABLE: FAILED,
    testing.NOT_COMPILED: FAILED,
}


def batch(ended: list[child.Ended], reports: list[list[Line]]) -> Batch:
    """The report of a pair. The program comes first in both: its lines are about loading, the others are the tests'."""
    loading, lines = reports
    report = loading[:2]
    if lines and lines[0].kind == program.NOT_COMPILED:
        detail = f"the setup cannot be run: {broken(lines[0])[1]}"
        # The tests may have ended before the program was compiled.
        report = [
            *(report[:1] or [Line(program.COMPILED, 0.0, b'""')]),
            Line(program.EXCEPTION, 0.0, json.dumps(detail).encode()),
        ]
    return Batch(ended[0], [*report, *lines[2:]], _unfinished(*ended))


def _unfinished(ended: child.Ended, tests_ended: child.Ended) -> Row:
    """The verdict on a test without a line: the program's end when that is the cause, else that of the test."""
    status = tests_ended.status
    gone = os.WIFEXITED(status) and os.WEXITSTATUS(status) == testing.EXIT_PROGRAM_GONE
    by_itself = ended.cause != child.STOPPED
    if by_itself and (gone or ended.cause != child.EXITED):
        return ended_row(ended)
    used = (ended.cpu_seconds, ended.wall_seconds, ended.memory_bytes)
    if gone:
        return FAILED, *used, "the program closed its line to the tests"
    verdict, detail = how_it_ended(tests_ended)
    if verdict == TIME:
        return TIME, *used, f"the test: {detail}"
    return WRONG, *used, f"the test ended before its end: {detail or 'exit status 0'}"
