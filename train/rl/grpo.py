"""GRPO and its variants: advantages from the paths of a group, or of a tree."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from o1coder_jax.advantages import EQUAL, group_advantages, step_advantages, tree_advantages
from train.data import Example
from train.rl.config import RLConfig
from train.rl.lessons import Lesson, Scorers, advantage_figures, corrected, path_example, with_probabilities
from train.rl.rounds import Group


def advantages_of(group: Group, config: RLConfig) -> list[list[float]]:
    """The advantage of each step of each path; 0 for paths that could not be checked."""
    usable, deviation = [path.usable for path in group], config.loss.deviation
    if config.advantages == "steps":
        return step_advantages([path.credits for path in group], usable, deviation=deviation)
    if config.advantages == "tree":
        known = [(path.nodes, path.reward, path.log_probability) for path in group if path.usable]
        found = iter(tree_advantages(*zip(*known, strict=True)) if known else ())
        return [next(found) if path.usable else [0.0] * len(path.ends) for path in group]
    rewards = np.array([path.reward for path in group])
    advantages, _ = group_advantages(rewards, np.array(usable), deviation=deviation)
    return [[float(a)] * len(path.ends) for a, path in zip(advantages, group, strict=True)]


def examples_of(groups: Sequence[Group], config: RLConfig) -> tuple[list[Example], float]:
    """The checked paths of the groups that are learned from, and the share of groups that carry a gradient.

    Each path is one example: of samples a likely one comes up often, of a tree once, see `tree_advantages`.
    """
    examples, alive = [], 0
    for group in groups:
        advantages = advantages_of(group, config)
        differ = any(abs(a) > EQUAL for own in advantages for a in own)
        alive += differ
        if differ or not config.loss.drop_equal:
            examples += [
                path_example(path, own, config) for path, own in zip(group, advantages, strict=True) if path.usable
            ]
    return examples, alive / max(len(groups), 1)


def lesson(groups: Sequence[Group], scorers: Scorers, config: RLConfig) -> Lesson:
    """What the policy gradient learns from a round."""
    examples, alive = examples_of(groups, config)
    scored, measured = with_probabilities(examples, scorers) if examples else ([], {})
    figures = {"groups_used": alive} | advantage_figures(examples) | measured
    return Lesson([[corrected(one, config)] for one in scored], figures)
