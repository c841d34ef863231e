"""D_process as it is learnt from: the last labels, each path once, none too old."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from o1coder_jax.records import ProcessRecord, Verdict
from tests.train.world import opened, record
from train.process import current, distinct, read_process, recent


def labelled(tests: str, verdict: Verdict, tokens: int = 1, tree: int = 0, iteration: int = 1) -> ProcessRecord:
    made = record("a", [([tokens], 1.0)], verdict=verdict, tree=tree, iteration=iteration)
    return dataclasses.replace(made, tests=tests)


def test_only_the_last_labels_of_a_tree_count():
    old, new = labelled("x", Verdict.ACCEPTED), labelled("y", Verdict.WRONG_ANSWER)
    other = labelled("x", Verdict.ACCEPTED, tree=1)
    assert current([old, other, new]) == [other, new]


def test_labels_of_tests_that_came_back_are_read_once():
    first, then, again = (labelled(tests, Verdict.ACCEPTED) for tests in "xyx")
    found = current([first, then, again])
    assert len(found) == 1 and found[0] is again


def test_path_that_lost_its_visits_with_new_labels_is_gone():
    lost = labelled("x", Verdict.ACCEPTED, tokens=2)
    assert current([labelled("x", Verdict.ACCEPTED), lost, new := labelled("y", Verdict.ACCEPTED)]) == [new]


def test_old_rounds_are_left_out():
    records = [record("a", [([i], 1.0)], iteration=i) for i in (1, 2, 3)]
    assert [one.iteration for one in recent(records, 3, 1)] == [2, 3]
    assert [one.iteration for one in recent(records, 3, 0)] == [1, 2, 3]


def test_path_counts_once_with_the_values_of_the_latest_round():
    early, late = record("a", [([1], 0.2)], iteration=1), record("a", [([1], 0.8)], iteration=2)
    assert distinct([late, early]) == [late]


def test_latest_round_wins_though_an_earlier_one_was_labelled_after_it():
    early, late = labelled("y", Verdict.ACCEPTED, iteration=1), labelled("x", Verdict.WRONG_ANSWER, iteration=2)
    assert distinct(current([labelled("x", Verdict.ACCEPTED), late, early])) == [late]


def test_same_path_of_another_problem_is_another():
    assert len(distinct([record("a", [([1], 1.0)]), record("b", [([1], 1.0)])])) == 2


def test_round_learns_from_its_own_search_alone_if_it_is_told_so(wee: Path, runs: Path):
    with opened(wee, runs, upto="002-search") as session:
        ages = [{one.iteration for one in read_process(session, 3, max_age)} for max_age in (0, 2, 1)]
        assert ages[0] == ages[1] and 1 in ages[0] and ages[2] == {2}
