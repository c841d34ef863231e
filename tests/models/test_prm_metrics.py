"""Figures of a reward model's scores, against what a few steps give by hand."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from o1coder_jax import prm_metrics
from o1coder_jax.prm_metrics import ScoredSteps, calibration_error, pairs_in_order, reliability_table, spearman_within


def array(*values: float) -> np.ndarray:
    return np.array(values, float)


def steps(**columns: list[float]) -> ScoredSteps:
    count = len(columns["score"])
    filled = {"problem": [0] * count, "parent": [0] * count, "depth": [1] * count, "action": [2] * count, **columns}
    filled = {"terminal": [False] * count, **filled}
    return ScoredSteps(**{name: np.array(values) for name, values in filled.items()})


def test_pairs_are_those_of_a_group():
    # Problem 0: one pair of two in order. Problem 1: its one pair in order. Problem 2: one class.
    score, good = array(0.6, 0.4, 0.5, 0.9, 0.1, 0.7), array(0, 0, 1, 1, 0, 1)
    assert pairs_in_order(score, good, np.array([0, 0, 0, 1, 1, 2])) == (2 / 3, 3)


def test_equal_scores_are_half_in_order_and_equal_labels_are_no_pair():
    assert pairs_in_order(array(0.5, 0.5, 0.5), array(0.25, 0.75, 0.25), np.zeros(3, int)) == (0.5, 2)


def test_pairs_of_no_group_say_nothing():
    assert pairs_in_order(array(0.1, 0.9), array(0, 1), np.array([0, 1])) == (None, 0)
    assert pairs_in_order(array(), array(), np.zeros(0, int)) == (None, 0)


def test_pairs_are_counted_one_by_one():
    rng = np.random.default_rng(0)
    score, label, group = rng.integers(0, 5, 40) / 4, rng.integers(0, 4, 40) / 3, rng.integers(0, 6, 40)
    found = [
        float(score[i] > score[j]) + 0.5 * (score[i] == score[j])
        for i, j in itertools.permutations(range(40), 2)
        if group[i] == group[j] and label[i] > label[j]
    ]
    assert pairs_in_order(score, label, group) == (pytest.approx(np.mean(found)), len(found))


def test_ranks_share_the_mean_of_ties():
    assert prm_metrics.ranks(array(3, 1, 3, 2)).tolist() == [3.5, 1, 3.5, 2]


def test_rank_correlation_by_hand():
    # d = (0, 1, -1): rho = 1 - 6 * 2 / (3 * 8) = 0.5. The second problem, twice as long in weight, is reversed: -1.
    score = array(0.1, 0.3, 0.2, *[0.9, 0.8, 0.7, 0.6, 0.5, 0.4])
    label = array(0.0, 0.5, 1.0, *[0.0, 0.1, 0.2, 0.3, 0.4, 0.5])
    group = np.array([0] * 3 + [1] * 6)
    assert spearman_within(score, label, group) == pytest.approx((3 * 0.5 - 6) / 9)


def test_rank_correlation_of_constant_scores_is_zero_and_constant_labels_are_left_out():
    score, label = array(0.5, 0.5, 0.1, 0.9), array(0, 1, 0.3, 0.3)
    assert spearman_within(score, label, np.array([0, 0, 1, 1])) == 0
    assert spearman_within(score, label, np.array([0, 1, 2, 3])) is None


def test_calibration_by_hand():
    table = reliability_table(array(0.05, 0.0, 0.95, 1.0), array(0.0, 0.5, 1.0, 0.5))
    assert [(row["from"], row["count"], row["score"], row["label"]) for row in table] == [
        (0.0, 2, 0.025, 0.25),
        (0.9, 2, 0.975, 0.75),
    ]
    assert calibration_error(table) == pytest.approx(0.225)


def test_calibration_of_nothing_is_none():
    assert reliability_table(array(), array()) == [] and calibration_error([]) is None


def test_terminal_steps_count_apart():
    columns = {"score": [0.9, 0.2, 0.1, 0.8], "label": [1, 0, 1, 0], "depth": [1, 2, 3, 3]}
    found = prm_metrics.judged(steps(**columns, terminal=[False, False, True, True]))
    assert [found[name]["auc_within"] for name in ("non_terminal", "terminal", "pooled")] == [1.0, 0.0, 0.5]
    assert list(found["by_depth"]) == ["1", "2"] and sum(row["count"] for row in found["reliability"]) == 2


def test_figures_by_action():
    found = prm_metrics.judged(steps(score=[0.9, 0.2, 0.7], label=[1.0, 0.0, 1.0], action=[1, 3, 0]))
    assert {name: row["steps"] for name, row in found["by_action"].items()} == {"none": 1, "define": 1, "code": 1}


def test_siblings_are_compared_with_each_other_alone():
    found = prm_metrics.figures(steps(score=[0.9, 0.1, 0.2, 0.8], label=[1, 0, 0.5, 0.4], parent=[0, 0, 1, 1]))
    assert (found["siblings"], found["sibling_pairs"]) == (0.5, 2)


def test_threshold_says_which_steps_are_good():
    columns = {"score": [0.9, 0.5, 0.1], "label": [0.2, 0.1, 0.0]}
    assert prm_metrics.figures(steps(**columns))["auc_within"] is None
    assert prm_metrics.figures(steps(**columns), threshold=0.05)["auc_within"] == 1.0


def test_figures_of_no_steps():
    assert prm_metrics.figures(steps(score=[], label=[])) == {"steps": 0}


def test_labels_that_repeat_themselves_are_reliable():
    outcomes = [[True] * 4, [False] * 4, [True, True, False, False]]
    found = prm_metrics.split_halves(outcomes, np.zeros(3, int), np.zeros(3, int), 0.5)
    assert found == pytest.approx({"auc_within": 1.0, "siblings": 1.0, "spearman": 1.0, "reliability": 1.0})


def test_reliability_by_hand():
    # Rates of the halves: (1, 0.5), (0.5, 0), (0, 1): r = -0.25 / 0.5 = -0.5, so 2 r / (1 + r) = -2.
    outcomes = [[True, True, True, False], [True, False, False, False], [False, True, False, True]]
    found = prm_metrics.split_halves(outcomes, np.zeros(3, int), np.zeros(3, int), 0.5)
    assert found["reliability"] == pytest.approx(-2)
