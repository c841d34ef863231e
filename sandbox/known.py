"""What is known of a submission before it is run, what has to be run, and the judgement that both give together."""

from __future__ import annotations

import dataclasses

from o1coder_jax.records import Judgement, TestResult, Verdict
from sandbox.cache import Cache, Keys
from sandbox.crew import Answer
from sandbox.submission import Submission


@dataclasses.dataclass(frozen=True)
class Known:
    """A submission and the results that are remembered for it.

    Attributes:
      results: by test, None for one that has to be run; those past a known failure are left out where it stops.
      failure: what is known of a program that does not compile, which is then all there is to say.
    """

    submission: Submission
    results: tuple[TestResult | None, ...]
    failure: TestResult | None = None

    @property
    def missing(self) -> list[int]:
        """The tests that have to be run."""
        return [] if self.failure else [index for index, result in enumerate(self.results) if result is None]

    @property
    def rest(self) -> Submission:
        """The submission with the missing tests only."""
        missing, whole = self.missing, self.submission
        if whole.asserts:
            return dataclasses.replace(whole, asserts=tuple(whole.asserts[index] for index in missing))
        return dataclasses.replace(whole, tests=tuple(whole.tests[index] for index in missing))

    def judgement(self, answer: Answer | None) -> Judgement:
        """The whole judgement; `answer` is the worker's to `rest`, None when nothing was missing."""
        total = self.submission.total
        if self.failure is not None:
            return Judgement(self.failure.verdict, False, 0, total, (self.failure,))
        found = dict(enumerate(self.results))
        if answer is not None:
            if not answer[1]:
                return Judgement(Verdict(answer[0]), False, 0, total, results_of(answer))
            found.update(zip(self.missing, results_of(answer), strict=False))
        tests: list[TestResult] = []
        for index in range(len(self.results)):
            result = found[index]
            if result is None:  # the worker stopped at a failure before it
                break
            tests.append(result)
            if self.submission.stop_at_failure and result.verdict is not Verdict.ACCEPTED:
                break
        return Judgement(
            _verdict(tests), True, sum(test.verdict is Verdict.ACCEPTED for test in tests), total, tuple(tests)
        )

    def store(self, cache: Cache, keys: Keys, answer: Answer) -> None:
        """Keeps what a worker found out."""
        results = results_of(answer)
        if not answer[1]:
            cache.put(keys.program, results[0])
            return
        for index, result in zip(self.missing, results, strict=False):
            cache.put(keys.tests[index], result)


def _verdict(tests: list[TestResult]) -> Verdict:
    verdicts = [test.verdict for test in tests]
    if Verdict.INFRA_ERROR in verdicts:
        return Verdict.INFRA_ERROR
    return next((verdict for verdict in verdicts if verdict is not Verdict.ACCEPTED), Verdict.ACCEPTED)


def look_up(cache: Cache, keys: Keys, submission: Submission) -> Known:
    """What a cache knows of a submission."""
    failure = cache.get(keys.program)
    if failure is not None:
        return Known(submission, (None,) * submission.total, failure)
    results: list[TestResult | None] = []
    for key in keys.tests:
        result = cache.get(key)
        results.append(result)
        if result is not None and result.verdict is not Verdict.ACCEPTED and submission.stop_at_failure:
            break
    return Known(submission, tuple(results))


def nothing_known(submission: Submission) -> Known:
    """For a submission that is not looked up."""
    return Known(submission, (None,) * submission.total)


def results_of(answer: Answer) -> tuple[TestResult, ...]:
    """The results in a worker's answer."""
    return tuple(TestResult(Verdict(row[0]), *row[1:]) for row in answer[4])
