"""Rivals that learn from the base's teacher, not from what the policy found."""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator
from typing import Any

from o1coder_jax import losses
from o1coder_jax.errors import UserError
from o1coder_jax.records import Problem
from o1coder_jax.steps import path_code
from o1coder_jax.stored import Model
from train.bootstrap import lessons, teacher_of, teaching_parts
from train.data import Example, example, fitting, packed_batches
from train.evaluate import solved
from train.rivals.budget import Budget, optimizer_of
from train.run import Stage
from train.session import Session, policy_name, reporter
from train.step import Objective, Trainer, fit


def base_of(session: Session) -> Model:
    """The base, as the loop trains it."""
    return session.trainable(policy_name(0), session.config.policy.adapter, role="policy")


def fine_tuned(
    session: Session, stage: Stage, start: Model, weights: Any, examples: list[Example], *, updates: int, salt: int
) -> Any:
    """Weights after so many updates on examples, of the loop's shape of batches."""
    batch = session.config.sft.batch
    seed = session.config.seed + salt
    trainer = Trainer(
        start.graph,
        weights,
        Objective.of(losses.sft),
        optimizer_of(session),
        session.mesh,
        updates=updates,
        seed=seed,
    )
    own = session.own_slice(batch.rows)
    batches = packed_batches(examples, batch, seed=seed, name="sft", own=own)
    with stage.progress(updates, "updates") as bar:
        fit(trainer, batches, report=reporter(stage, bar), kept=session.kept(stage, f"updates-{salt}", examples))
    return trainer.weights


def continued(session: Session, stage: Stage, budget: Budget, name: str) -> None:
    """The bootstrap goes on with the teacher's answers to the training problems, for as many updates as the loop."""
    if session.config.policy.checkpoint:
        raise UserError("rivals.run: continued goes on with the bootstrap, and this run has none; leave it out")
    start = base_of(session)
    taught = lessons(session, teaching_parts(session).training, session.tokenizer)
    examples = fitting(taught, session.config.sft.batch.length)
    weights = fine_tuned(session, stage, start, start.weights, examples, updates=budget.updates, salt=0)
    session.save_model(name, weights, start)
    stage.result |= {"spent": {"tokens": 0, "updates": budget.updates}, "examples": len(examples)}


def filtered(session: Session, stage: Stage, budget: Budget, name: str) -> None:
    """SFT on the teacher's answers to self-play problems that pass the own tests, as many tokens as the loop drew."""
    if session.config.problems.source != "curriculum":
        raise UserError("rivals.run: filtered needs a teacher for the self-play problems; leave it out for a file")
    start, tokenizer = base_of(session), session.tokenizer
    answers: dict[str, dict[tuple[int, ...], str | None]] = {}
    tokens = 0
    for problem, text in _answers(session):
        ids = tuple(tokenizer.encode(text))
        if tokens + len(ids) > budget.tokens:
            break
        tokens += len(ids)
        answers.setdefault(problem.id, {})[ids] = path_code(text)
    pairs = [(name, ids, code) for name, drawn in answers.items() for ids, code in drawn.items()]
    verdicts = session.judge_all([(session.problem[name], code) for name, _, code in pairs])
    right: dict[str, list[tuple[int, ...]]] = {}
    for (problem_id, ids, _), verdict in zip(pairs, verdicts, strict=True):
        if solved(verdict):
            right.setdefault(problem_id, []).append(ids)
    chosen = {key: paths[: session.config.rivals.rejection.paths_per_problem] for key, paths in right.items()}
    problems = [session.problem[key] for key in chosen]
    examples = [
        example(prompt, ids)
        for prompt, paths in zip(session.prompts(problems), chosen.values(), strict=True)
        for ids in paths
    ]
    usable = fitting(examples, session.config.sft.batch.length)
    weights = start.weights
    if usable:
        weights = fine_tuned(session, stage, start, weights, usable, updates=budget.updates, salt=1)
    session.save_model(name, weights, start)
    stage.result |= {
        "spent": {"tokens": tokens, "updates": budget.updates if usable else 0},
        "examples": len(usable),
        "solved": len(right),
    }


def _answers(session: Session) -> Iterator[tuple[Problem, str]]:
    """The teacher's answers to the self-play problems, one to each, again and again."""
    teacher, rng = teacher_of(session), random.Random(f"{session.config.seed} filtered")
    for problem in itertools.cycle(session.parts.selfplay):
        yield problem, teacher.sample(problem, rng)
