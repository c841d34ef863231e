"""A method of search at several budgets, as a cell: the run's own search settings, on its held-out problems."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Sequence
from typing import Any

from o1coder_jax.records import Problem
from search.comparison import answer, most_rollouts
from search.models import load_rater
from search.tree import Tree
from search.waves import Search
from train.ablate.points import Point
from train.evaluate import solved
from train.fared import UNKNOWN
from train.session import Session


def search(
    session: Session,
    *,
    policy: str,
    rater: str | None,
    rollouts: Sequence[int],
    count: int,
    equal: Sequence[dict[str, Any]],
) -> list[Point]:
    """One point for each number of rollouts.

    Args:
      rater: checkpoint of a process reward model, for methods that ask one.
      equal: outcomes of the reference method, budget by budget; each problem gets the tokens that it took there. Empty:
        this is the reference.
    """
    problems = session.parts.heldout[:count]
    points = []
    for index, budget in enumerate(rollouts):
        name = f"search-{budget}"
        if session.run.stage(name) is None:
            tokens = [max(one, 1) for one in equal[index]["tokens"]] if equal else None
            with session.run.stage_scope(name) as stage:
                began = time.monotonic()
                trees = _trees(session, problems, policy, rater, budget, tokens)
                seconds = time.monotonic() - began
                stage.result |= {"outcomes": _outcomes(session, trees), "search_seconds": seconds}
                session.judging.costs()
            session.release()
        result = session.require(name, "train.ablate")
        found = result["outcomes"]
        costs = {kind: sum(found[kind]) / len(problems) for kind in ("tokens", "executions")}
        seconds = result["search_seconds"]
        points.append(Point(f"{budget} rollouts", {**costs, "updates": 0, "seconds": seconds}, outcomes=found))
    return points


def _trees(
    session: Session,
    problems: list[Problem],
    name: str,
    rater: str | None,
    rollouts: int,
    tokens: list[int] | None,
) -> list[Tree]:
    settings = session.config.search
    policy, reward_model = session.load_policy(name), None
    if rater:
        policy, reward_model = load_rater(session.run.checkpoint(rater), policy, session.mesh)
    searching = Search(
        policy,
        problems,
        session.judging.judge,
        dataclasses.replace(settings, rollouts=rollouts if tokens is None else most_rollouts(settings, rollouts)),
        session.mesh,
        seed=session.config.seed,
        iteration=0,
        reward_model=reward_model,
        tree_tokens=tokens,
    )
    return sorted(searching, key=lambda tree: tree.number)


def _outcomes(session: Session, trees: Sequence[Tree]) -> dict[str, Any]:
    """What the method made of each problem; `passed`: the program that it hands in passes the hidden tests."""
    verdicts = session.judge_all([(tree.problem, answer(tree)) for tree in trees], hidden=True)
    signs = [solved(verdict) for verdict in verdicts]
    return {
        "solved": "".join(str(int(tree.solved)) for tree in trees),
        "passed": "".join(UNKNOWN if sign is None else str(int(sign)) for sign in signs),
        "tokens": [tree.tokens for tree in trees],
        "executions": [tree.executions for tree in trees],
    }
