"""What is handed to the pool: a program, the tests to judge it by, and how both travel to a worker."""

from __future__ import annotations

import dataclasses
from typing import Any

from o1coder_jax.errors import UserError
from o1coder_jax.records import Form, Problem, TestCase
from sandbox import channel
from sandbox.compare import matcher
from sandbox.limits import Limits


@dataclasses.dataclass(frozen=True)
class Submission:
    """A program and the tests to judge it by.

    Attributes:
      fn_name: the entry point of the call form (a function, or a method of `class Solution`); None is the stdin form.
      compare: see `sandbox.compare`.
      asserts: the assert form, in place of `tests`: test programs, one a test, that call the program's functions.
      setup: code that comes before each of `asserts`, such as the helpers that they call.
      limits: in place of the pool's own.
      stop_at_failure: leave out the tests after the first that fails.
    """

    id: str
    code: str
    tests: tuple[TestCase, ...] = ()
    fn_name: str | None = None
    compare: dict[str, Any] = dataclasses.field(default_factory=dict)
    asserts: tuple[str, ...] = ()
    setup: str = ""
    limits: Limits | None = None
    stop_at_failure: bool = False

    @property
    def total(self) -> int:
        """The number of tests."""
        return len(self.tests) or len(self.asserts)


def submission_for(
    problem: Problem, code: str, *, hidden: bool = False, stop_at_failure: bool = False, id: str = ""
) -> Submission:
    """A program against a problem's own tests, or against its hidden ones."""
    tests = problem.hidden if hidden else problem.tests
    fn_name = problem.fn_name if problem.form is Form.CALL else None
    name = id or problem.id
    return Submission(name, code, tests, fn_name, compare=problem.compare, stop_at_failure=stop_at_failure)


def packed_work(submission: Submission, limits: Limits, *, keep_values: bool = False) -> bytes:
    """A submission as a packed `session.Work`; `UserError` when it cannot be judged."""
    what = f"submission {submission.id!r}"
    if not submission.tests and not submission.asserts:
        raise UserError(f"{what} has no tests, so nothing can be said of it; give at least one")
    if submission.tests and submission.asserts:
        raise UserError(f"{what} has both tests and asserts; give one of them")
    if submission.asserts and submission.compare.get("mode") == "checker":
        raise UserError(f"{what} has asserts, which check the program themselves; remove the checker")
    matcher(submission.compare, call_form=submission.fn_name is not None)
    return pack_work(
        what,
        submission.code,
        submission.fn_name,
        [test.input for test in submission.tests],
        [test.output for test in submission.tests],
        submission.limits or limits,
        asserts=list(submission.asserts) or None,
        setup=submission.setup,
        compare=submission.compare,
        stop=submission.stop_at_failure,
        keep_values=keep_values,
    )


def pack_work(
    what: str,
    code: str,
    fn_name: str | None,
    inputs: list[Any],
    expected: list[Any] | None,
    limits: Limits,
    *,
    asserts: list[str] | None = None,
    setup: str = "",
    compare: dict[str, Any] | None = None,
    stop: bool = False,
    keep_values: bool = False,
) -> bytes:
    """The fields of `session.Work`, checked and packed; `what` names it in a `UserError`."""
    if not isinstance(code, str):
        raise UserError(f"{what}: the code is {type(code).__name__}; give text")
    compare = compare or {}
    outputs = expected or []
    if compare.get("mode") == "checker":  # it may know what is right without being told
        outputs = [value for value in outputs if value is not None]
    if fn_name is None and not all(isinstance(value, str) for value in [*inputs, *outputs]):
        raise UserError(f"{what}: inputs and outputs of the stdin form are text; join lines, or give fn_name")
    if fn_name is not None and not all(isinstance(value, (list, tuple)) for value in inputs):
        raise UserError(f"{what}: an input of the call form is the list of arguments; put it into a list")
    if not all(isinstance(text, str) for text in [setup, *(asserts or ())]):
        raise UserError(f"{what}: asserts and setup are Python code; give text")
    bounds = (float(limits.cpu_seconds), float(limits.wall_seconds), limits.memory_bytes, limits.output_bytes)
    try:
        return channel.pack((code, fn_name, inputs, expected, asserts, setup, compare, *bounds, stop, keep_values))
    except ValueError:
        raise UserError(f"{what}: inputs or outputs are not JSON values; convert them") from None
