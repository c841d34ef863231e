"""Each algorithm solves a bandit of sequences; the KL penalty holds; reward models that length could exploit."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest

from o1coder_jax.policy_losses import ClipConfig
from o1coder_jax.rewards import PhiConfig, ProcessForm
from tests.train.rl_world import HALF, PROMPTS, bandit, token_steps
from train.rl import RLConfig
from train.rl.config import CriticConfig, DPOConfig, LossConfig, PPOConfig
from train.rl.loop import planned_updates
from train.rl.rounds import Path
from train.step import OptimizerConfig, Trainer

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


def rising(tokens: Sequence[int]) -> list[float]:
    """A reward model that rises with length, and likes even tokens."""
    return [0.2 + 0.1 * j + 0.05 * (token % 2 == 0) for j, token in enumerate(tokens, 1)]


def constant(tokens: Sequence[int]) -> list[float]:
    return [0.5] * len(tokens)


def ends_of_rounds(
    settings: RLConfig, rate: Callable[[Sequence[int]], list[float]], look: Callable[[Path], float]
) -> tuple[float, float]:
    """The mean over paths of what `look` sees, in the first three rounds and in the last, by process rewards alone.

    At first half of the answers end with each token; none has more than six.
    """

    def paths_of(prompt: Any, one: Any) -> Path:
        return token_steps(prompt, one, settings, float(one.tokens[-1] >= HALF), rate(one.tokens))

    means = [np.mean([look(path) for path in paths]) for paths in bandit(settings, paths_of, length=6)]
    return float(np.mean(means[:3])), float(np.mean(means[-3:]))


def steps(path: Path) -> float:
    return len(path.tokens)


def first_is_even(path: Path) -> float:
    return float(path.tokens[0] % 2 == 0)


def by_process(process: ProcessForm, advantages: Any) -> RLConfig:
    only = PhiConfig(outcome_weight=0.0, floor=0.0, gamma=1.0)
    return config(updates=16, process=process, advantages=advantages, phi=only)


@pytest.mark.parametrize("rate", [rising, constant])
@pytest.mark.parametrize("advantages", ["path", "steps"])
def test_plain_sum_is_exploited_by_length(advantages: Any, rate: Any):
    first, last = ends_of_rounds(by_process("sum", advantages), rate, steps)
    assert first < 2.6 and last > 4


def test_the_mean_of_a_constant_is_not_exploited_by_length():
    first, last = ends_of_rounds(by_process("phi", "path"), constant, steps)
    assert last < first + 0.5


@pytest.mark.parametrize(("advantages", "rate"), [("path", rising), ("steps", rising), ("steps", constant)])
def test_the_mean_is_exploited_where_longer_paths_or_what_is_left_of_them_have_more_of_it(advantages: Any, rate: Any):
    first, last = ends_of_rounds(by_process("phi", advantages), rate, steps)
    assert first < 2.6 and last > first + 1.5


@pytest.mark.parametrize("advantages", ["path", "steps"])
def test_min_form_is_not_exploited_by_length(advantages: Any):
    first, last = ends_of_rounds(by_process("min", advantages), rising, steps)
    assert last < first + 0.5


@pytest.mark.parametrize("advantages", ["path", "steps"])
def test_min_form_teaches_the_worst_step(advantages: Any):
    first, last = ends_of_rounds(by_process("min", advantages), rising, first_is_even)
    assert first < 0.65 and last > 0.75


def test_each_round_makes_as_many_updates_whichever_groups_are_dropped(monkeypatch: pytest.MonkeyPatch):
    """The answers to one of the two prompts all earn the same, so that half of the paths are left to learn from."""
    settings, step, taken = config(updates=3, minibatch=16, minibatches=2, epochs=2), Trainer.step, []

    def counted(trainer: Trainer, batch: Any) -> Any:
        taken.append(len(batch["tokens"]))
        return step(trainer, batch)

    def paths_of(prompt: Any, one: Any) -> Any:
        return token_steps(
            prompt, one, settings, float(prompt == PROMPTS[0] and one.tokens[0] % 2), [0.0] * len(one.tokens)
        )

    monkeypatch.setattr(Trainer, "step", counted)
    bandit(settings, paths_of, length=2)
    assert len(taken) == planned_updates(settings) == 3 * 2 * 2
