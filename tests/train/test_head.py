"""A value head on the policy: only the head is trained, on the weights that the next search uses."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from o1coder_jax import checkpoint
from o1coder_jax.errors import UserError
from search.models import load_rater
from tests.train.test_prm import good_and_bad, plant_and_train
from tests.train.world import opened
from train import head, prm, reason, rl, selfplay
from train.session import Session, StageName
from train.step import OptimizerConfig

HEAD: dict[str, Any] = {"weights": "policy", "updates": 40, "optimizer": OptimizerConfig(learning_rate=0.05)}


def head_of(session: Session, name: str) -> str:
    return str(checkpoint.metadata(session.run.checkpoint(name))["head_of"])


@pytest.mark.parametrize("objective", ["pointwise", "pairwise"])
def test_head_alone_orders_good_steps_above_bad_ones(wee: Path, runs: Path, objective: str):
    with opened(wee, runs, upto="tcg", prm=HEAD | {"objective": objective}) as session:
        result = plant_and_train(session, good_and_bad())
        assert result["auc"] > 0.9
        path = session.run.checkpoint("prm-001")
        assert sorted(checkpoint.restore(path)) == ["value", "value_bias"]
        assert head_of(session, "prm-001") == session.require("001-sft", "")["weights"]


def test_head_of_the_next_search_is_fitted_on_the_policy_after_rl(wee: Path, runs: Path):
    changes = {"prm": HEAD | {"updates": 5}, "search": {"value_weight": 0.5}}
    with opened(wee, runs, upto="001-rl", **changes) as session:
        with pytest.raises(UserError, match=r"stage 001-head is not finished; run python -m train\.head --iteration 1"):
            reason.settings_of(session, 2)
        head.run(session, 1)
        result, policy = session.require("001-head", ""), session.require("001-rl", "")["weights"]
        assert (head_of(session, "head-001"), result["skipped"]) == (policy, False)
        assert np.abs(checkpoint.restore(session.run.checkpoint("head-001"))["value"]).max() > 0
        session.parts.selfplay[:] = session.parts.selfplay[:1]
        reason.run(session, 2)
        search = session.require("002-search", "")
        assert (search["reward_model"], search["value_weight"]) == (result["weights"], 0.5)
        assert search["tokens_rated"] == 0  # no second pass
        [made] = [row["provenance"] for row in session.run.read("trees.jsonl") if row["provenance"]["iteration"] == 2]
        assert (made["reward_model"], made["policy"]) == (result["weights"], policy)


def test_rl_scores_steps_with_the_head(wee: Path, runs: Path):
    with opened(wee, runs, upto="001-sft", prm=HEAD | {"updates": 5}, rl={"updates": 1}) as session:
        prm.run(session, 1)
        start = session.load_policy("sft-001")
        assert head_of(session, "prm-001") == start.fingerprint
        rl.run(session, 1)
        with pytest.raises(UserError, match="use the policy that it was fitted on"):
            load_rater(session.run.checkpoint("prm-001"), session.load_policy("policy-001"), session.mesh)


def test_reward_model_with_its_own_weights_has_no_such_stage(wee: Path, runs: Path):
    with opened(wee, runs, upto="001-rl") as session, pytest.raises(UserError, match=r"prm\.weights is own"):
        head.run(session, 1)


@pytest.mark.parametrize(("weights", "stages"), [("own", ["rl", "evaluate"]), ("policy", ["rl", "head", "evaluate"])])
def test_loop_fits_the_head_after_rl(
    wee: Path, runs: Path, monkeypatch: pytest.MonkeyPatch, weights: str, stages: list[str]
):
    asked: list[str] = []
    monkeypatch.setattr(selfplay, "step", lambda session, stage, *rest: asked.append(stage))
    for name in ("summarise", "print_table"):
        monkeypatch.setattr(selfplay, name, lambda _: {})
    with opened(wee, runs, upto="tcg", prm={"weights": weights}) as session:
        selfplay.loop(session)
    for i in (1, 2):
        start = asked.index(StageName(i)("rl"))
        assert asked[start : start + len(stages)] == [StageName(i)(stage) for stage in stages]
