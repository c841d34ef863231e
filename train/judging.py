"""The sandboxes of a run: each host has one, and judges its share of what all hosts ask together."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any, TypeVar

from o1coder_jax.hosts import gather
from o1coder_jax.records import Judgement, Problem
from sandbox.pool import Outputs, Pool, SandboxConfig, Submission, submission_for
from train.run import Hosts

T = TypeVar("T")
Work = tuple[str, Sequence[Any], str | None]
"""A program, its inputs, and the name of its function, if it has one."""


@dataclass(frozen=True)
class Pending:
    """Verdicts under way: those of this host's share, by their places among `count`."""

    futures: dict[int, Future[Judgement]]
    count: int

    def result(self) -> list[Judgement | None]:
        """The verdicts of all hosts, in the order in which they were asked for; every process must ask."""
        return shared({place: future.result() for place, future in self.futures.items()}, self.count)


class Judging:
    """What is judged in a run, and what it costs.

    Args:
      config: of each host's sandbox.
      hosts: who takes part.
      started: told of the sandbox when it starts.
    """

    def __init__(self, config: SandboxConfig, hosts: Hosts, started: Callable[[Pool], None]):
        self.config, self.hosts, self._started = config, hosts, started
        self._pool: Pool | None = None
        self._judged: list[Future[Judgement]] = []
        self._outputs = 0
        self._cache = (0, 0)  # hits and lookups that `costs` has told

    @property
    def pool(self) -> Pool:
        """This host's sandbox; started when it is first asked for."""
        if self._pool is None:
            self._pool = Pool(self.config)
            self._started(self._pool)
        return self._pool

    def close(self) -> None:
        if self._pool is not None:
            self._pool.close()

    def judge(self, problem: Problem, code: str) -> Future[Judgement]:
        """A future verdict of this host alone, on the problem's own tests."""
        return self._submit(submission_for(problem, code))

    def _submit(self, submission: Submission) -> Future[Judgement]:
        future = self.pool.submit(submission)
        self._judged.append(future)
        return future

    def submit_all(self, submissions: Sequence[Submission | None]) -> Pending:
        """Future verdicts on what every process asks alike; None stands for nothing to judge."""
        own = {i: one for i, one in enumerate(submissions) if one is not None and self._own(i)}
        return Pending({i: self._submit(one) for i, one in own.items()}, len(submissions))

    def outputs_all(self, work: Sequence[Work]) -> list[Outputs]:
        """What each program gives for each of its inputs; every process asks alike."""
        own = {i: one for i, one in enumerate(work) if one[1] and self._own(i)}
        self._outputs += sum(len(inputs) for _, inputs, _ in own.values())
        found = shared({i: self.pool.outputs(*one) for i, one in own.items()}, len(work))
        return [outputs or [] for outputs in found]

    def _own(self, place: int) -> bool:
        return place % self.hosts.processes == self.hosts.process

    def costs(self) -> dict[str, int]:
        """What was judged on all hosts since the last call: tests that programs met (`executions`), and failures.

        A verdict that the sandbox remembers counts like one that it had to find, so that a run which was killed, and
        whose sandbox forgot, comes to the same figures as one that was not. How many were remembered stands beside that
        (`cache_hits` of `cache_lookups`, in tests), and does depend on it. Every process must call this.
        """
        judgements = [future.result() for future in self._judged]
        executions = self._outputs + sum(len(judgement.tests) for judgement in judgements if judgement.checked)
        self._judged, self._outputs = [], 0
        told, self._cache = self._cache, self._cache_counts()
        own = {
            "executions": executions,
            "infra_errors": sum(not judgement.checked for judgement in judgements),
            "cache_hits": self._cache[0] - told[0],
            "cache_lookups": self._cache[1] - told[1],
        }
        return {name: sum(costs[name] for costs in gather(own)) for name in own}

    def _cache_counts(self) -> tuple[int, int]:
        if self._pool is None:
            return 0, 0
        metrics = self._pool.metrics()
        return int(metrics["cache_hits"]), int(metrics["cache_lookups"])


def shared(own: dict[int, T], count: int) -> list[T | None]:
    """What all processes have, by its places among `count`; None where none has any."""
    found: dict[int, T] = {}
    for part in gather(own):
        found |= part
    return [found.get(place) for place in range(count)]
