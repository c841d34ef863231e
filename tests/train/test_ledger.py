"""The ledger: rates as they are defined, the window, retirement, and that search and RL share it."""

from __future__ import annotations

import dataclasses
import math
import random
from pathlib import Path
from typing import Any

import pytest

from o1coder_jax.errors import UserError
from o1coder_jax.records import Form, Judgement, Problem, TestCase, Verdict
from search.config import SearchConfig
from search.store import read_tree
from search.tree import Node, Rollout, Tree
from tests.train.world import ROOT, opened, read_lines, results
from train import reason
from train.config import Config
from train.ledger import LEDGER, DrawingConfig, Ledger, Tally, of_groups, of_tree, searched
from train.stopping import StoppingConfig


def problem(name: str) -> Problem:
    return Problem(name, "s", Form.STDIN, (TestCase("1\n", "1"),))


def ledger(*entries: tuple[str, int, int] | tuple[str, int, int, int], iteration: int = 1, **config: float) -> Ledger:
    """Entries are (problem, successes, samples) or (..., iteration)."""
    tallies = [Tally(one[0], one[3] if len(one) > 3 else 1, "rl", one[1], one[2]) for one in entries]
    return Ledger(DrawingConfig(**config), tallies, iteration)  # type: ignore[arg-type]


# Rates.


def test_rate_is_laplaces():
    assert ledger(("a", 3, 8)).rate("a") == 4 / 10


def test_rate_of_an_untried_problem_is_one_half():
    assert ledger().rate("a") == 0.5


def test_rate_is_over_the_latest_entries():
    known = ledger(("a", 8, 8), ("a", 1, 8), ("a", 2, 8), recent=16)
    assert known.rate("a") == (3 + 1) / (16 + 2)


def test_entry_that_reaches_the_number_counts_whole():
    assert ledger(("a", 5, 6), ("a", 6, 6), recent=8).rate("a") == (11 + 1) / (12 + 2)


def test_entries_of_old_policies_do_not_count():
    known = ledger(("a", 8, 8, 1), ("a", 0, 8, 3), iteration=3, max_age=1, recent=99)
    assert known.rate("a") == 1 / 10


def test_tree_that_was_judged_again_counts_once_and_in_its_old_place():
    first, again = Tally("a", 1, "search", 6, 8), Tally("a", 1, "search", 0, 8)
    rl = [Tally("a", 1, "rl", 1, 8), Tally("a", 1, "rl", 2, 8)]
    assert Ledger(DrawingConfig(recent=99), [first, *rl, again], 2).rate("a") == (0 + 3 + 1) / (24 + 2)
    assert Ledger(DrawingConfig(recent=16), [first, *rl, again], 2).rate("a") == (3 + 1) / (16 + 2)


def test_old_tree_that_had_no_entry_hides_no_newer_ones():
    entries = [Tally("a", 3, "search", 4, 8), Tally("a", 1, "search", 0, 8)]
    assert Ledger(DrawingConfig(max_age=1), entries, 3).rate("a") == (4 + 1) / (8 + 2)


def test_entry_without_a_checked_sample_is_none():
    known = ledger()
    assert known.add([Tally("a", 1, "rl", 0, 0), Tally("b", 1, "rl", 1, 2)]) == [Tally("b", 1, "rl", 1, 2)]


# Drawing.


def test_every_key_that_longer_runs_may_set_is_told_of():
    text = (ROOT / "docs" / "training.md").read_text()
    keys = [
        *(f"drawing.{one.name}" for one in dataclasses.fields(DrawingConfig) if one.name != "high"),
        *(f"stopping.{one.name}" for one in dataclasses.fields(StoppingConfig)),
        *("sft.max_age", "prm.max_age"),
    ]
    assert [key for key in keys if f"`{key}`" not in text] == []
    assert DrawingConfig().search == 0 and "With `drawing.search: 0` window and retirement are RL's alone" in text


def test_window_holds_its_ends():
    known = ledger(("low", 0, 8), ("high", 8, 8), ("below", 0, 9), low=0.1, high=0.9)
    assert [known.inside(name) for name in ("low", "high", "below")] == [True, True, False]


def test_problem_above_the_rate_is_retired_and_never_drawn():
    known = ledger(("a", 16, 16), outside=1.0)
    assert known.retired("a") and known.draw([problem("a"), problem("b")], 2, random.Random(0)) == [problem("b")]


def test_retired_problem_returns_when_its_samples_are_old():
    assert not ledger(("a", 16, 16, 1), iteration=3, max_age=1).retired("a")


def test_draw_is_from_the_window():
    known = ledger(*[(f"hard {i}", 0, 16) for i in range(20)], outside=0.0)
    problems = [problem(f"hard {i}") for i in range(20)] + [problem(str(i)) for i in range(5)]
    assert {one.id for one in known.draw(problems, 5, random.Random(0))} == set("01234")


def test_one_draw_in_ten_ignores_the_window():
    known = ledger(*[(f"hard {i}", 0, 16) for i in range(900)], outside=0.1)
    problems = [problem(f"hard {i}") for i in range(900)] + [problem(str(i)) for i in range(900)]
    drawn = known.draw(problems, 500, random.Random(0))
    assert len({one.id for one in drawn}) == 500
    # Half of those that ignore the window and take of all: a twentieth, give or take four deviations.
    assert 8 < sum(one.id.startswith("hard") for one in drawn) < 60


def test_what_the_window_lacks_is_drawn_from_outside():
    known = ledger(*[(f"hard {i}", 0, 16) for i in range(9)], outside=0.0)
    drawn = known.draw([problem(f"hard {i}") for i in range(9)] + [problem("a")], 4, random.Random(0))
    assert len(drawn) == 4 and drawn[0] == problem("a")


def test_draw_depends_on_the_generator_alone():
    problems = [problem(str(i)) for i in range(50)]
    first, again, other = (ledger().draw(problems, 9, random.Random(seed)) for seed in (0, 0, 1))
    assert first == again != other


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("low", 0.6, "low is 0.6"),
        ("high", 0.4, "high 0.4"),
        ("retire", 0.3, "retire is 0.3"),
        ("recent", 4, "recent is 4"),
        ("outside", 2.0, "outside is 2.0"),
        ("search", -1, "search is -1"),
    ],
)
def test_setting_out_of_range_is_refused(key: str, value: float, said: str):
    with pytest.raises(UserError, match=said):
        DrawingConfig(**{key: value})  # type: ignore[arg-type]


@pytest.mark.parametrize(("key", "value"), [("stop_when_solved", True), ("tree_tokens", 9), ("tree_executions", 9)])
def test_trees_that_may_end_before_all_is_found_do_not_count_for_all_rollouts(key: str, value: Any):
    search, drawing = SearchConfig(**{key: value}), DrawingConfig(trees="rollouts")
    with pytest.raises(UserError, match=rf"drawing\.trees is rollouts and search\.{key}"):
        Config(search=search, drawing=drawing)
    Config(search=search), Config(drawing=drawing)


# What goes in.


def test_groups_count_what_could_be_checked():
    known = of_groups([problem("a"), problem("b")], [[1.0, None, 0.0], [0.0, 1.0, 0.0]], [[0.0] * 3] * 2, 2)
    assert known == [Tally("a", 2, "rl", 1, 2), Tally("b", 2, "rl", 1, 3)]


def test_paths_of_a_tree_count_as_often_as_the_policy_would_draw_them():
    [one] = of_groups([problem("a")], [[1.0, 0.0, 0.0, None]], [[math.log(p) for p in (0.9, 0.06, 0.04, 1.0)]], 2)
    assert one == Tally("a", 2, "rl", 3, 3)  # round(3 * 0.9)


def test_tree_counts_rollouts_that_ended_in_a_checked_terminal():
    passed = [Judgement(Verdict.ACCEPTED, True, 1, 1), Judgement(Verdict.WRONG_ANSWER, True, 0, 1)]
    nodes = [Node(-1, 0), Node(0, 1), *(Node(1, 2, ended="code", code="x") for _ in range(3))]
    nodes[2].judge(passed[0], 0.1)
    nodes[3].judge(passed[1], 0.1)
    ends = [2, 3, 2, 4, 1]  # node 4 could not be checked, node 1 is no terminal
    tree = Tree(0, problem("a"), (1,), nodes=nodes, rollouts=[Rollout(end) for end in ends])
    assert of_tree(tree, 1) == Tally("a", 1, "search", 2, 3)
    # A search that might have made eight rollouts, and found nothing more after these; two of them count for nothing.
    assert of_tree(tree, 1, 8) == Tally("a", 1, "search", 4, 6)  # round(6 * 2 / 3)
    assert of_tree(tree, 1, 4) == Tally("a", 1, "search", 2, 3)
    # What was found is rare: none of three samples would be right.
    for node in tree.nodes:
        node.log_probability = -3.0 if node.judgement is not None and node.judgement.accepted else 0.0
    assert of_tree(tree, 1) == Tally("a", 1, "search", 0, 3)


def test_both_stages_write_to_the_ledger(wee: Path):
    rows = read_lines(wee / LEDGER)
    assert {(row["iteration"], row["source"]) for row in rows} == {(i, s) for i in (1, 2) for s in ("search", "rl")}
    assert all(0 <= row["successes"] <= row["samples"] > 0 for row in rows)


def test_trees_of_a_search_count_for_its_rollouts_where_that_is_set(wee: Path, runs: Path):
    with opened(wee, runs, upto="tcg", drawing={"trees": "rollouts"}, search={"rollouts": 9}) as session:
        reason.run(session, 1)
        told = [Tally(**row) for row in session.run.read(LEDGER)]
        trees = [read_tree(row, "").tree for row in session.run.read("trees.jsonl")]
    assert told == [tally for tree in trees if (tally := of_tree(tree, 1, 9)).samples]
    assert told != [tally for tree in trees if (tally := of_tree(tree, 1)).samples]


def test_rl_says_how_many_problems_are_left(wee: Path):
    result = results(wee)["002-rl"]
    assert result["problems_untried"] == 0 and result["problems_inside"] + result["problems_retired"] <= 4


def test_search_draws_as_many_as_it_is_told(wee: Path, runs: Path):
    with opened(wee, runs, upto="001-evaluate", drawing={"search": 2, "retire": 1.0}) as session:
        chosen = searched(session, 2)
        assert len(chosen) == 2 and chosen == searched(session, 2)
        reason.run(session, 2)
        assert session.require("002-search", "")["trees"] == 2


def test_ledger_of_an_unfinished_stage_is_forgotten(wee: Path, runs: Path):
    with opened(wee, runs, upto="001-search") as session:
        assert {row["source"] for row in session.run.read(LEDGER)} == {"search"}
