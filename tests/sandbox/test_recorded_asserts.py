"""Real problems in assert form: references are accepted, mutated ones are not, recorded verdicts are agreed with."""

from __future__ import annotations

import ast
import dataclasses
import json
import os
import warnings
from pathlib import Path
from typing import Any

import pytest

from o1coder_jax.records import read_jsonl
from sandbox.pool import Pool, Submission

pytestmark = pytest.mark.skipif("O1CODER_DATA" not in os.environ, reason="O1CODER_DATA is not set")


def rows(name: str) -> list[dict[str, Any]]:
    return list(read_jsonl(Path(os.environ["O1CODER_DATA"]) / name))


def humaneval() -> list[Submission]:
    return [
        Submission(
            row["task_id"],
            row["prompt"] + row["canonical_solution"],
            fn_name=row["entry_point"],
            asserts=(row["test"],),
            setup=row["prompt"],
        )
        for row in rows("humaneval/HumanEval_0-49.jsonl")
    ]


def mbpp() -> list[Submission]:
    return [
        Submission(f"{row['task_id']}", row["code"], asserts=tuple(row["test_list"]), setup=row["test_setup_code"])
        for row in rows("mbpp/mbpp_train.jsonl")
    ]


def sanitized() -> list[Submission]:
    text = (Path(os.environ["O1CODER_DATA"]) / "mbpp" / "sanitized_train.json").read_text()
    return [
        Submission(
            f"{row['task_id']}", row["code"], asserts=tuple(row["test_list"]), setup="\n".join(row["test_imports"])
        )
        for row in json.loads(text)
    ]


def mbpp_plus() -> list[Submission]:
    return [
        Submission(row["task_id"], row["canonical_solution"], fn_name=row["entry_point"], asserts=(row["assertion"],))
        for row in rows("evalplus/MbppPlus_train.jsonl")
    ]


SOURCES = {"humaneval": humaneval, "mbpp": mbpp, "sanitized": sanitized, "mbpp_plus": mbpp_plus}


class _ReturnsNone(ast.NodeTransformer):
    def visit_Return(self, node: ast.Return) -> ast.Return:
        return ast.Return(ast.Constant(None))


def mutated(submission: Submission) -> Submission:
    """Every `return` of the program gives None."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # real programs have invalid escapes
        tree = ast.fix_missing_locations(_ReturnsNone().visit(ast.parse(submission.code)))
    return dataclasses.replace(submission, code=ast.unparse(tree))


@pytest.mark.parametrize("source", SOURCES)
def test_references_are_accepted_and_mutated_ones_are_not(pool: Pool, source: str) -> None:
    submissions = SOURCES[source]()
    rejected = [s.id for s, found in zip(submissions, pool.judge(submissions), strict=True) if not found.accepted]
    assert rejected == []
    accepted = [
        s.id
        for s, found in zip(submissions, pool.judge(map(mutated, submissions)), strict=True)
        if found.passed == found.total
    ]
    assert accepted == []


def test_recorded_verdicts_are_agreed_with(pool: Pool) -> None:
    problems = {row["task_id"]: row for row in rows("humaneval/HumanEval_0-49.jsonl")}
    recorded = rows("verdicts/vectors_assert.jsonl")
    submissions = []
    for row in recorded:
        problem = problems["HumanEval/" + row["id"].rpartition("/")[2]]
        submissions.append(
            Submission(
                row["id"], row["code"], fn_name=problem["entry_point"], asserts=(row["test"],), setup=problem["prompt"]
            )
        )
    found = ["pass" if judgement.accepted else "fail" for judgement in pool.judge(submissions)]
    assert found == [row["recorded"] for row in recorded] == [row["mine"] for row in recorded]
