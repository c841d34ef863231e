"""Each algorithm solves a bandit of sequences; the KL penalty holds; a reward model that rises with length."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest

from o1coder_jax.policy_losses import ClipConfig
from o1coder_jax.rewards import PhiConfig
from tests.train.rl_world import HALF, bandit, token_steps
from train.rl import RLConfig
from train.rl.config import CriticConfig, DPOConfig, LossConfig, PPOConfig
from train.step import OptimizerConfig

FAST = OptimizerConfig(learning_rate=2e-2, warmup=0, schedule="constant")
BASE = RLConfig(updates=26, problems=2, samples=16, minibatch=32, clip=ClipConfig(kl=0.0), optimizer=FAST)
CRITIC = CriticConfig(optimizer=FAST)
HEAD = dataclasses.replace(CRITIC, weights="policy")


def config(**changes: Any) -> RLConfig:
    return dataclasses.replace(BASE, **changes)


def paid_for_two_even_tokens(settings: RLConfig) -> list[float]:
    """Mean reward of each round; right is an answer of two tokens, both even, so one in eight at first."""

    def paths_of(prompt: Any, one: Any) -> Any:
        right = len(one.tokens) == 2 and not any(token % 2 for token in one.tokens)
        return token_steps(prompt, one, settings, float(right), [0.0] * len(one.tokens))

    return [float(np.mean([path.outcome for path in paths])) for paths in bandit(settings, paths_of, length=2)]


@pytest.mark.parametrize(
    "settings",
    [
        config(),
        config(advantages="steps", mismatch="truncated"),
        config(loss=LossConfig(cispo=True, deviation=True, length="sequence", drop_equal=False)),
        config(advantages="tree"),
        config(algorithm="ppo", ppo=PPOConfig(critic=CRITIC)),
        config(algorithm="ppo", advantages="steps", ppo=PPOConfig(over="steps", decay=1.0, critic=HEAD)),
        config(
            algorithm="ppo",
            clip=ClipConfig(kl=0.01),
            ppo=PPOConfig(penalty="reward", critic=CRITIC),
        ),
        config(algorithm="dpo", minibatch=4, dpo=DPOConfig(beta=0.5, sft_weight=0.3)),
    ],
    ids=["grpo", "steps-truncated", "cispo", "tree", "ppo", "ppo-steps-head", "ppo-penalty-in-reward", "dpo"],
)
def test_bandit_of_sequences_is_solved(settings: RLConfig):
    means = paid_for_two_even_tokens(settings)
    assert means[0] < 0.35 and np.mean(means[-3:]) > 0.8


def test_penalty_keeps_the_policy_near_the_reference():
    held = paid_for_two_even_tokens(config(clip=ClipConfig(kl=20.0)))
    assert np.mean(held[-3:]) < 0.5


def steps_of_rounds(settings: RLConfig) -> tuple[float, float]:
    """Mean number of steps at first and at last, where the reward model rises with length and likes even tokens.

    At first half of the answers end with each token; none has more than six.
    """

    def paths_of(prompt: Any, one: Any) -> Any:
        rated = [0.2 + 0.1 * j + 0.05 * (token % 2 == 0) for j, token in enumerate(one.tokens, 1)]
        return token_steps(prompt, one, settings, float(one.tokens[-1] >= HALF), rated)

    lengths = [np.mean([len(path.tokens) for path in paths]) for paths in bandit(settings, paths_of, length=6)]
    return float(np.mean(lengths[:3])), float(np.mean(lengths[-3:]))


NO_OUTCOME = PhiConfig(outcome_weight=0.0, floor=0.0, gamma=1.0)


@pytest.mark.parametrize("advantages", ["path", "steps"])
def test_plain_sum_is_exploited_by_length(advantages: Any):
    first, last = steps_of_rounds(config(updates=16, process="sum", advantages=advantages, phi=NO_OUTCOME))
    assert first < 2.6 and last > 4


@pytest.mark.parametrize("advantages", ["path", "steps"])
def test_min_form_is_not_exploited_by_length(advantages: Any):
    first, last = steps_of_rounds(config(updates=16, process="min", advantages=advantages, phi=NO_OUTCOME))
    assert last < first + 0.5
