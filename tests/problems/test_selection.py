"""Hidden tests, duplicates, parts, and the configuration of a file source."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from o1coder_jax.errors import UserError
from o1coder_jax.problems import ProblemsConfig, Rejected, from_file, split
from o1coder_jax.problems.selection import hold_back, part_sizes, without_duplicates
from o1coder_jax.records import Form, Problem, TestCase


def problem(number: int = 0, tests: int = 4, statement: str | None = None) -> Problem:
    cases = tuple(TestCase(f"{n}\n", str(2 * n)) for n in range(tests))
    return Problem(f"p{number}", statement or f"Problem number {number}.", Form.STDIN, cases, solutions=("pass",))


def write_rows(path: Path, count: int, **changes: Any) -> Path:
    rows = [
        {
            "question": f"Problem number {number}.",
            "input_output": {"inputs": ["1", "2", "3"], "outputs": ["1", "2", "3"]},
            "solutions": ["print(input())"],
            **changes,
        }
        for number in range(count)
    ]
    path.write_text(json.dumps(rows))
    return path


def config(path: Path | str = "rows.json", **changes: Any) -> ProblemsConfig:
    return ProblemsConfig(source="taco", path=str(path), **changes)


def test_half_of_the_tests_is_hidden() -> None:
    held = hold_back(problem(tests=9), max_tests=99, max_hidden=99, seed=0)
    assert (len(held.tests), len(held.hidden)) == (5, 4)
    assert set(held.tests) | set(held.hidden) == set(problem(tests=9).tests)


def test_hidden_tests_are_no_own_tests() -> None:
    held = hold_back(problem(tests=30), max_tests=99, max_hidden=99, seed=0)
    assert not set(held.tests) & set(held.hidden)


def test_caps_on_both_kinds_of_tests() -> None:
    held = hold_back(problem(tests=100), max_tests=7, max_hidden=11, seed=0)
    assert (len(held.tests), len(held.hidden)) == (7, 11)


def test_held_back_tests_are_recorded() -> None:
    held = hold_back(problem(tests=5), max_tests=99, max_hidden=99, seed=3)
    record = held.meta["held_back"]
    assert [problem(tests=5).tests[index] for index in record["hidden"]] == list(held.hidden)
    assert (record["of"], record["seed"], record["hidden_is_own"]) == (5, 3, False)


def test_a_single_test_is_both_own_and_hidden_and_says_so() -> None:
    held = hold_back(problem(tests=1), max_tests=99, max_hidden=99, seed=0)
    assert held.tests == held.hidden == problem(tests=1).tests
    assert held.meta["held_back"]["hidden_is_own"] is True


def test_held_back_tests_depend_on_the_seed() -> None:
    halves = {hold_back(problem(tests=20), max_tests=99, max_hidden=99, seed=seed).hidden for seed in range(5)}
    assert len(halves) > 1


def test_held_back_tests_do_not_depend_on_the_place() -> None:
    kept = {hold_back(problem(n, 20, "Same."), max_tests=9, max_hidden=9, seed=0).hidden for n in range(3)}
    assert len(kept) == 1


def test_repeated_statements_are_set_aside_whatever_their_blanks() -> None:
    kept, rejected = without_duplicates(
        [problem(0, statement="Add  two\nnumbers."), problem(1, statement="Add two numbers.")]
    )
    assert [row.id for row in kept] == ["p0"]
    assert [(row.id, row.reason) for row in rejected] == [("p1", "same statement as p0")]


@pytest.mark.parametrize("count", range(40))
def test_part_sizes(count: int) -> None:
    sizes = part_sizes(count, (0.5, 0.25, 0.125, 0.125))
    assert sum(sizes) == count
    assert min(sizes) >= (1 if count >= 4 else 0)
    assert count < 8 or all(
        abs(size - count * share) < 1 for size, share in zip(sizes, (0.5, 0.25, 0.125, 0.125), strict=True)
    )


def test_no_part_is_empty_even_with_a_tiny_share() -> None:
    assert part_sizes(100, (0.997, 0.001, 0.001, 0.001)) == [97, 1, 1, 1]


def parts_of(problems: list[Problem], seed: int = 0, **changes: Any) -> dict[str, set[str]]:
    parts = split(problems, config(**changes), seed)
    names = ("training", "selfplay", "validation", "heldout")
    return {name: {row.id for row in getattr(parts, name)} for name in names}


def test_every_problem_lies_in_exactly_one_part() -> None:
    parts = parts_of([problem(n) for n in range(80)])
    assert sorted(one for ids in parts.values() for one in ids) == sorted(f"p{n}" for n in range(80))


def test_parts_have_the_shares_asked_for() -> None:
    parts = parts_of([problem(n) for n in range(80)], selfplay_share=0.25, heldout_share=0.5, validation_share=0.125)
    assert {name: len(ids) for name, ids in parts.items()} == {
        "training": 10,
        "selfplay": 20,
        "validation": 10,
        "heldout": 40,
    }


def test_parts_do_not_depend_on_the_order_of_rows() -> None:
    rows = [problem(n) for n in range(40)]
    assert parts_of(rows) == parts_of(rows[::-1])


def test_parts_depend_on_the_seed() -> None:
    rows = [problem(n) for n in range(40)]
    assert parts_of(rows, seed=0) != parts_of(rows, seed=1)


def test_four_problems_fill_all_parts() -> None:
    assert all(len(ids) == 1 for ids in parts_of([problem(n) for n in range(4)]).values())


def test_repeated_statements_never_lie_in_two_parts() -> None:
    rows = [problem(n, statement=f"Statement {n % 5}.") for n in range(20)]
    assert sum(len(ids) for ids in parts_of(rows).values()) == 5


def test_no_problems_left_says_how_many_and_why() -> None:
    rejected = [Rejected(f"p{n}", f"rows.json, row {n}", "no tests") for n in range(5)]
    with pytest.raises(UserError) as caught:
        split([], config(), 0, rejected)
    assert "no problems left of rows.json: all 5 were set aside" in str(caught.value)
    assert "rows.json, row 0: no tests" in str(caught.value)
    assert "and 2 more" in str(caught.value)


def test_from_file_holds_tests_back(tmp_path: Path) -> None:
    problems, rejected = from_file(config(write_rows(tmp_path / "rows.json", 3)), 0)
    assert not rejected
    assert [(len(row.tests), len(row.hidden)) for row in problems] == [(2, 1)] * 3


def test_long_statement_is_set_aside(tmp_path: Path) -> None:
    problems, rejected = from_file(config(write_rows(tmp_path / "rows.json", 1), max_statement_chars=10), 0)
    assert not problems
    assert rejected[0].reason == "statement of 17 characters, more than problems.max_statement_chars (10)"
    assert rejected[0].where == "rows.json, row 0"


def test_repeated_statement_in_a_file_is_set_aside(tmp_path: Path) -> None:
    problems, rejected = from_file(config(write_rows(tmp_path / "rows.json", 3, question="Echo.")), 0)
    assert len(problems) == 1
    assert [row.reason for row in rejected] == ["same statement as rows.json#0"] * 2


def test_taco_without_a_path() -> None:
    with pytest.raises(UserError, match=r"problems\.path: missing"):
        ProblemsConfig(source="taco")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"source": "leetcode"}, "problems.source: 'leetcode' is not known"),
        ({"selfplay_share": 0.0}, "problems.selfplay_share: 0.0 is not between 0 and 1"),
        ({"heldout_share": 1.5}, "problems.heldout_share: 1.5 is not between 0 and 1"),
        ({"selfplay_share": 0.7, "heldout_share": 0.2, "validation_share": 0.1}, "leaves nothing for training"),
        ({"max_tests": 0}, "problems.max_tests: 0 is too small"),
        ({"gold_solutions": 0}, "problems.gold_solutions: 0 is too small"),
    ],
)
def test_bad_setting_is_named(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError) as caught:
        ProblemsConfig(**changes)
    assert message in str(caught.value)
