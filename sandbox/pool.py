"""The pool: hands programs to worker processes and their verdicts back.

    with Pool(SandboxConfig(workers=2)) as pool:
        [judgement] = pool.judge([Submission("a", code, tests)])

One thread of the caller's process talks to all workers; no foreign code and no comparison runs in that process.
"""

from __future__ import annotations

import concurrent.futures
import dataclasses
import os
import threading
from collections.abc import Callable, Hashable, Iterable, Sequence
from typing import Any, Literal

from o1coder_jax.errors import UserError
from o1coder_jax.records import Judgement, TestResult, Verdict
from sandbox import cache, selftest
from sandbox.crew import Answer, Task
from sandbox.known import Known, look_up, nothing_known, results_of
from sandbox.limits import Limits
from sandbox.runs import Gate, Run
from sandbox.submission import Submission, pack_work, packed_work, submission_for

__all__ = ["Outputs", "Pool", "SandboxConfig", "Submission", "submission_for"]

Outputs = list[tuple[TestResult, Any]]
Given = tuple[Judgement, list[list[Any] | None]]
"""A judgement, and for each of its tests what the program gave: a list of one, or None if it did not end by itself."""


@dataclasses.dataclass(frozen=True)
class SandboxConfig:
    """How programs are run.

    Attributes:
      workers: processes that judge at the same time; about one for each core.
      isolation: the tier (see docs/sandbox.md); `auto` takes the best one that passes its self-test, and never none.
      cpu_seconds, wall_seconds, memory_mb, output_mb: limits of a test (see `Limits`).
      cache_entries: results of tests kept for programs that come again, about 0.5 kB each; 0 keeps none.
      queue: programs that may wait for a worker; whoever submits more is made to wait.
    """

    workers: int = 2
    isolation: Literal["auto", "full", "reduced", "trusted"] = "auto"
    cpu_seconds: float = 2.0
    wall_seconds: float = 6.0
    memory_mb: int = 256
    output_mb: float = 4.0
    cache_entries: int = 200_000
    queue: int = 1024

    def __post_init__(self) -> None:
        for name, least in (("workers", 1), ("cache_entries", 0), ("queue", 1)):
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or value < least:
                raise UserError(f"sandbox.{name} is {value!r}; give a whole number of at least {least}")
        if self.isolation not in ("auto", "full", "reduced", "trusted"):
            raise UserError(f"sandbox.isolation is {self.isolation!r}; use auto, full, reduced or trusted")
        self.limits  # noqa: B018 - checks them

    @property
    def limits(self) -> Limits:
        return Limits(self.cpu_seconds, self.wall_seconds, self.memory_mb, self.output_mb)


class Pool:
    """Judges programs in isolated processes. Threads may share it; a forked process needs one of its own.

    A future can be cancelled until a worker has been given its program, which is then never run. After that `cancel`
    is False and the program runs to its end. Equal submissions share one run, which is dropped when all are cancelled.

    Attributes:
      isolation: the tier in force.
      layers: one line for each thing that stands between a program and the machine.
    """

    def __init__(self, config: SandboxConfig):
        """Starts the workers; `UserError` when the tier cannot be had, with what is missing and the mend."""
        self.config = config
        self._process = os.getpid()
        self._lock = threading.Lock()
        self._cache = cache.Cache(config.cache_entries)
        self._runs: dict[Hashable, Run] = {}
        self._gate = Gate(config.queue)
        self._executions = self._infra_errors = self._lookups = self._hits = 0
        self._crew, chosen = selftest.trusty_crew(config.isolation, config.workers)
        self.isolation: str = chosen.tier
        self.layers = chosen.describe()

    def __enter__(self) -> Pool:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """Ends all workers and what they run; what waits or is under way becomes `infra_error`.

        Who waits in `submit` gets a `UserError`. In a forked process this does nothing.
        """
        if os.getpid() != self._process:
            return
        self._gate.close()
        self._crew.close()

    def processes(self) -> list[int]:
        """Process ids of the workers."""
        return self._crew.processes()

    @property
    def executions(self) -> int:
        """Programs x tests that were really run since the start."""
        return self._executions

    @property
    def infra_errors(self) -> int:
        """Judgements that our own failures prevented."""
        return self._infra_errors

    def metrics(self) -> dict[str, float]:
        """Counts since the start.

        `executions` and `infra_errors` as above; of the cache, in tests, `cache_lookups`, `cache_hits` (answered
        without a run of their own) and `cache_hit_rate` (0 when nothing was looked up).
        """
        with self._lock:
            lookups, hits = self._lookups, self._hits
            counts = {"executions": self._executions, "infra_errors": self._infra_errors}
        rate = hits / lookups if lookups else 0.0
        return {**counts, "cache_lookups": lookups, "cache_hits": hits, "cache_hit_rate": rate}

    def submit(self, submission: Submission) -> concurrent.futures.Future[Judgement]:
        """Judges one program; the result comes in the background. `UserError` for what cannot be judged.

        Blocks while `config.queue` programs wait for a worker, except in a future's callback, which must not wait.
        """
        self._check_process()
        data = packed_work(submission, self.config.limits)
        future: concurrent.futures.Future[Judgement] = concurrent.futures.Future()
        if not self.config.cache_entries:
            self._run_alone(future, data, nothing_known(submission).judgement)
            return future
        keys = cache.keys(submission, self.config.limits)
        run = Run((submission.stop_at_failure, *keys.tests), [future])
        with self._lock:
            known = self._answer(submission, keys, run)
        if known is None:
            return future
        self._enter()
        with self._lock:
            known = self._answer(submission, keys, run)  # it may be known by now
            if known is not None:
                self._lookups += len(known.results)
                self._hits += len(known.results) - len(known.missing)
                self._runs[run.key] = run
        if known is None:
            self._gate.leave()
            return future
        found = known

        def judged(answer: Answer) -> Judgement:
            found.store(self._cache, keys, answer)
            return found.judgement(answer)

        if len(known.missing) < submission.total:
            data = packed_work(known.rest, self.config.limits)
        self._start(run, data, judged)
        return future

    def judge(self, submissions: Iterable[Submission]) -> list[Judgement]:
        """Judges programs and returns their judgements in order; takes no more of them than can wait for a worker."""
        futures = []
        try:
            for submission in submissions:
                futures.append(self.submit(submission))
            return [future.result() for future in futures]
        except BaseException:
            for future in futures:
                future.cancel()
            raise

    def submit_outputs(
        self, code: str, inputs: Sequence[Any], fn_name: str | None = None, limits: Limits | None = None
    ) -> concurrent.futures.Future[Outputs]:
        """Runs a program without judging it; see `outputs`. Blocks and is cancelled as `submit`."""
        self._check_process()
        if not inputs:
            raise UserError("no inputs to run the program on; give at least one")
        data = pack_work("outputs", code, fn_name, list(inputs), None, limits or self.config.limits)
        future: concurrent.futures.Future[Outputs] = concurrent.futures.Future()
        self._run_alone(future, data, lambda answer: _outputs(answer, len(inputs)))
        return future

    def outputs(
        self, code: str, inputs: Sequence[Any], fn_name: str | None = None, limits: Limits | None = None
    ) -> Outputs:
        """What a program prints or returns for each input; the value is None unless it ran to its end."""
        return self.submit_outputs(code, inputs, fn_name, limits).result()

    def submit_given(self, submission: Submission) -> concurrent.futures.Future[Given]:
        """Judges one program and gives what it gave, too. Nothing is cached; blocks and is cancelled as `submit`."""
        self._check_process()
        if submission.asserts:
            raise UserError(f"submission {submission.id!r} has asserts, which give nothing to look at; give tests")
        data = packed_work(submission, self.config.limits, keep_values=True)
        future: concurrent.futures.Future[Given] = concurrent.futures.Future()
        known = nothing_known(submission)

        def given(answer: Answer) -> Given:
            judgement = known.judgement(answer)
            values = answer[5] if judgement.compiled else []
            return judgement, values or [None] * len(judgement.tests)

        self._run_alone(future, data, given)
        return future

    def _check_process(self) -> None:
        if os.getpid() != self._process:
            raise UserError(f"this sandbox pool belongs to process {self._process}; open one in this process, too")

    def _enter(self) -> None:
        self._gate.enter(wait=not self._crew.own_thread)

    def _answer(self, submission: Submission, keys: cache.Keys, run: Run) -> Known | None:
        """Answers the run's future from memory, or has it wait for an equal submission; else says what is missing."""
        known, under_way = look_up(self._cache, keys, submission), self._runs.get(run.key)
        if known.missing and under_way is None:
            return known
        [future] = run.futures
        if not known.missing:
            future.set_result(known.judgement(None))
        elif under_way is not None:
            under_way.join(future)
            self._watch(under_way, future)
        self._lookups += len(known.results)
        self._hits += len(known.results)
        return None

    def _run_alone(self, future: concurrent.futures.Future[Any], data: bytes, settle: Callable[[Answer], Any]) -> None:
        """Has work done that no other submission shares."""
        self._enter()
        self._start(Run(object(), [future]), data, settle)

    def _start(self, run: Run, data: bytes, settle: Callable[[Answer], Any]) -> None:
        """Gives work to the crew; a place at the gate has been taken for it. `settle` is called under the lock."""

        def begin() -> bool:
            with self._lock:
                waited = run.waits
                wanted = run.start()
                if run.dropped:
                    self._forget(run)
            if waited:
                self._gate.leave()
            return wanted

        def finish(answer: Answer | Exception) -> None:
            if not begin():
                return
            with self._lock:
                self._forget(run)
                if not isinstance(answer, Exception):
                    self._executions += answer[6]
                    self._infra_errors += answer[0] == Verdict.INFRA_ERROR
                    outcome = settle(answer)
            for future in run.futures:
                if isinstance(answer, Exception):
                    future.set_exception(answer)
                else:
                    future.set_result(outcome)

        run.task = Task(data, finish, begin)
        self._watch(run, run.futures[0])
        try:
            self._crew.submit(run.task)
        except UserError as error:
            finish(error)
            raise

    def _forget(self, run: Run) -> None:
        if self._runs.get(run.key) is run:
            del self._runs[run.key]

    def _watch(self, run: Run, future: concurrent.futures.Future[Any]) -> None:
        """Has the work dropped, and its place given up, when the last of its futures is cancelled."""

        def done(future: concurrent.futures.Future[Any]) -> None:
            if not future.cancelled():
                return
            with self._lock:
                last = run.leave(future)
                if last:
                    self._forget(run)
            if last:
                if run.task is not None:
                    self._crew.discard(run.task)
                self._gate.leave()

        future.add_done_callback(done)


def _outputs(answer: Answer, count: int) -> Outputs:
    results, values = results_of(answer), answer[5]
    if not answer[1]:  # did not compile, or could not be run: one result stands for all
        results, values = results[:1] * count, [None] * count
    return list(zip(results, values, strict=True))
