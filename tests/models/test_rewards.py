"""v, phi, the schedules of its weight, and pass@k, against numbers worked out by hand."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest

from o1coder_jax.errors import UserError
from o1coder_jax.estimates import expected, mean, pass_at_k
from o1coder_jax.records import Judgement, Verdict
from o1coder_jax.rewards import PhiConfig, phi, step_credits, terminal_reward


def judgement(verdict: Verdict, passed: int, total: int, *, compiled: bool = True) -> Judgement:
    return Judgement(verdict, compiled=compiled, passed=passed, total=total)


@pytest.mark.parametrize(
    ("judged", "alpha", "reward"),
    [
        (judgement(Verdict.ACCEPTED, 4, 4), 0.1, 1.0),
        (judgement(Verdict.WRONG_ANSWER, 3, 4), 0.1, 0.1 + 0.9 * 0.75),
        (judgement(Verdict.RUNTIME_ERROR, 0, 4), 0.1, 0.1),
        (judgement(Verdict.COMPILE_ERROR, 0, 4, compiled=False), 0.1, 0.0),
        (judgement(Verdict.WRONG_ANSWER, 1, 4), 0.0, 0.25),
        (judgement(Verdict.WRONG_ANSWER, 1, 4), 1.0, 1.0),
        (judgement(Verdict.COMPILE_ERROR, 0, 0, compiled=False), 0.5, 0.0),
    ],
)
def test_terminal_reward_by_hand(judged, alpha, reward):
    assert terminal_reward(judged, alpha) == pytest.approx(reward)


def test_unchecked_program_has_no_reward():
    assert terminal_reward(judgement(Verdict.INFRA_ERROR, 3, 4), 0.1) is None


def test_phi_by_hand():
    """0.6 * 1 + 0.4 * (0.9 * 0.5 + 0.81 * 1.0 + 0.729 * 0.0) / 3"""
    assert phi(1.0, [0.5, 1.0, 0.0], weight=0.6, gamma=0.9) == pytest.approx(0.6 + 0.4 * 1.26 / 3)


@pytest.mark.parametrize(("steps", "value"), [(1, 0.9), (5, 0.737)])
def test_process_part_falls_with_length(steps, value):
    assert phi(0.0, [1.0] * steps, weight=0.0, gamma=0.9) == pytest.approx(value, abs=5e-4)


def test_weight_one_is_the_outcome_alone():
    assert phi(1.0, [0.2, 0.3], weight=1.0, gamma=0.9) == 1.0


def test_path_without_steps_has_no_process_part():
    assert phi(1.0, [], weight=0.7, gamma=0.9) == pytest.approx(0.7)


@pytest.mark.parametrize("gamma", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("weight", [0.0, 0.5, 1.0])
def test_phi_stays_between_zero_and_one(gamma, weight):
    for outcome, count in itertools.product((0.0, 1.0), (1, 7)):
        for score in (0.0, 1.0):
            assert 0 <= phi(outcome, [score] * count, weight=weight, gamma=gamma) <= 1


SCHEDULES = ("linear", "logarithmic", "cosine")


@pytest.mark.parametrize("schedule", [*SCHEDULES, "constant"])
def test_schedule_starts_at_the_full_weight(schedule):
    assert PhiConfig(outcome_weight=0.9, floor=0.2, schedule=schedule, horizon=10).weight(0) == pytest.approx(0.9)


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("update", [10, 11, 1000])
def test_schedule_ends_at_the_floor_and_stays(schedule, update):
    config = PhiConfig(outcome_weight=0.9, floor=0.2, schedule=schedule, horizon=10)
    assert config.weight(update) == pytest.approx(0.2)


def test_constant_schedule_never_falls():
    assert PhiConfig(schedule="constant", horizon=10).weight(500) == 1.0


@pytest.mark.parametrize(
    ("schedule", "weight"),
    [
        ("linear", 1.0 - 0.5 * 0.25),
        ("logarithmic", 1.0 - 0.5 * math.log(3) / math.log(9)),
        ("cosine", 1.0 - 0.5 * (1 - math.sqrt(0.5)) / 2),
    ],
)
def test_schedule_after_a_quarter_by_hand(schedule, weight):
    config = PhiConfig(outcome_weight=1.0, floor=0.5, schedule=schedule, horizon=8)
    assert config.weight(2) == pytest.approx(weight)


def test_schedules_as_curves_between_two_points():
    """A line, the logarithm to base H + 1 of 1 + t, and the square of a quarter of a cosine."""
    start, floor, horizon = 0.9, 0.3, 12
    curves = {
        "linear": lambda t: np.interp(t, [0, horizon], [start, floor]),
        "logarithmic": lambda t: start - (start - floor) * math.log(1 + t, 1 + horizon),
        "cosine": lambda t: floor + (start - floor) * math.cos(math.pi * t / (2 * horizon)) ** 2,
    }
    for name, curve in curves.items():
        config = PhiConfig(outcome_weight=start, floor=floor, schedule=name, horizon=horizon)
        assert [config.weight(t) for t in range(13)] == pytest.approx([float(curve(t)) for t in range(13)])


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_schedule_falls_steadily(schedule):
    weights = [PhiConfig(schedule=schedule, horizon=20).weight(t) for t in range(21)]
    assert all(later < earlier for earlier, later in itertools.pairwise(weights))


@pytest.mark.parametrize(
    ("settings", "complaint"),
    [
        ({"gamma": 1.1}, "gamma is 1.1"),
        ({"gamma": -0.1}, "gamma is -0.1"),
        ({"floor": 0.6, "outcome_weight": 0.5}, "floor"),
        ({"outcome_weight": 1.5}, "outcome_weight"),
        ({"floor": -0.5}, "floor"),
        ({"horizon": 0}, "horizon is 0"),
    ],
)
def test_settings_out_of_range_are_refused(settings, complaint):
    with pytest.raises(UserError, match=complaint):
        PhiConfig(**settings)


@pytest.mark.parametrize("samples", [1, 2, 5, 6])
def test_pass_at_k_is_the_share_of_draws_with_a_success(samples):
    for correct, k in itertools.product(range(samples + 1), range(1, samples + 1)):
        draws = list(itertools.combinations([i < correct for i in range(samples)], k))
        assert pass_at_k(samples, correct, k) == pytest.approx(sum(map(any, draws)) / len(draws))


def test_pass_at_more_than_the_samples_is_refused():
    with pytest.raises(ValueError, match="pass@5 needs at least 5 samples, not 4"):
        pass_at_k(4, 2, 5)


def test_expected_weighs_by_probability():
    """0.6 and 0.2 of 0.8; far below what a float holds, and for samples the plain mean."""
    likely = [math.log(0.6), math.log(0.2)]
    assert expected([1.0, 0.0], likely) == pytest.approx(0.75)
    assert expected([1.0, 0.0], [one - 2000 for one in likely]) == pytest.approx(0.75)
    assert expected([1.0, 0.0, 0.0, 1.0], [0.0] * 4) == 0.5 and expected([], []) is None


def test_mean_of_nothing_is_none():
    assert mean([]) is None


def test_mean_by_hand():
    assert mean([1.0, 0.0, 0.5]) == 0.5


# What each step earns.

RATED = [0.5, 0.2, 0.9]


def naive_credits(outcome, process, weight, gamma, form):
    """Step by step, as the definitions say."""
    out = []
    for j, r in enumerate(process, 1):
        earned = {
            "phi": gamma**j * r / len(process),
            "sum": gamma**j * r,
            "min": r if r == min(process) and min(process) not in process[: j - 1] else 0.0,
        }[form]
        out.append((1 - weight) * earned + (weight * outcome if j == len(process) else 0.0))
    return out


@pytest.mark.parametrize("form", ["phi", "sum", "min"])
@pytest.mark.parametrize("process", [RATED, [0.3], [0.4, 0.4], [1.0, 0.0, 0.0, 1.0]])
def test_credits_are_those_of_the_definition(form, process):
    found = step_credits(1.0, process, weight=0.6, gamma=0.9, form=form)
    assert found == pytest.approx(naive_credits(1.0, process, 0.6, 0.9, form))


def test_credits_of_phi_sum_to_phi():
    assert sum(step_credits(1.0, RATED, weight=0.3, gamma=0.9)) == pytest.approx(phi(1.0, RATED, weight=0.3, gamma=0.9))


def test_credits_by_hand():
    assert step_credits(0.0, RATED, weight=0.0, gamma=0.9, form="sum") == pytest.approx([0.45, 0.162, 0.6561])
    assert step_credits(1.0, RATED, weight=0.5, gamma=0.9, form="min") == pytest.approx([0.0, 0.1, 0.5])


def test_credits_without_a_step_are_the_outcome():
    assert step_credits(1.0, [], weight=0.6, gamma=0.9, form="min") == [0.6]


def test_another_step_raises_the_sum_and_not_the_min():
    for more in (0.1, 0.5, 1.0):
        short, long = (
            {form: sum(step_credits(0.0, p, weight=0.0, gamma=1.0, form=form)) for form in ("sum", "min")}
            for p in (RATED, [*RATED, more])
        )
        assert long["sum"] > short["sum"] and long["min"] <= short["min"]
