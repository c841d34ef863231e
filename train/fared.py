"""How a policy's programs fared, problem by problem, small enough to be kept: comparisons then need no rerun."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float

from o1coder_jax.estimates import mean, pass_at_k
from o1coder_jax.policy import Policy
from o1coder_jax.records import Judgement, Problem
from train.evaluate import GREEDY, Marks, cure_rates, solved
from train.programs import Program, sample_programs
from train.session import Session

SAMPLED = 500  # salt of the first of the draws
UNKNOWN = "?"  # of a greedy answer that could not be checked


@dataclass(frozen=True)
class Counts:
    """Of one problem's samples: how many could be checked and passed, on the hidden and on the own tests."""

    hidden: int
    hidden_checked: int
    own: int
    own_checked: int


@dataclass(frozen=True)
class Fared:
    """How a policy fared.

    Attributes:
      greedy: one sign for each problem: 1, 0 or `UNKNOWN`, on the hidden tests.
      sampled: counts for each of the first so many problems.
      cure_rate: as of `evaluate.cure_rates`, of the greedy answers.
    """

    greedy: str
    sampled: tuple[Counts, ...]
    cure_rate: dict[str, dict[str, Any]]

    def to_json(self) -> dict[str, Any]:
        """JSON values; the counts as one list for each of their names."""
        names = Counts.__dataclass_fields__
        counts = {name: [getattr(one, name) for one in self.sampled] for name in names}
        return {"greedy": self.greedy, "sampled": counts, "cure_rate": self.cure_rate}

    @classmethod
    def from_json(cls, row: dict[str, Any]) -> Fared:
        counts = zip(*(row["sampled"][name] for name in Counts.__dataclass_fields__), strict=True)
        return cls(row["greedy"], tuple(Counts(*one) for one in counts), row["cure_rate"])

    def greedy_marks(self) -> Float[np.ndarray, " problems"]:
        """1 or 0 for each problem, NaN where it could not be checked."""
        return np.array([np.nan if sign == UNKNOWN else float(sign) for sign in self.greedy])

    def pass_marks(self, k: int) -> Float[np.ndarray, " sampled"]:
        """The estimate of pass@k for each sampled problem; NaN where fewer than k samples could be checked."""
        return np.array(
            [
                pass_at_k(one.hidden_checked, one.hidden, k) if one.hidden_checked >= k else np.nan
                for one in self.sampled
            ]
        )

    def marks(self, measure: str) -> Float[np.ndarray, " n"]:
        """Marks of a measure by problem: `greedy`, or `pass@K`."""
        return self.greedy_marks() if measure == "greedy" else self.pass_marks(int(measure.removeprefix("pass@")))

    def rate(self, measure: str) -> float | None:
        """The mean over the problems that could be checked."""
        marks = self.marks(measure)
        return mean(marks[~np.isnan(marks)].tolist())

    @property
    def gap(self) -> float | None:
        """Pass rate of the samples on the own tests minus that on the hidden ones."""
        own, hidden = sum(one.own_checked for one in self.sampled), sum(one.hidden_checked for one in self.sampled)
        if not own or not hidden:
            return None
        return sum(one.own for one in self.sampled) / own - sum(one.hidden for one in self.sampled) / hidden

    @property
    def cured(self) -> tuple[int, int]:
        """Misconceptions of which at least half of the problems that carry one are solved, and all there are."""
        rates = [one["rate"] for one in self.cure_rate.values()]  # None: no answer could be checked
        return sum(rate is not None and rate >= 0.5 for rate in rates), len(rates)


def fared(
    session: Session, policy: Policy, problems: Sequence[Problem], *, samples: int, sampled: int | None = None
) -> Fared:
    """Judges greedy answers to all problems, and `samples` answers to the first `sampled` of them (all when None).

    Samples are drawn `evaluate.samples` at a time, so that nothing new is compiled; a program that was drawn before is
    judged once.
    """
    greedy = sample_programs(session, policy, problems, samples=1, salt=GREEDY, temperature=0.0)
    signs = [one[0] for one in passed(session, problems, greedy, hidden=True)]
    few, width = problems[:sampled], session.config.evaluate.samples
    drawn: list[list[Program]] = [[] for _ in few]
    for wave, start in enumerate(range(0, samples if few else 0, width)):
        more = sample_programs(session, policy, few, samples=min(width, samples - start), salt=SAMPLED + wave)
        for programs, others in zip(drawn, more, strict=True):
            programs += others
    rows = [passed(session, few, drawn, hidden=hidden) for hidden in (True, False)]
    counts = tuple(Counts(*_count(hidden), *_count(own)) for hidden, own in zip(*rows, strict=True))
    cures = cure_rates(session, Marks(problems, greedy, [[sign] for sign in signs], []))
    return Fared("".join(UNKNOWN if sign is None else str(int(sign)) for sign in signs), counts, cures)


def passed(
    session: Session, problems: Sequence[Problem], programs: Sequence[Sequence[Program]], *, hidden: bool
) -> list[list[float | None]]:
    """1, 0 or None (could not be checked) for each program, in order; equal programs of a problem are judged once."""
    work = {
        (problem.id, one.code): problem
        for problem, drawn in zip(problems, programs, strict=True)
        for one in drawn
        if one.code is not None
    }
    verdicts = session.judge_all([(problem, code) for (_, code), problem in work.items()], hidden=hidden)
    known: dict[tuple[str, str | None], Judgement | None] = dict(zip(work, verdicts, strict=True))
    return [
        [solved(known.get((problem.id, one.code))) for one in drawn]
        for problem, drawn in zip(problems, programs, strict=True)
    ]


def _count(marks: Sequence[float | None]) -> tuple[int, int]:
    checked = [mark for mark in marks if mark is not None]
    return int(sum(checked)), len(checked)
