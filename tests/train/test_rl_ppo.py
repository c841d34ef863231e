"""PPO: what is earned where, advantages on tokens, and a critic that goes on from round to round."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from o1coder_jax import checkpoint
from o1coder_jax.adapters import AdapterConfig
from o1coder_jax.errors import UserError
from o1coder_jax.policy_losses import ClipConfig
from tests.train.rl_world import SCORERS, path
from tests.train.world import opened, read_lines
from train import rl
from train.data import example
from train.rl import RLConfig
from train.rl.config import CriticConfig, PPOConfig
from train.rl.critic import Critic
from train.rl.lessons import path_example, with_probabilities
from train.rl.ppo import decisions, estimated, lesson, rewards, whitened

PPO = RLConfig(algorithm="ppo", problems=1, samples=2)
STEPS = dataclasses.replace(PPO, advantages="steps")
# Three steps of 2, 1 and 2 tokens after a prompt of 2.
WALK = path([7, 8, 9, 5, 6], [0.1, 0.2, 0.4], ends=[1, 2, 4])


def scored(config: RLConfig) -> Any:
    return with_probabilities([path_example(WALK, [0.0] * 3, config)], SCORERS)[0][0]


def test_whole_reward_comes_with_the_last_token():
    np.testing.assert_allclose(rewards(WALK, scored(PPO), PPO), [0, 0, 0, 0, 0, 0, 0.7], rtol=1e-6)


def test_each_steps_credit_comes_with_its_last_token():
    np.testing.assert_allclose(rewards(WALK, scored(STEPS), STEPS), [0, 0, 0, 0.1, 0.2, 0, 0.4], rtol=1e-6)


def test_penalty_is_paid_token_by_token():
    """log pi - log ref is 0.2 at each of the five tokens of the answer."""
    config = dataclasses.replace(STEPS, clip=ClipConfig(kl=0.5), ppo=PPOConfig(penalty="reward"))
    expected = np.array([0, 0, 0, 0.1, 0.2, 0, 0.4]) - 0.1 * np.array([0, 0, 1, 1, 1, 1, 1])
    np.testing.assert_allclose(rewards(WALK, scored(config), config), expected, rtol=1e-5, atol=1e-6)
    assert config.loss_clip.kl == 0 and STEPS.loss_clip.kl == STEPS.clip.kl


def test_decisions():
    over_steps = dataclasses.replace(PPO, ppo=PPOConfig(over="steps"))
    assert decisions(WALK, PPO).tolist() == [0, 0, 1, 1, 1, 1, 1]
    assert decisions(WALK, over_steps).tolist() == [0, 0, 1, 0, 1, 1, 0]


def test_tokens_of_a_step_have_the_advantage_of_its_decision():
    config = dataclasses.replace(STEPS, ppo=PPOConfig(over="steps", decay=1.0))
    value = np.array([9, 9, 0.3, 9, 0.1, 0.2, 9], np.float32)
    one = scored(config) | {"value": value, "decides": decisions(WALK, config)}
    [found] = estimated([one | {"reward": rewards(WALK, one, config)}], config, 2)
    to_go = [0.7, 0.6, 0.4]
    expected = np.repeat([to_go[0] - 0.3, to_go[1] - 0.1, to_go[2] - 0.2], [2, 1, 2])
    np.testing.assert_allclose(found["advantage"], [0, 0, *expected], rtol=1e-5)
    np.testing.assert_allclose(found["returns"], [0, 0, 0.7, 0, 0.6, 0.4, 0], rtol=1e-5)


def test_whitening_is_over_the_tokens_that_are_learned_from():
    examples = [example([1, 2], answer, advantage=values) for answer, values in (([3], [1.0]), ([4, 5], [2.0, 6.0]))]
    found = np.concatenate([one["advantage"] for one in whitened(examples)])
    assert found[[0, 1, 3, 4]].tolist() == [0] * 4
    np.testing.assert_allclose(found[[2, 5, 6]], (np.array([1, 2, 6]) - 3) / np.std([1, 2, 6]), rtol=1e-5)


@pytest.mark.parametrize("value", [0.7, -1000.1])
def test_rounding_is_not_whitened_into_a_signal(value: float):
    same = [example([1, 2], [3] * 7, advantage=[value] * 7) for _ in range(9)]
    almost = [one | {"advantage": np.nextafter(one["advantage"], np.float32(0))} for one in same[:4]]
    for examples in (same, same + almost):
        assert not np.concatenate([one["advantage"] for one in whitened(examples)]).any()


def test_small_advantages_are_whitened():
    [one] = whitened([example([1], [2, 3], advantage=[1e-5, -1e-5])])
    np.testing.assert_allclose(one["advantage"], [0, 1, -1], rtol=2e-3)


class ZeroCritic:
    """Expects nothing, and keeps what it is taught."""

    def values(self, examples: Any) -> list[np.ndarray]:
        return [np.zeros(len(one["tokens"]), np.float32) for one in examples]

    def learn(self, examples: Any) -> dict[str, float]:
        self.seen = examples
        return {"critic_loss": 0.0}


def test_path_that_could_not_be_checked_teaches_neither_policy_nor_critic():
    critic: Any = ZeroCritic()
    group = [WALK, dataclasses.replace(WALK, usable=False, credits=[9.0, 9.0, 9.0])]
    alone, both = (lesson([g], SCORERS, PPO, critic) for g in (group[:1], group))
    assert len(critic.seen) == 1
    jax.tree.map(np.testing.assert_array_equal, alone.units, both.units)
    assert alone.figures == both.figures


def test_round_that_could_not_be_checked_teaches_nothing():
    critic: Any = ZeroCritic()
    assert lesson([[dataclasses.replace(WALK, usable=False)]], SCORERS, PPO, critic).units == []


@pytest.mark.parametrize(
    "critic",
    [CriticConfig(weights="own"), CriticConfig(weights="policy"), CriticConfig(adapter=AdapterConfig(rank=2))],
    ids=["own", "policy", "adapter"],
)
def test_critic_learns_and_goes_on_in_the_next_round(wee: Path, runs: Path, critic: CriticConfig):
    ppo = PPOConfig(over="steps", penalty="reward", critic=critic)
    changes: dict[str, Any] = {"algorithm": "ppo", "advantages": "steps", "mismatch": "truncated", "ppo": ppo}
    with opened(wee, runs, upto="001-prm", rl=changes) as session:
        rl.run(session, 1)
        result = session.require("001-rl", "")
        rows = [row for row in read_lines(session.run.folder / "metrics.jsonl") if row["stage"] == "001-rl"]
        stored = checkpoint.restore(session.run.checkpoint("critic-001"))
        model = session.load_policy("policy-001")
        again = Critic(session, 2, lambda: (model.graph, model.weights))
        head = again._trainer.state.weights
        np.testing.assert_array_equal(stored["value"], head["value"][...])
        values = again.values([example([1, 2, 3], [4, 5])])[0]
    assert result["algorithm"] == "ppo" and result["weights"] != session.require("001-sft", "")["weights"]
    assert np.abs(stored["value"]).max() > 0 and np.isfinite(values).all() and np.abs(values[1:]).max() > 0
    assert all(np.isfinite(row["critic_loss"]) and row["mismatch"] < 1e-3 for row in rows)


def test_iteration_without_its_critic_is_told_so(wee: Path, runs: Path):
    with opened(wee, runs, upto="002-prm", rl={"algorithm": "ppo"}) as s, pytest.raises(UserError, match="critic-001"):
        rl.run(s, 2)


@pytest.mark.parametrize(
    ("settings", "complaint"),
    [
        ({"over": "steps", "decay": 1.5}, "decay is 1.5"),
        ({"discount": -0.1}, "discount is -0.1"),
    ],
)
def test_settings_out_of_range_are_refused(settings: dict[str, Any], complaint: str):
    with pytest.raises(UserError, match=complaint):
        PPOConfig(**settings)


@pytest.mark.parametrize(
    ("settings", "complaint"),
    [
        ({"epochs": 0}, "epochs is 0"),
        ({"clip": 0.0}, "clip is 0.0"),
        ({"adapter": AdapterConfig(dropout=0.1)}, "a critic is clipped around what it said without"),
    ],
)
def test_critics_settings_out_of_range_are_refused(settings: dict[str, Any], complaint: str):
    with pytest.raises(UserError, match=complaint):
        CriticConfig(**settings)
