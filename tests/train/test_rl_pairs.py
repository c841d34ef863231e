"""Iterative DPO: which pairs a round learns from, and against which reference."""

from __future__ import annotations

import dataclasses
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from o1coder_jax.errors import UserError
from o1coder_jax.policy_losses import ClipConfig
from o1coder_jax.records import ProcessRecord, Verdict
from o1coder_jax.rewards import PhiConfig
from tests.train.rl_world import SCORERS, groups_of
from tests.train.world import opened, record, results, retire
from train import rl
from train.rl import RLConfig
from train.rl.config import DPOConfig, LossConfig
from train.rl.dpo import StoredPairs, lesson, path_pairs, sampled_pairs, step_pairs
from train.rl.lessons import Scorers, Shape, minibatches


def first_tokens(pairs: Any) -> list[tuple[int, int]]:
    """The tokens after the prompt of chosen and rejected."""
    return [tuple(int(one["tokens"][int(np.argmax(one["weight"] > 0))]) for one in pair) for pair in pairs]


def test_best_is_chosen_and_worst_rejected():
    assert first_tokens(sampled_pairs(groups_of([[0.5, 0.1, 0.9], [0.3, 0.8, 0.5]]), 0.1)) == [(12, 10 + 1), (14, 13)]


def test_ties_are_skipped():
    assert sampled_pairs(groups_of([[0.5, 0.5], [0.5, 0.45]]), 0.1) == []


def test_path_that_could_not_be_checked_is_in_no_pair():
    groups = groups_of([[0.9, 0.5, 0.1], [0.9, 0.1, 0.1]], [[False, True, True], [False, True, False]])
    assert first_tokens(sampled_pairs(groups, 0.1)) == [(11, 12)]


def test_paths_of_a_tree_are_paired_and_those_of_another_are_not():
    wrong, infra = Verdict.WRONG_ANSWER, Verdict.INFRA_ERROR
    records = [
        record("a", [([10], 1.0)], tree=0),
        record("a", [([11], 0.0)], tree=0, verdict=wrong),
        record("b", [([12], 1.0)], tree=1),
        record("b", [([13], 0.0)], tree=1, verdict=infra),
        record("c", [([14], 0.0)], tree=2, verdict=None),
        record("c", [([15], 1.0)], tree=2),
    ]
    assert first_tokens(path_pairs(records, random.Random(0))) == [(10, 11), (15, 14)]


def test_siblings_are_paired_by_value_and_the_loss_is_on_them_alone():
    records = [
        record("a", [([10], 0.5), ([11, 12], 1.0)], nodes=[1, 2]),
        record("a", [([10], 0.5), ([13], 0.2)], nodes=[1, 3]),
    ]
    [[chosen, rejected]] = step_pairs(records, 0.1)
    assert chosen["tokens"].tolist() == [3, 4, 5, 10, 11, 12] and chosen["weight"].tolist() == [0, 0, 0, 0, 1, 1]
    assert rejected["tokens"].tolist() == [3, 4, 5, 10, 13] and step_pairs(records, 0.9) == []


@pytest.mark.parametrize("pairs", ["paths", "steps"])
def test_stored_pairs_are_drawn_anew(pairs: Any):
    records = [
        record("a", [([10 * tree + right], float(right))], tree=tree, nodes=[1 + right])
        for tree in range(8)
        for right in (0, 1)
    ]
    verdicts = {0.0: Verdict.WRONG_ANSWER, 1.0: Verdict.ACCEPTED}
    records = [dataclasses.replace(r, verdict=verdicts[r.steps[0].value or 0.0]) for r in records]
    stored, rng = StoredPairs(records, DPOConfig(pairs=pairs)), random.Random(0)
    rounds = [first_tokens(stored.draw(4, rng)) for _ in range(8)]
    assert all(len(one) == 4 and all(a == b + 1 for a, b in one) for one in rounds)
    assert len({token for one in rounds for token, _ in one}) == 8


def test_a_leaf_that_has_not_ended_is_neither_right_nor_wrong():
    one, other = (record("a", [([10 + i], 0.5)], tree=1, nodes=[1 + i]) for i in range(2))
    right = dataclasses.replace(one, verdict=Verdict.ACCEPTED)
    wrong = dataclasses.replace(other, verdict=Verdict.WRONG_ANSWER)
    assert len(path_pairs([right, wrong], random.Random(0))) == 1
    assert path_pairs([right, dataclasses.replace(wrong, ended="", verdict=None)], random.Random(0)) == []


def test_stored_pairs_have_the_labels_of_the_last_judging(wee: Path, runs: Path):
    """A tree whose right path is wrong by now has no pair, and no path that is right and wrong at once."""
    changes: dict[str, Any] = {"algorithm": "dpo", "samples": 8, "minibatch": 4, "dpo": DPOConfig(pairs="paths")}
    with opened(wee, runs, upto="001-prm", rl=changes) as session:
        rows = [row for row in session.run.read("process.jsonl") if row["iteration"] == 1]
        with session.run.stage_scope("001-relabel") as stage:
            failed = {"verdict": "wrong_answer", "tests": "harder", "relabelled_from": "easier"}
            stage.append("process.jsonl", [ProcessRecord.from_json(row | failed) for row in rows])
        rl.run(session, 1)
        assert session.require("001-rl", "")["policy_updates"] == 0


def test_reference_is_the_policy_as_it_is_now():
    found = lesson(sampled_pairs(groups_of([[1.0, 0.0]]), 0.1), Scorers(SCORERS.policy, None))
    assert [one["reference"].tolist() for one in found.units[0]] == [[-0.5] * 4] * 2
    assert found.figures["pairs"] == 1 and found.figures["mismatch"] > 0


def test_round_of_ties_teaches_nothing():
    assert lesson([], SCORERS).units == []


def test_pairs_stay_together_and_padding_is_no_pair():
    units = lesson(sampled_pairs(groups_of([[1.0, 0.0]] * 3), 0.1), SCORERS).units
    batches = list(minibatches(units, Shape(4), random.Random(0)))
    assert [batch["valid"].tolist() for batch in batches] == [[1, 1, 0, 0], [1, 1, 1, 1]]
    for batch in batches:
        rows = batch["tokens"][:, 2].reshape(-1, 2)
        assert all(lose == win + 1 for win, lose in rows if win)
        np.testing.assert_allclose(batch["reference"], np.where(batch["valid"] > 0, -1.4, 0.0), rtol=1e-6)


@pytest.mark.parametrize("pairs", ["samples", "paths", "steps"])
def test_stage_learns_from_pairs(wee: Path, runs: Path, pairs: Any):
    dpo, phi = DPOConfig(pairs=pairs, margin=1e-4), PhiConfig(outcome_weight=0.5)  # what is tiny differs by little
    changes: dict[str, Any] = {"algorithm": "dpo", "samples": 8, "updates": 1, "minibatch": 4, "dpo": dpo, "phi": phi}
    with opened(wee, runs, upto="001-prm", rl=changes) as session:
        if pairs != "samples":
            retire(session, session.parts.selfplay)  # no problem is drawn, so none needs to be left
        rl.run(session, 1)
        result = session.require("001-rl", "")
        [row] = [row for row in session.run.read("metrics.jsonl") if row["stage"] == "001-rl"]
        assert row["pairs"] > 0 and 0 <= row["accuracy"] <= 1
        assert result["weights"] != results(wee)["001-sft"]["weights"]
        assert (result["tokens_generated"] > 0) == (pairs == "samples")


@pytest.mark.parametrize(
    ("settings", "complaint"),
    [
        ({"algorithm": "dpo", "minibatch": 5}, "minibatch is 5"),
        ({"algorithm": "dpo", "advantages": "steps"}, "leave rl.advantages steps"),
        ({"algorithm": "dpo", "mismatch": "truncated"}, "rl.mismatch truncated out"),
        ({"algorithm": "dpo", "loss": LossConfig(cispo=True)}, "in whose loss rl.loss and rl.clip have no part"),
        ({"algorithm": "dpo", "clip": ClipConfig(high=1.0)}, "in whose loss rl.loss and rl.clip have no part"),
        (
            {"algorithm": "dpo", "clip": ClipConfig(kl=0.1)},
            "rl.clip.kl 0.1 has no part; set rl.dpo.beta, or rl.clip.kl",
        ),
        ({"algorithm": "dpo", "dpo": {"pairs": "paths"}, "process": "min"}, "in which rl.process min has no part"),
        ({"algorithm": "dpo", "dpo": {"pairs": "steps"}, "samples": 4}, "in which rl.samples 4 has no part; .* at 8"),
        ({"algorithm": "ppo", "loss": LossConfig(deviation=True)}, "are of grpo"),
        ({"algorithm": "ppo", "loss": LossConfig(drop_equal=False)}, "are of grpo"),
        ({"algorithm": "ppo", "advantages": "tree"}, "ppo does not know"),
        ({"advantages": "tree", "mismatch": "truncated"}, "do not keep"),
        ({"mismatch_cap": 0.5}, "mismatch_cap is 0.5"),
        ({"dpo": {"margin": 0.0}}, "margin is 0.0"),
        ({"dpo": {"beta": 0.0}}, "beta 0.0"),
    ],
)
def test_settings_that_do_not_go_together_are_refused(settings: dict[str, Any], complaint: str):
    with pytest.raises(UserError, match=complaint):
        own = {"dpo": DPOConfig(**settings["dpo"])} if "dpo" in settings else {}
        RLConfig(**settings | own)


@pytest.mark.parametrize("kl", [0.0, ClipConfig().kl])
def test_penalty_that_is_off_or_that_nobody_set_goes_with_pairs(kl: float):
    assert RLConfig(algorithm="dpo", clip=ClipConfig(kl=kl)).loss_clip.kl == kl
