"""How good a generator is: one set of figures, always taken together, on held-out problems at temperature 1."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from o1coder_jax import tcg
from o1coder_jax.problems.curriculum import SOURCE, random_cases
from o1coder_jax.records import Problem, TestCase
from sandbox.pool import Submission
from train.programs import sample_programs
from train.session import Session, policy_name
from train.tcg.answers import Answers, completed, generated, short_enough, valid_cases

FIGURES = (
    "validity",
    "output_accuracy",
    "given_too_long",
    "malformed",
    "input_characters",
    "distinct",
    "trivial",
    "kill_rate",
)
REPORTED = (
    *(f"{name}_{phase}" for phase in ("sft", "dpo") for name in FIGURES),
    "kill_rate",
    "kill_rate_random",
    "wrong_programs",
)
"""What a run's summary says of its generator."""

REPORTED_AGAIN = (
    "kept",
    *(f"{name}{when}" for when in ("_before", "") for name in FIGURES),
    "kill_rate_random",
    "wrong_programs",
)
"""What it says of one that has learned anew in a round."""


@dataclass(frozen=True)
class Share:
    """So many of so many, by problem."""

    counts: list[int]
    of: list[int]

    @classmethod
    def valid(cls, answers: Sequence[Answers], valid: Sequence[Sequence[bool | None]]) -> Share:
        """Of the pieces of answers, unreadable ones included, those that are valid; unchecked ones are left out."""
        return cls(
            [sum(v is True for v in own) for own in valid],
            [sum(v is not None for v in own) + a.malformed for own, a in zip(valid, answers, strict=True)],
        )

    @property
    def rate(self) -> float | None:
        """All of all."""
        return sum(self.counts) / sum(self.of) if sum(self.of) else None

    def marks(self) -> list[float]:
        """A mark for each problem, so that their mean is `rate`: counts over the mean number that they are of."""
        mean = sum(self.of) / max(len(self.of), 1)
        return [count / mean for count in self.counts] if mean else []


@dataclass(frozen=True)
class Field:
    """What a generator is measured against: judged problems, wrong programs for each, and random tests of each.

    `tokens` were generated for the programs.
    """

    problems: list[Problem]
    wrong: list[list[str]]
    random_suites: list[list[TestCase]]
    tokens: int = 0

    @classmethod
    def of(cls, session: Session, policy: str = "") -> Field:
        """That of a policy's wrong programs; the base's, if none is named."""
        config = session.config
        problems = session.parts.heldout[: config.tcg.judged_problems]
        rng = random.Random(f"{config.seed} random tests")
        suites = [random_suite(problem, config.tcg.suite, rng) for problem in problems]
        wrong, tokens = wrong_programs(session, problems, policy)
        return cls(problems, wrong, suites, tokens)

    def killed(self, session: Session, suites: Sequence[Sequence[TestCase]]) -> Share:
        """Of the wrong programs, those that these tests reject."""
        verdicts = kills(session, self.problems, self.wrong, suites)
        return Share(
            [sum(v is True for v in own) for own in verdicts], [sum(v is not None for v in own) for own in verdicts]
        )


def random_suite(problem: Problem, count: int, rng: random.Random) -> list[TestCase]:
    """Random inputs with true outputs: drawn as the curriculum draws them, or else from the problem's own tests."""
    if problem.source == SOURCE:
        return random_cases(problem, count, rng)
    return rng.sample(problem.tests, min(count, len(problem.tests)))


def wrong_programs(session: Session, problems: Sequence[Problem], policy: str = "") -> tuple[list[list[str]], int]:
    """Different programs of a policy (the base's) that fail the hidden tests, for each problem; and their tokens."""
    writer = session.load_policy(policy or policy_name(0))
    drawn = sample_programs(session, writer, problems, samples=session.config.tcg.wrong_samples, salt=7)
    codes = [sorted({one.code for one in of if one.code is not None}) for of in drawn]
    flat = [(problem, code) for problem, own in zip(problems, codes, strict=True) for code in own]
    verdicts = iter(session.judge_all(flat, hidden=True))
    wrong = [
        [code for code, v in [(code, next(verdicts)) for code in own] if v is not None and v.checked and not v.accepted]
        for own in codes
    ]
    return wrong, sum(len(one.sample.tokens) for of in drawn for one in of)


def kills(
    session: Session, problems: Sequence[Problem], wrong: Sequence[Sequence[str]], suites: Sequence[Sequence[TestCase]]
) -> list[list[bool | None]]:
    """Whether a problem's tests reject each of its wrong programs, None where that could not be checked.

    A problem without tests rejects none.
    """
    submissions = [
        Submission(f"kill:{problem.id}", code, tuple(suite), problem.fn_name, problem.compare, stop_at_failure=True)
        if suite
        else None
        for problem, codes, suite in zip(problems, wrong, suites, strict=True)
        for code in codes
    ]
    verdicts = iter(session.judging.submit_all(submissions).result())
    out: list[list[bool | None]] = []
    for codes in wrong:
        own = [next(verdicts) for _ in codes]
        out.append([False if v is None else not v.accepted if v.checked else None for v in own])
    return out


def valid_suite(answers: Answers, valid: Sequence[bool | None], count: int) -> list[TestCase]:
    """The valid ones among the first `count` different tests."""
    fine = {id(case) for case, good in zip(answers.cases, valid, strict=True) if good}
    return [case for case in tcg.distinct(answers.cases)[:count] if id(case) in fine]


def figures_of(
    problems: Sequence[Problem], answers: Sequence[Answers], valid: Sequence[Sequence[bool | None]]
) -> dict[str, float | None]:
    """Figures that need no program but the reference.

    Returns:
      `validity`: share of all pieces, unreadable ones included, that are cases which the reference passes; those that
      could not be checked are left out; `malformed`: share of unreadable pieces; `input_characters`: mean length of an
      input's text; `distinct`: share of different inputs among a problem's cases; `trivial`: share of inputs without
      two different elements.
    """
    inputs = [(p, case.input) for p, a in zip(problems, answers, strict=True) for case in a.cases]
    malformed = sum(a.malformed for a in answers)
    different = sum(len(tcg.distinct(a.cases)) for a in answers)
    return {
        "validity": Share.valid(answers, valid).rate,
        "malformed": _share(malformed, len(inputs) + malformed),
        "input_characters": _share(sum(len(_text(one)) for _, one in inputs), len(inputs)),
        "distinct": _share(different, len(inputs)),
        "trivial": _share(sum(tcg.trivial(one, p.form) for p, one in inputs), len(inputs)),
    }


def _share(count: float, of: int) -> float | None:
    return count / of if of else None


def _text(case_input: Any) -> str:
    return case_input.rstrip("\n") if isinstance(case_input, str) else json.dumps(case_input)


def output_accuracy(session: Session, weights: Any, problems: Sequence[Problem]) -> tuple[dict[str, float | None], int]:
    """How well the generator computes outputs of given inputs, which are drawn from the problems' own tests.

    Returns:
      `output_accuracy`: share of given inputs for which it writes the right output; `given_too_long`: share of the own
      tests that are never drawn, since an answer has no room for them (problems from files have inputs of any length);
      and the tokens that were generated.
    """
    rng = random.Random(f"{session.config.seed} given inputs")
    asked, inputs, left_out = [], [], 0
    for problem in problems:
        short = [case for case in problem.tests if short_enough(session, problem, case)]
        left_out += len(problem.tests) - len(short)
        for case in rng.sample(short, min(session.config.tcg.given_inputs, len(short))):
            asked.append(problem)
            inputs.append(case.input)
    too_long = _share(left_out, sum(len(problem.tests) for problem in problems))
    if not asked:
        return {"output_accuracy": None, "given_too_long": too_long}, 0
    cases, tokens = completed(session, weights, asked, inputs, salt=10)
    answers = [Answers([case] if case else [], case is None) for case in cases]
    accuracy = Share.valid(answers, valid_cases(session, asked, answers)).rate
    return {"output_accuracy": accuracy, "given_too_long": too_long}, tokens


@dataclass(frozen=True)
class Measured:
    """What a generator came to: its figures, the shares behind two of them by problem, and the tokens it wrote."""

    figures: dict[str, float | None]
    validity: Share
    killed: Share
    tokens: int


def measure(session: Session, weights: Any, field: Field) -> Measured:
    """All figures of one generator: those of `figures_of` and `output_accuracy`, and `kill_rate`."""
    config = session.config.tcg
    answers, tokens = generated(session, weights, field.problems, answers=config.answers, salt=6)
    valid = valid_cases(session, field.problems, answers)
    figures = figures_of(field.problems, answers, valid)
    computed, more = output_accuracy(session, weights, field.problems)
    figures |= computed
    killed = field.killed(session, [valid_suite(a, fine, config.suite) for a, fine in zip(answers, valid, strict=True)])
    figures["kill_rate"] = killed.rate
    return Measured(figures, Share.valid(answers, valid), killed, tokens + more)
