"""What methods are compared by: answers, intervals, the table."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from o1coder_jax.errors import UserError
from o1coder_jax.records import Judgement, Verdict
from o1coder_jax.significance import interval
from search.comparison import MOST_PATHS, CompareConfig, Outcome, Row, answer, changed, most_rollouts, summary, table
from search.config import BaselineConfig, SearchConfig
from search.tree import Node, Tree
from tests.search.scripted import PROBLEMS


def tree(*programs: tuple[str, int | None]) -> Tree:
    """Programs with the number of four tests that they pass; None was not judged."""
    nodes = [Node(-1, 0)]
    for code, passed in programs:
        node = Node(0, 1, code=code, ended="code")
        if passed is not None:
            verdict = Verdict.ACCEPTED if passed == 4 else Verdict.WRONG_ANSWER
            node.judge(Judgement(verdict, compiled=True, passed=passed, total=4), 0.1)
        nodes.append(node)
    return Tree(0, PROBLEMS[0], (0,), nodes)


@pytest.mark.parametrize(
    ("programs", "expected"),
    [
        ([("a", 1), ("b", 4), ("c", 4)], "b"),
        ([("a", 1), ("b", 3), ("c", 3)], "b"),
        ([("a", None), ("b", 0)], "b"),
        ([("a", None), ("b", None)], "a"),
        ([], None),
    ],
)
def test_answer_is_the_first_accepted_or_the_best(programs, expected):
    assert answer(tree(*programs)) == expected


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        (SearchConfig(), 8),
        (SearchConfig(samples=1, expansions=16, widening=2.0), 32),
        (SearchConfig(preset="paper", expansions=16, widening=2.0), 8),  # a preset that does not widen
        (SearchConfig(baseline=BaselineConfig(kind="best_of_n"), expansions=16), MOST_PATHS),
    ],
)
def test_methods_that_widen_may_take_more_rollouts_within_their_tokens(settings, expected):
    assert most_rollouts(settings, 8) == expected


def test_interval_of_two_problems_by_hand():
    """Of four equally likely resamples one has mean 0, two have mean 1/2, and one has mean 1."""
    assert interval(np.array([0.0, 1.0]), seed=0, resamples=4000) == (0.0, 1.0)
    assert interval(np.array([0.25, 0.25]), seed=0, resamples=100) == (0.25, 0.25)


def test_interval_has_the_width_of_the_normal_one_for_many_problems():
    values = np.array([1.0] * 300 + [0.0] * 700)
    low, high = interval(values, seed=1, resamples=10_000)
    half = 1.96 * (0.3 * 0.7 / 1000) ** 0.5
    assert low == pytest.approx(0.3 - half, abs=0.003) and high == pytest.approx(0.3 + half, abs=0.003)


def rows(first: list[bool | None], second: list[bool | None]) -> list[Row]:
    def row(name: str, passed: list[bool | None], tokens: int) -> Row:
        outcomes = [Outcome(f"p{i}", bool(one), one, tokens, i) for i, one in enumerate(passed)]
        return Row(name, 8, outcomes, 1.0, 0, truncated_prompts=0)

    return [row("one", first, 10), row("two", second, 20)]


def test_differences_are_paired():
    """Two methods that always agree but for one problem: the interval holds nothing but that one."""
    agree = [i % 2 == 0 for i in range(100)]
    one, two = summary(rows(agree, [*agree[:-1], True]), seed=0, resamples=2000)
    assert one["solved"]["difference_interval"] == (0.0, 0.0)
    low, high = two["solved"]["difference_interval"]
    assert (two["solved"]["difference"], low) == (pytest.approx(0.01), 0.0) and 0.01 <= high <= 0.04
    assert two["solved"]["interval"][1] - two["solved"]["interval"][0] > 0.15
    assert (one["tokens"], two["tokens"], two["executions"]) == (10, 20, 49.5)


def test_problem_that_one_could_not_check_counts_for_none():
    one, two = summary(rows([True, None, False], [True, True, True]), seed=0, resamples=10)
    assert (one["checked"], two["checked"], one["passed"]["rate"], two["passed"]["rate"]) == (2, 2, 0.5, 1.0)
    assert one["problems"] == 3


def test_table_has_a_line_for_each_method():
    lines = table(summary(rows([True, False], [None, None]), seed=0, resamples=10)).splitlines()
    assert [line.count("|") for line in lines] == [11] * 4
    assert lines[2].startswith("| one | 1 | 0.500 [0.000, 1.000] | +0.000 [+0.000, +0.000] | - |")


def test_cut_prompts_are_told_of_each_method():
    one, two = rows([True, False], [True, True])
    two = dataclasses.replace(two, truncated_prompts=2)
    entries = summary([one, two], seed=0, resamples=10)
    assert [entry["truncated_prompts"] for entry in entries] == [0, 2]
    assert table(entries).splitlines()[-1] == "Prompts that were cut to search.prompt_tokens: two 2"
    assert "were cut" not in table(entries[:1])


def test_methods_change_nested_settings_and_leave_the_rest():
    base = SearchConfig(samples=5, depth=4)
    one = changed(base, {"baseline": {"kind": "beam", "ranking": "prm_min"}, "tree_executions": 3}, "methods.x")
    assert one.baseline == BaselineConfig("beam", ranking="prm_min")
    assert (one.samples, one.depth, one.tree_executions) == (5, 4, 3)


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"selecton": {"rule": "uct"}}, r"methods\.x: unknown option --selecton\.rule; did you mean --selection\.rule"),
        ({"preset": "best"}, r"methods\.x: preset = best: expected one of own, paper"),
        ({"samples": 0}, r"methods\.x: search\.samples is 0"),
    ],
)
def test_bad_settings_of_a_method_are_one_clear_line(changes, line):
    with pytest.raises(UserError, match=line):
        changed(SearchConfig(), changes, "methods.x")


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        ({"methods": {}}, "methods is empty"),
        ({"rollouts": []}, "rollouts is empty"),
        ({"rollouts": [8, 0]}, "rollouts is 0"),
        ({"count": 0}, "count is 0"),
        ({"methods": {"a": {"tree_tokens": 5}}}, "a sets tree_tokens; the budget is the same for all"),
    ],
)
def test_impossible_comparisons_are_refused(arguments, line):
    with pytest.raises(UserError, match=line):
        CompareConfig(**{"run": "r", "methods": {"a": {}}, **arguments})
