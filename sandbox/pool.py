"""The pool: hands programs to worker processes and their verdicts back.

    with Pool(SandboxConfig(workers=2)) as pool:
        [judgement] = pool.judge([Submission("a", code, tests)])

One thread of the caller's process talks to all workers; no foreign code and no comparison runs in that process.
"""

from __future__ import annotations

import concurrent.futures
import dataclasses
import hashlib
import os
from collections.abc import Iterable, Sequence
from typing import Any, Literal

from o1coder_jax.errors import UserError
from o1coder_jax.records import Form, Judgement, Problem, TestCase, TestResult, Verdict
from sandbox import channel, selftest
from sandbox.cache import Cache
from sandbox.compare import matcher
from sandbox.crew import Task
from sandbox.limits import Limits

Outputs = list[tuple[TestResult, Any]]


@dataclasses.dataclass(frozen=True)
class SandboxConfig:
    """How programs are run.

    Attributes:
      workers: processes that judge at the same time; about one for each core.
      isolation: the tier (see docs/sandbox.md); `auto` takes the best one that passes its self-test, and never none.
      cpu_seconds, wall_seconds, memory_mb, output_mb: limits of a test (see `Limits`).
      cache_entries: verdicts kept for programs that come again; 0 keeps none.
    """

    workers: int = 2
    isolation: Literal["auto", "full", "reduced", "trusted"] = "auto"
    cpu_seconds: float = 2.0
    wall_seconds: float = 6.0
    memory_mb: int = 256
    output_mb: float = 4.0
    cache_entries: int = 200_000

    def __post_init__(self) -> None:
        if not isinstance(self.workers, int) or self.workers < 1:
            raise UserError(f"sandbox.workers is {self.workers!r}; give a whole number of at least 1")
        if self.isolation not in ("auto", "full", "reduced", "trusted"):
            raise UserError(f"sandbox.isolation is {self.isolation!r}; use auto, full, reduced or trusted")
        if not isinstance(self.cache_entries, int) or self.cache_entries < 0:
            raise UserError(f"sandbox.cache_entries is {self.cache_entries!r}; give a whole number of at least 0")
        self.limits  # noqa: B018 - checks them

    @property
    def limits(self) -> Limits:
        return Limits(self.cpu_seconds, self.wall_seconds, self.memory_mb, self.output_mb)


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


class Pool:
    """Judges programs in isolated processes.

    Attributes:
      isolation: the tier in force.
      layers: one line for each thing that stands between a program and the machine.
      executions: programs x tests that were really run since the start; cache hits are none.
      infra_errors: judgements that our own failures prevented.
      cache_hits: submissions answered without running anything.
    """

    def __init__(self, config: SandboxConfig):
        """Starts the workers; `UserError` when the tier cannot be had, with what is missing and the mend."""
        self.config = config
        self.executions = 0
        self.infra_errors = 0
        self.cache_hits = 0
        self._cache = Cache(config.cache_entries)
        self._crew, chosen = selftest.trusty_crew(config.isolation, config.workers)
        self.isolation: str = chosen.tier
        self.layers = chosen.describe()

    def __enter__(self) -> Pool:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """Ends all workers and what they run; what is still under way becomes `infra_error`."""
        self._crew.close()

    def processes(self) -> list[int]:
        """Process ids of the workers."""
        return self._crew.processes()

    def submit(self, submission: Submission) -> concurrent.futures.Future[Judgement]:
        """Judges one program; the result comes in the background. `UserError` for what cannot be judged."""
        data = packed_work(submission, self.config.limits)
        # Without a cache no two submissions are the same.
        key = hashlib.sha256(data).digest() if self.config.cache_entries else os.urandom(32)
        future: concurrent.futures.Future[Judgement] = concurrent.futures.Future()
        if self._cache.answer(key, future):
            self.cache_hits += 1
            return future

        def finish(answer: tuple[Any, ...] | Exception) -> None:
            self._count(answer)
            total = submission.total
            self._cache.store(key, _judgement(answer, total) if isinstance(answer, tuple) else answer)

        self._cache.expect(key, future)
        self._crew.submit(Task(data, finish))
        return future

    def judge(self, submissions: Iterable[Submission]) -> list[Judgement]:
        """Judges programs and returns their judgements in order."""
        futures = [self.submit(submission) for submission in submissions]
        return [future.result() for future in futures]

    def submit_outputs(
        self, code: str, inputs: Sequence[Any], fn_name: str | None = None, limits: Limits | None = None
    ) -> concurrent.futures.Future[Outputs]:
        """Runs a program without judging it; see `outputs`."""
        if not inputs:
            raise UserError("no inputs to run the program on; give at least one")
        data = pack_work("outputs", code, fn_name, list(inputs), None, limits or self.config.limits)
        future: concurrent.futures.Future[Outputs] = concurrent.futures.Future()

        def finish(answer: tuple[Any, ...] | Exception) -> None:
            self._count(answer)
            if isinstance(answer, Exception):
                future.set_exception(answer)
            else:
                future.set_result(_outputs(answer, len(inputs)))

        self._crew.submit(Task(data, finish))
        return future

    def outputs(
        self, code: str, inputs: Sequence[Any], fn_name: str | None = None, limits: Limits | None = None
    ) -> Outputs:
        """What a program prints or returns for each input; the value is None unless it ran to its end."""
        return self.submit_outputs(code, inputs, fn_name, limits).result()

    def _count(self, answer: tuple[Any, ...] | Exception) -> None:
        if isinstance(answer, tuple):
            self.executions += answer[6]
            self.infra_errors += answer[0] == Verdict.INFRA_ERROR


def packed_work(submission: Submission, limits: Limits) -> bytes:
    """A submission as a packed `session.Work`; `UserError` when it cannot be judged."""
    what = f"submission {submission.id!r}"
    if not submission.tests and not submission.asserts:
        raise UserError(f"{what} has no tests, so nothing can be said of it; give at least one")
    if submission.tests and submission.asserts:
        raise UserError(f"{what} has both tests and asserts; give one of them")
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
) -> bytes:
    """The fields of `session.Work`, checked and packed; `what` names it in a `UserError`."""
    if not isinstance(code, str):
        raise UserError(f"{what}: the code is {type(code).__name__}; give text")
    if fn_name is None and not all(isinstance(value, str) for value in [*inputs, *(expected or ())]):
        raise UserError(f"{what}: inputs and outputs of the stdin form are text; join lines, or give fn_name")
    if fn_name is not None and not all(isinstance(value, (list, tuple)) for value in inputs):
        raise UserError(f"{what}: an input of the call form is the list of arguments; put it into a list")
    if not all(isinstance(text, str) for text in [setup, *(asserts or ())]):
        raise UserError(f"{what}: asserts and setup are Python code; give text")
    bounds = (float(limits.cpu_seconds), float(limits.wall_seconds), limits.memory_bytes, limits.output_bytes)
    try:
        return channel.pack((code, fn_name, inputs, expected, asserts, setup, compare or {}, *bounds, stop))
    except ValueError:
        raise UserError(f"{what}: inputs or outputs are not JSON values; convert them") from None


def _results(rows: list[tuple[Any, ...]]) -> tuple[TestResult, ...]:
    return tuple(TestResult(Verdict(row[0]), *row[1:]) for row in rows)


def _judgement(answer: tuple[Any, ...], total: int) -> Judgement:
    verdict, compiled, passed, _, rows, _, _ = answer
    return Judgement(Verdict(verdict), compiled, passed, total, _results(rows))


def _outputs(answer: tuple[Any, ...], count: int) -> Outputs:
    results, values = _results(answer[4]), answer[5]
    if not answer[1]:  # did not compile, or could not be run: one result stands for all
        results, values = results[:1] * count, [None] * count
    return list(zip(results, values, strict=True))
