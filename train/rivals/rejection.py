"""Rejection-sampling SFT: the policy's own answers that pass the own tests, no search, no reward model, no RL.

Everything that makes it stronger and costs no further token is here: rounds, distinct answers, a cap for easy problems,
tokens for problems that lack answers, and the round that did best on validation, as for the loop.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

from o1coder_jax.estimates import mean
from o1coder_jax.policy import Policy
from o1coder_jax.records import Problem
from o1coder_jax.stored import Model
from train.data import Example, example, fitting
from train.evaluate import GREEDY
from train.fared import passed
from train.programs import Program, sample_programs
from train.rivals.budget import Budget
from train.rivals.teaching import base_of, fine_tuned
from train.run import Stage
from train.session import Session

SALT = 20_000  # of the draws
BATCHES = 4  # of `generation.rows` answers, drawn at a time
Answers = dict[str, dict[tuple[int, ...], int]]
"""For each problem its right answers as token ids, with the round that found them last."""


def rejection(session: Session, stage: Stage, budget: Budget, name: str, *, keep_right: bool = True) -> None:
    """Trains the rival and saves the policy of its best round under a name; those of its rounds are `NAME-rN`.

    Args:
      budget: `tokens` and `updates` are shared out evenly among the rounds.
      keep_right: False keeps as many distinct answers as pass, but drawn at random: the reward tells nothing.
    """
    config = session.config.rivals.rejection
    rounds, updates = config.rounds or budget.rounds, config.updates or budget.updates
    start = base_of(session)
    weights: Any = start.weights
    best, chosen, used, learned = -1.0, start.weights, 0, 0
    found: Answers = {}
    stage.result["rounds"] = []
    for number in range(1, rounds + 1):
        share = budget.tokens * number // rounds - used
        tokens = draw(session, start, weights, found, share, number=number, keep_right=keep_right)
        used += tokens
        examples = fitting(examples_of(session, found, salt=number), session.config.sft.batch.length)
        if examples:
            share = updates * number // rounds - updates * (number - 1) // rounds
            before = start.weights if config.from_base else weights
            weights = fine_tuned(session, stage, start, before, examples, updates=share, salt=10 + number)
            learned += share
        validation = greedy_rate(session, start, weights, session.parts.validation)
        stage.log(number, tokens=tokens, solved=len(found), validation_greedy=validation)
        session.save_model(f"{name}-r{number}", weights, start)
        stage.result["rounds"].append({"checkpoint": f"{name}-r{number}", "tokens": used, "updates": learned})
        if validation >= best:
            best, chosen = validation, weights
            stage.result["best_round"] = number
    session.save_model(name, chosen, start)
    stage.result |= {
        "spent": {"tokens": used, "updates": learned},
        "solved": len(found),
        "answers": sum(map(len, found.values())),
        "validation_greedy": best,
    }


def draw(
    session: Session, start: Model, weights: Any, found: Answers, tokens: int, *, number: int, keep_right: bool
) -> int:
    """Adds right answers to `found` until so many tokens are spent, to one pass of the problems after another.

    What no longer fits into the tokens is thrown away unseen. Returns the tokens that were spent.
    """
    config = session.config.rivals.rejection
    policy = Policy(*session.sampler(start.graph, weights), session.tokenizer, "")
    rng = random.Random(f"{session.config.seed} rejection {number}")
    each = max(BATCHES * session.config.generation.rows // config.samples, 1)
    used = calls = 0
    while True:
        for some in _parts(wanted(session, found, rng), each):
            salt = SALT + 1000 * number + calls
            programs = sample_programs(
                session, policy, some, samples=config.samples, salt=salt, temperature=config.temperature
            )
            calls += 1
            drawn, spent = affordable(some, programs, tokens - used)
            used += spent
            for problem_id, ids in right_answers(session, drawn, keep_right=keep_right, salt=salt):
                found.setdefault(problem_id, {})[ids] = number
            if len(drawn) < sum(map(len, programs)):
                return used


def affordable(
    problems: Sequence[Problem], programs: Sequence[Sequence[Program]], tokens: int
) -> tuple[list[tuple[Problem, Program]], int]:
    """The first answers that so many tokens pay for, and how many they take."""
    drawn: list[tuple[Problem, Program]] = []
    used = 0
    for problem, answers in zip(problems, programs, strict=True):
        for answer in answers:
            if used + len(answer.sample.tokens) > tokens:
                return drawn, used
            used += len(answer.sample.tokens)
            drawn.append((problem, answer))
    return drawn, used


def wanted(session: Session, found: Answers, rng: random.Random) -> list[Problem]:
    """The problems of a pass: those that lack right answers, or all when none does; few of them as often as a batch of
    rows has room for, since a batch takes as long however few rows are used."""
    config = session.config.rivals.rejection
    problems = list(session.parts.selfplay)
    if config.skip_solved:
        lacking = [problem for problem in problems if len(found.get(problem.id, ())) < config.paths_per_problem]
        problems = lacking or problems
    rng.shuffle(problems)
    return problems * max(session.config.generation.rows // (config.samples * len(problems)), 1)


def _parts(problems: list[Problem], each: int) -> list[list[Problem]]:
    return [problems[start : start + each] for start in range(0, len(problems), each)]


def right_answers(
    session: Session, drawn: Sequence[tuple[Problem, Program]], *, keep_right: bool, salt: int
) -> list[tuple[str, tuple[int, ...]]]:
    """Problem and token ids of the distinct answers that pass the own tests; or as many, drawn at random."""
    marks = passed(session, [problem for problem, _ in drawn], [[one] for _, one in drawn], hidden=False)
    distinct: dict[tuple[str, tuple[int, ...]], bool] = {}
    for (problem, one), [mark] in zip(drawn, marks, strict=True):
        if one.sample.ended:
            distinct[problem.id, one.sample.tokens] = mark == 1.0
    right = [key for key, fine in distinct.items() if fine]
    if keep_right:
        return right
    return random.Random(f"{session.config.seed} random {salt}").sample(list(distinct), len(right))


def examples_of(session: Session, found: Answers, *, salt: int) -> list[Example]:
    """At most `paths_per_problem` answers of each problem, the latest rounds' first, as training examples."""
    rng = random.Random(session.config.seed + salt)
    prompts = session.prompts([session.problem[name] for name in sorted(found)])
    examples = []
    for name, prompt in zip(sorted(found), prompts, strict=True):
        answers = list(found[name])
        rng.shuffle(answers)
        answers.sort(key=lambda ids: -found[name][ids])
        examples += [example(prompt, ids) for ids in answers[: session.config.rivals.rejection.paths_per_problem]]
    return examples


def greedy_rate(session: Session, start: Model, weights: Any, problems: Sequence[Problem]) -> float:
    """The share of problems whose greedy answer passes the hidden tests, of those that could be checked."""
    policy = Policy(*session.sampler(start.graph, weights), session.tokenizer, "")
    programs = sample_programs(session, policy, problems, samples=1, salt=GREEDY, temperature=0.0)
    return mean([mark for [mark] in passed(session, problems, programs, hidden=True) if mark is not None]) or 0.0
