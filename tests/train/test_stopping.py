"""When the loop ends early."""

from __future__ import annotations

from pathlib import Path

import pytest

from o1coder_jax.errors import UserError
from tests.train.world import command, copy_run, results, summary_of
from train.run_stages import FinishedStage
from train.stopping import StoppingConfig, reason_to_stop


def stages(*validation: float | None, seconds: float = 10.0, tokens: int = 100) -> list[FinishedStage]:
    """A base and rounds that did so on validation; every round takes that much."""
    evaluated = [
        FinishedStage(f"{i:03d}-evaluate", 2 * i + 1, 0.0, {"validation_greedy": score}, {}, 1)
        for i, score in enumerate(validation)
    ]
    searched = [
        FinishedStage(f"{i:03d}-search", 2 * i, seconds, {"tokens_generated": tokens}, {}, 1)
        for i in range(len(validation))
    ]
    return [*evaluated, *searched]


def test_loop_goes_on_while_validation_improves():
    assert reason_to_stop(StoppingConfig(patience=1), stages(0.1, 0.2, 0.3), 3) == ""


def test_loop_ends_when_validation_is_no_better():
    why = reason_to_stop(StoppingConfig(patience=2), stages(0.1, 0.3, 0.3, 0.2), 4)
    assert why == "validation is no better than 2 rounds ago (stopping.patience)"


def test_patience_is_counted_from_the_best_round():
    assert reason_to_stop(StoppingConfig(patience=2), stages(0.1, 0.2, 0.3, 0.2), 4) == ""


def test_round_that_could_not_be_measured_is_no_better():
    assert reason_to_stop(StoppingConfig(patience=1), stages(0.1, None), 2) != ""


def test_round_begins_only_if_its_time_is_left():
    assert reason_to_stop(StoppingConfig(seconds=40), stages(0.1, 0.2, 0.3), 3) == ""
    why = reason_to_stop(StoppingConfig(seconds=39), stages(0.1, 0.2, 0.3), 3)
    assert why == "30 seconds are used, and a round takes 10 (stopping.seconds 39)"


def test_round_begins_only_if_its_tokens_are_left():
    assert reason_to_stop(StoppingConfig(tokens=399), stages(0.1, 0.2, 0.3), 3).startswith("300 tokens are used")


def test_first_round_is_always_done():
    assert reason_to_stop(StoppingConfig(patience=1, seconds=1, tokens=1), stages(0.1), 1) == ""


def test_round_that_has_begun_is_done_to_its_end():
    begun = [*stages(0.3, 0.2), FinishedStage("002-search", 9, 1.0, {}, {}, 1)]
    assert reason_to_stop(StoppingConfig(patience=1), begun, 2) == ""


@pytest.mark.parametrize("name", ["patience", "seconds", "tokens"])
def test_negative_limit_is_refused(name: str):
    with pytest.raises(UserError, match=f"stopping.{name} is -1"):
        StoppingConfig(**{name: -1})


def test_run_that_has_used_its_tokens_ends_and_says_why(wee: Path, settings: Path, runs: Path):
    copy = copy_run(wee, runs, upto="001-evaluate")
    done = command(settings, "--runs", str(runs), "--stopping.tokens", "1")
    assert done.status == 0 and "the loop ends after round 1:" in done.out
    assert "002-search" not in results(copy)
    assert summary_of(copy)["stopped"].endswith("(stopping.tokens 1)") and len(summary_of(copy)["iterations"]) == 1


def test_run_that_did_all_its_rounds_was_not_stopped(wee: Path):
    assert summary_of(wee)["stopped"] is None
