"""What the generator learns from: worked cases as examples, and pairs of right cases and shuffled ones."""

from __future__ import annotations

import random
from collections.abc import Sequence

import numpy as np

from o1coder_jax import tcg
from o1coder_jax.problems.curriculum import traces, worked_cases
from o1coder_jax.records import Problem, TestCase
from train.data import Example, HostBatch, example, padded_batch
from train.session import Session
from train.tcg.config import TCGConfig

Pair = tuple[Example, Example]
"""A preferred and a rejected answer to one prompt."""


def prompt(session: Session, problem: Problem, solution: str | None = None) -> list[int]:
    """What the generator is asked as token ids, the end kept when it is too long.

    Args:
      solution: the reference program that it reads, if it reads one; the problem's first when it is None.
    """
    asked, config = session.generator, session.config.tcg
    if solution is None and config.reference == "with":
        solution = problem.solutions[0]
    text = tcg.render_question(problem, solution or "")
    return asked.prompt.encode(asked.vocabulary, text, config.prompt_tokens, keep_end=True)[0]


def draws(problem: Problem, config: TCGConfig, rng: random.Random) -> list[list[TestCase]]:
    """Drawings of different test cases: from a problem's own tests, or short ones."""
    if config.inputs == "short":
        return [worked_cases(problem, config.cases, rng) for _ in range(config.examples_per_problem)]
    count = min(config.cases, len(problem.tests))
    return [rng.sample(problem.tests, count) for _ in range(config.examples_per_problem)] if count else []


def drawn_prompt(session: Session, problem: Problem, rng: random.Random) -> list[int]:
    """The same with one of the reference programs, drawn at random (arXiv 2412.00154, section 3.1)."""
    if session.config.tcg.reference == "with" and len(problem.solutions) > 1:
        return prompt(session, problem, rng.choice(problem.solutions))
    return prompt(session, problem)


def traces_of(problem: Problem, cases: Sequence[TestCase], config: TCGConfig) -> list[str] | None:
    """The cases' traces; None where none are written."""
    return traces(problem, [case.input for case in cases]) if config.trace == "clauses" else None


def answer_parts(
    problem: Problem, cases: Sequence[TestCase], config: TCGConfig, *, order: Sequence[int] | None = None
) -> list[tcg.Part]:
    """Pieces of the answer that consists of these cases.

    Args:
      order: whose output, and trace, each input gets; its own when it is None.
    """
    written = traces_of(problem, cases, config)
    if order is not None:
        written = [written[i] for i in order] if written is not None else None
        cases = [TestCase(case.input, cases[i].output) for case, i in zip(cases, order, strict=True)]
    return list(tcg.answer_parts(cases, problem.form, config.written, written))


def answer(
    session: Session, problem: Problem, cases: Sequence[TestCase], *, order: Sequence[int] | None = None
) -> list[int]:
    """The same as token ids."""
    config = session.config.tcg
    parts = answer_parts(problem, cases, config, order=order)
    return tcg.encode_parts(session.generator.vocabulary, parts, split=config.split_values)


def taught(session: Session, problem: Problem, asked: Sequence[int], cases: Sequence[TestCase]) -> Example:
    """The answer that consists of these cases as an example, its inputs with `tcg.input_weight`."""
    config = session.config.tcg
    if not config.split_values:  # a token may be of an input and of what follows it
        return example(asked, answer(session, problem, cases))
    encoded = list(tcg.encode_each(session.generator.vocabulary, answer_parts(problem, cases, config)))
    weight = [config.input_weight if field == "input" else 1.0 for tokens, field in encoded for _ in tokens]
    return example(asked, [token for tokens, _ in encoded for token in tokens], weight=weight)


def fitted(
    session: Session, problem: Problem, asked: Sequence[int], cases: Sequence[TestCase]
) -> tuple[list[TestCase], int]:
    """The cases without the longest ones, as many as it takes for the example to fit into a row and under the caps.

    Args:
      asked: the prompt.

    Returns:
      The cases that are left, in order, and how many were dropped; the problem itself stays as long as one is left.
    """
    config, left = session.config.tcg, list(cases)
    room = min(config.answer_tokens, config.batch.length - len(asked))
    while left and len(answer(session, problem, left)) > room:
        lengths = [len(answer(session, problem, [case])) for case in left]
        del left[lengths.index(max(lengths))]
    return left, len(cases) - len(left)


def sft_examples(session: Session, problems: Sequence[Problem], rng: random.Random) -> tuple[list[Example], int]:
    """Template examples: what is asked, then cases.

    Returns:
      The examples, and the number of tests that were too long for theirs.
    """
    examples, dropped = [], 0
    for problem in problems:
        for drawn in draws(problem, session.config.tcg, rng):
            asked = drawn_prompt(session, problem, rng)
            cases, lost = fitted(session, problem, asked, drawn)
            dropped += lost
            if cases:
                examples.append(taught(session, problem, asked, cases))
    return examples, dropped


def shuffled_pairs(session: Session, problems: Sequence[Problem], rng: random.Random) -> tuple[list[Pair], int]:
    """(matching, shuffled) answers.

    Returns:
      The pairs, and the number of drawings that gave none, since no order was found that changes every output.
    """
    pairs, skipped = [], 0
    for problem in problems:
        for drawn in draws(problem, session.config.tcg, rng):
            asked = drawn_prompt(session, problem, rng)
            cases, _ = fitted(session, problem, asked, drawn)
            if not cases:
                continue
            order = tcg.mismatching_order([case.output for case in cases], problem.form, rng)
            if order is None:
                skipped += 1
                continue
            right, wrong = (answer(session, problem, cases, order=one) for one in (None, order))
            pairs.append((example(asked, right), example(asked, wrong)))
    return pairs, skipped


def dpo_batch(pairs: Sequence[Pair], config: TCGConfig, length: int) -> HostBatch:
    """Chosen and rejected in neighbouring rows of `length` tokens; rows without a pair are padding."""
    rows = 2 * config.dpo_pairs
    batch = padded_batch([one for pair in pairs for one in pair], rows, length)
    valid = np.zeros(rows, np.float32)
    valid[: 2 * len(pairs)] = 1.0
    return batch | {"valid": valid}
