"""Verdicts of tests that come again: what makes two tests the same, and a bounded memory of their results.

Two tests are the same when the program, its form and entry point (setup and comparison, too), the limits, the input and
the expected output are. In the assert form all of a submission's tests count: they run in one process, where a hostile
one can have the next accepted. Programs are compared as text, with CRLF and CR read as LF, as the compiler reads them,
and without white space at the end of the file. Nothing more is taken for the same: comments and blank lines move the
line numbers that details give, and a program can read its own names, constants and docstrings.
"""

from __future__ import annotations

import collections
import dataclasses
import hashlib

from o1coder_jax.records import TestResult, Verdict
from sandbox import channel
from sandbox.limits import Limits
from sandbox.submission import Submission

# Not the program's doing, or, for the wall clock's, perhaps not: a busy machine starves programs.
_FORGOTTEN = (Verdict.INFRA_ERROR, Verdict.IDLE_LIMIT)
_END_OF_FILE = " \t\f\n"  # what the compiler skips there


@dataclasses.dataclass(frozen=True, slots=True)
class Keys:
    """Digests that stand for a program (under its limits and with its comparison) and for each of its tests."""

    program: bytes
    tests: tuple[bytes, ...]


def keys(submission: Submission, limits: Limits) -> Keys:
    """The keys of a submission that `packed_work` has taken; `limits` unless it has its own."""
    bounds = dataclasses.astuple(submission.limits or limits)
    compare = sorted(submission.compare.items())
    setup = _normalised(submission.setup)
    asserts = tuple(map(_normalised, submission.asserts))  # one can tamper with what the next ones find
    about = (_normalised(submission.code), submission.fn_name, asserts, setup, compare, *bounds)
    program = hashlib.sha256(channel.pack(about))
    digests = []
    for test in submission.asserts or submission.tests:
        key = program.copy()
        key.update(channel.pack(_normalised(test) if isinstance(test, str) else (test.input, test.output)))
        digests.append(key.digest())
    return Keys(program.digest(), tuple(digests))


def _normalised(code: str) -> str:
    return code.replace("\r\n", "\n").replace("\r", "\n").rstrip(_END_OF_FILE)


class Cache:
    """Results by key; those asked for longest ago go first. Not safe for threads: its owner holds a lock.

    What was not the program's own doing is not kept: `infra_error`, and `idle_limit`, which the wall clock alone gives.
    """

    def __init__(self, entries: int):
        self._entries = entries
        self._known: collections.OrderedDict[bytes, TestResult] = collections.OrderedDict()

    def get(self, key: bytes) -> TestResult | None:
        known = self._known.get(key)
        if known is not None:
            self._known.move_to_end(key)
        return known

    def put(self, key: bytes, result: TestResult) -> None:
        if result.verdict in _FORGOTTEN or not self._entries:
            return
        self._known[key] = result
        self._known.move_to_end(key)
        if len(self._known) > self._entries:
            self._known.popitem(last=False)
