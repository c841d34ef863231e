"""What the generator writes, and what the sandbox says of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from o1coder_jax import tcg
from o1coder_jax.generate import Sample, generate
from o1coder_jax.records import Problem, TestCase, Verdict
from o1coder_jax.sampling import SamplingConfig
from o1coder_jax.steps import END, STEP_END
from sandbox.pool import Submission
from train.session import Session
from train.tcg.examples import prompt


@dataclass(frozen=True)
class Answers:
    """What the generator wrote for one problem: cases, repeated ones included, and pieces that are no case."""

    cases: list[TestCase]
    malformed: int


def sampled(
    session: Session, weights: Any, problems: Sequence[Problem], *, answers: int, salt: int
) -> list[list[Sample]]:
    """`answers` whole answers per problem, at temperature 1."""
    return session.generate(
        weights,
        [prompt(session, problem) for problem in problems],
        samples=answers,
        answer_tokens=session.config.tcg.answer_tokens,
        salt=salt,
        graph=session.generator.graph,
        vocabulary=session.generator.vocabulary,
    )


def read(session: Session, problem: Problem, samples: Sequence[Sample]) -> Answers:
    """The cases in some answers to a problem."""
    decode, template = session.generator.vocabulary.decode, session.config.tcg.written
    found = [tcg.parse_cases(decode(sample.tokens), problem.form, template) for sample in samples]
    return Answers([case for cases, _ in found for case in cases], sum(bad for _, bad in found))


def generated(
    session: Session, weights: Any, problems: Sequence[Problem], *, answers: int, salt: int
) -> tuple[list[Answers], int]:
    """Asks for `answers` answers per problem at temperature 1; returns them and the tokens they took."""
    samples = sampled(session, weights, problems, answers=answers, salt=salt)
    out = [read(session, problem, drawn) for problem, drawn in zip(problems, samples, strict=True)]
    return out, sum(len(sample.tokens) for drawn in samples for sample in drawn)


def short_enough(session: Session, problem: Problem, case: TestCase) -> bool:
    """Whether an answer has room for a case, its trace not counted.

    An input that is given stands in the prompt, whose memory grows with the square of its length.
    """
    config = session.config.tcg
    parts = list(tcg.answer_parts([case], problem.form, config.written))
    return len(tcg.encode_parts(session.generator.vocabulary, parts, split=config.split_values)) <= config.answer_tokens


def completed(
    session: Session, weights: Any, problems: Sequence[Problem], inputs: Sequence[Any], *, salt: int
) -> tuple[list[TestCase | None], int]:
    """The cases that the generator makes of given inputs, at temperature 1, one for each problem.

    Returns:
      A case for each, or None where it could not be read, and the tokens that were generated.
    """
    asked, config = session.generator, session.config.tcg
    openings = [
        tcg.opening_parts(one, problem.form, config.written) for problem, one in zip(problems, inputs, strict=True)
    ]
    encoded = [tcg.encode_parts(asked.vocabulary, parts, split=config.split_values) for parts in openings]
    samples = generate(
        asked.graph,
        weights,
        [prompt(session, problem) + ids for problem, ids in zip(problems, encoded, strict=True)],
        samples=1,
        stops=asked.vocabulary.stops((STEP_END, END)),
        rows=session.config.generation.rows,
        answer_tokens=config.answer_tokens,
        sampling=SamplingConfig(),
        mesh=session.mesh,
        seed=(session.config.seed, salt),
    )
    cases = []
    for problem, parts, (sample,) in zip(problems, openings, samples, strict=True):
        text = "".join(part for part, _ in parts) + asked.vocabulary.decode(sample.tokens)
        cases.append(tcg.parse_case(text.removesuffix(STEP_END).removesuffix(END), problem.form, config.written))
    return cases, sum(len(sample.tokens) for (sample,) in samples)


def valid_cases(session: Session, problems: Sequence[Problem], answers: Sequence[Answers]) -> list[list[bool | None]]:
    """Whether the reference program passes each generated case; None where that could not be checked."""
    submissions = [
        Submission(f"tcg:{problem.id}", problem.solutions[0], tuple(a.cases), problem.fn_name, problem.compare)
        for problem, a in zip(problems, answers, strict=True)
    ]
    judgements = session.judging.submit_all([one if one.tests else None for one in submissions]).result()
    out: list[list[bool | None]] = []
    for submission, judgement in zip(submissions, judgements, strict=True):
        verdicts = [result.verdict for result in judgement.tests] if judgement is not None else []
        if len(verdicts) != len(submission.tests):  # a judgement that failed as a whole has one result for all tests
            verdicts = verdicts[:1] * len(submission.tests)
        out.append([None if one is Verdict.INFRA_ERROR else one is Verdict.ACCEPTED for one in verdicts])
    return out


def true_cases(session: Session, problems: Sequence[Problem], inputs: Sequence[Sequence[Any]]) -> list[list[TestCase]]:
    """Inputs with the outputs of the reference program; those that it fails are left out."""
    work = [(problem.solutions[0], given, problem.fn_name) for problem, given in zip(problems, inputs, strict=True)]
    return [
        [TestCase(one, value) for one, (result, value) in zip(given, ran, strict=True) if result.verdict == "accepted"]
        for given, ran in zip(inputs, session.judging.outputs_all(work), strict=True)
    ]


def reward_tests(session: Session, weights: Any, problems: Sequence[Problem]) -> tuple[list[dict[str, Any]], int]:
    """Tests for RL: the generator's inputs with the outputs of the reference program.

    Returns:
      One row per problem (`problem_id`, `tests`, `malformed`), and the tokens that were generated.
    """
    config = session.config.tcg
    answers, tokens = generated(session, weights, problems, answers=config.answers, salt=8)
    given = [[case.input for case in tcg.distinct(a.cases)][: config.suite] for a in answers]
    return [
        {"problem_id": problem.id, "tests": [case.to_json() for case in cases], "malformed": a.malformed}
        for problem, a, cases in zip(problems, answers, true_cases(session, problems, given), strict=True)
    ], tokens
