"""PPO: advantages by a critic, over tokens or over steps."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from o1coder_jax.advantages import gae
from train.data import Example, padded_batch, round_up
from train.rl.config import RLConfig
from train.rl.critic import Critic
from train.rl.lessons import LENGTH_BUCKET, Lesson, Scorers, advantage_figures, corrected, path_example
from train.rl.lessons import with_probabilities as scored_by
from train.rl.rounds import Group, Path

ROUNDING = 1e-6  # float32 advantages that deviate by less are the same: whitened, their rounding would be a signal


def rewards(path: Path, one: Example, config: RLConfig) -> np.ndarray:
    """What is earned at each token of an example of `with_probabilities`: (tokens,).

    With `path` the whole reward comes with the last token, with `steps` each step's credit with the step's last one.
    """
    start = len(path.prompt)
    earned = np.zeros(len(one["tokens"]), np.float32)
    if config.advantages == "steps":
        earned[[start + end for end in path.ends]] = path.credits
    else:
        earned[-1] = path.reward
    if config.ppo.penalty == "reward":
        earned[start:] -= config.clip.kl * (one["now"] - one["reference"])[start:]
    return earned


def decisions(path: Path, config: RLConfig) -> np.ndarray:
    """Where an example's decisions are, 1 or 0: at every token of the answer, or at the first one of each step."""
    start = len(path.prompt)
    out = np.zeros(start + len(path.tokens), np.float32)
    if config.ppo.over == "tokens":
        out[start:] = 1.0
    else:
        out[[start, *(start + end + 1 for end in path.ends[:-1])]] = 1.0
    return out


def estimated(examples: Sequence[Example], config: RLConfig, rows: int) -> list[Example]:
    """Adds `returns`, and `advantage` on each token: that of the decision that it follows from.

    Args:
      examples: with `reward`, `value` and `decides`.
      rows: to pad to, so that few shapes are compiled.
    """
    length = round_up(max(len(one["tokens"]) for one in examples), LENGTH_BUCKET)
    whole = padded_batch(examples, max(rows, len(examples)), length)
    discount, decay = np.float32(config.ppo.discount), np.float32(config.ppo.decay)
    advantages, returns = (
        np.asarray(x) for x in gae(whole["reward"], whole["value"], whole["decides"] > 0, discount, decay)
    )
    out = []
    for row, one in enumerate(examples):
        count = len(one["tokens"])
        last = np.maximum.accumulate(np.where(one["decides"] > 0, np.arange(count), -1))
        advantage = np.where(last >= 0, advantages[row, last], 0.0).astype(np.float32)
        out.append(one | {"returns": returns[row, :count], "advantage": advantage})
    return out


def whitened(examples: Sequence[Example]) -> list[Example]:
    """Advantages with mean 0 and deviation 1 over all tokens that are learned from; 0 where all are the same."""
    values = np.concatenate([one["advantage"][one["weight"] > 0] for one in examples])
    mean, deviation = values.mean(), values.std() + 1e-8
    if deviation <= ROUNDING * max(1.0, abs(mean)):
        return [one | {"advantage": np.zeros_like(one["advantage"])} for one in examples]
    return [
        one | {"advantage": np.where(one["weight"] > 0, (one["advantage"] - mean) / deviation, 0).astype(np.float32)}
        for one in examples
    ]


def lesson(groups: Sequence[Group], scorers: Scorers, config: RLConfig, critic: Critic) -> Lesson:
    """What the policy gradient learns from a round; the critic has then learned from it, too."""
    paths = [path for group in groups for path in group if path.usable]
    if not paths:
        return Lesson([], {"paths_used": 0.0} | advantage_figures([]))
    plain = [path_example(path, [0.0] * len(path.ends), config) for path in paths]
    scored, measured = scored_by(plain, scorers)
    valued = [
        one | {"value": value, "decides": decisions(path, config), "reward": rewards(path, one, config)}
        for path, one, value in zip(paths, scored, critic.values(scored), strict=True)
    ]
    known = estimated(valued, config, config.problems * config.samples)
    errors = critic.learn(known)
    figures = {"paths_used": float(len(paths))} | advantage_figures(known) | measured | errors
    names = ("tokens", "weight", "advantage", "old", "now", "reference")
    taken = [
        {name: one[name] for name in names if name in one} for one in (whitened(known) if config.ppo.whiten else known)
    ]
    return Lesson([[corrected(one, config)] for one in taken], figures)
