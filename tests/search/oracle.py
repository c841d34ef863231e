"""The search algorithm once more, in plain Python, one tree at a time: what the arrays are compared with."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field

import jax
import numpy as np

from search.selection import SELECTION, SelectionConfig

Reward = float | None  # None: could not be checked


@dataclass
class OracleNode:
    parent: int
    terminal: bool
    slots: list[int | None] = field(default_factory=list)  # children, None where a candidate was merged away
    expanded: bool = False
    closed: bool = False
    visits: int = 0
    total: float = 0.0

    @property
    def children(self) -> list[int]:
        return [child for child in self.slots if child is not None]


@dataclass
class Oracle:
    """One tree.

    Args:
      seed: key data of the tree.
      expand: for a node's number, its candidates in order: None (merged away) or whether it is terminal.
      judge: for a terminal's number, its reward.
    """

    seed: np.ndarray
    rollouts: int
    config: SelectionConfig
    expand: Callable[[int], list[bool | None]]
    judge: Callable[[int], Reward]
    nodes: list[OracleNode] = field(default_factory=lambda: [OracleNode(-1, False)])
    done: int = 0
    walks: list[list[int]] = field(default_factory=list)

    def grow(self) -> Oracle:
        while self.done < self.rollouts and not self.nodes[0].closed:
            self._rollout()
        return self

    def _rollout(self) -> None:
        node, walk = 0, [0]
        while not self.nodes[node].terminal:
            if not self.nodes[node].expanded:
                self._attach(node)
            node = self._choose(node)
            walk.append(node)
        reward = self.judge(node)
        for passed in reversed(walk):
            self._back_up(self.nodes[passed], reward)
        self.walks.append(walk)
        self.done += 1

    def _attach(self, node: int) -> None:
        for terminal in self.expand(node):
            self.nodes[node].slots.append(None if terminal is None else len(self.nodes))
            if terminal is not None:
                self.nodes.append(OracleNode(node, terminal))
        self.nodes[node].expanded = True

    def _choose(self, number: int) -> int:
        node = self.nodes[number]
        open_children = [child for child in node.children if not self.nodes[child].closed]
        unvisited = [child for child in open_children if not self.nodes[child].visits]
        if unvisited:
            chance = self._chance(number, len(node.slots))
            return max(unvisited, key=lambda child: chance[node.slots.index(child)])
        return max(open_children, key=lambda child: self._uct(node, self.nodes[child]))

    def _uct(self, parent: OracleNode, child: OracleNode) -> float:
        progress = self.done / max(self.rollouts - 1, 1)
        decay = {"constant": 1.0, "linear": 1 - 0.9 * progress, "exponential": 0.1**progress}[self.config.schedule]
        spread = math.sqrt(math.log(parent.visits) / child.visits)
        return child.total / child.visits + self.config.exploration * decay * spread

    def _chance(self, number: int, width: int) -> np.ndarray:
        key = jax.random.wrap_key_data(self.seed)
        for step in (SELECTION, self.done, number):
            key = jax.random.fold_in(key, step)
        return np.asarray(jax.random.uniform(key, (width,)))

    def _back_up(self, node: OracleNode, reward: Reward) -> None:
        if reward is not None:
            node.visits += 1
            node.total += reward
        node.closed = node.terminal or (node.expanded and all(self.nodes[child].closed for child in node.children))
