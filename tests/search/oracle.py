"""The search algorithm once more, in plain Python, one tree at a time: what the arrays are compared with.

Written from the formulas, node by node and rollout by rollout; of the search it takes only the constants that separate
its random numbers.
"""

from __future__ import annotations

import functools
import math
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import jax
import numpy as np

from search.selection import GUMBEL, SELECTION, SelectionConfig

Reward = float | None  # None: could not be checked


class Candidate(NamedTuple):
    """A step that was drawn: whether it ends its path, its log-probability, its value in [0, 1], its probability."""

    terminal: bool
    prior: float = 0.0
    value: float = 0.0
    chance: float = 1.0


@dataclass
class OracleNode:
    parent: int
    terminal: bool = False
    prior: float = 0.0
    value: float = 0.0
    chance: float = 1.0
    slots: list[int | None] = field(default_factory=list)  # children, None where a candidate was merged away
    drawn: int = 0
    closed: bool = False
    visits: int = 0
    total: float = 0.0
    pending: int = 0
    reward: float = 0.0
    judged: bool = False
    left: float = 1.0

    @property
    def children(self) -> list[int]:
        return [child for child in self.slots if child is not None]

    @property
    def expanded(self) -> bool:
        return self.drawn > 0

    @property
    def passed(self) -> int:
        return self.visits + self.pending


@dataclass
class Oracle:
    """One tree.

    Args:
      seed: key data of the tree.
      expand: for a node's number, its candidates in order, None for one that was merged away.
      judge: for a terminal's number, its reward.
      window: W; `value_weight`: of a leaf's value against the verdict.
      expansions, widening: how often a node may be expanded at most, and c of 1 + c sqrt(N).
      starts: whether another rollout may start; asked whenever there is something new.
    """

    seed: np.ndarray
    rollouts: int
    config: SelectionConfig
    expand: Callable[[int], Sequence[Candidate | None]]
    judge: Callable[[int], Reward]
    window: int = 1
    value_weight: float = 0.0
    starts: Callable[[], bool] = lambda: True
    expansions: int = 1
    widening: float = 0.0
    nodes: list[OracleNode] = field(default_factory=lambda: [OracleNode(-1)])
    done: int = 0
    asked: list[int] = field(default_factory=list)
    _missing: deque[tuple[int, int | None]] = field(default_factory=deque)
    _allowed: bool = True
    _each: int = 0
    _vain: int = 0

    def grow(self) -> Oracle:
        while True:
            while self._allowed and len(self._missing) < self.window and self._unfinished():
                self._rollout()
            if not self._missing:
                return self
            self._settle()

    def path(self, node: int) -> list[int]:
        """From a node up to the root."""
        return [node, *self.path(self.nodes[node].parent)] if node else [0]

    def _unfinished(self) -> bool:
        return self.done < self.rollouts and not self.nodes[0].closed

    def _rollout(self) -> None:
        node, leaf = 0, None
        while not self.nodes[node].terminal and (self.value_weight < 1 or leaf is None):
            adds = not self.nodes[node].expanded or (leaf is None and self._widens(node))
            if adds and not self._attach(node):
                if not self._boltzmann:
                    self.nodes[node].drawn = self.expansions if self._all_closed(node) else self.nodes[node].drawn
                if self._all_closed(node) and self.nodes[node].drawn >= self.expansions:
                    # There is nothing here: begin again.
                    self._exhaust(node)
                    if self.nodes[0].closed:
                        return
                    node = 0
                if self._boltzmann:
                    self._vain, node = self._vain + 1, 0
                    if not self._allowed:
                        return
                continue
            # What a rollout adds first is what it goes to.
            old = self.nodes[node].slots[: -self._each] if adds and leaf is None else []
            node = self._choose(node, without=old)
            if adds and leaf is None:
                leaf = node
        if self.nodes[node].terminal:
            self._reach(node, leaf)
        else:
            self._back_up(self.path(node), self.nodes[node].value)
        self.done += 1

    def _all_closed(self, node: int) -> bool:
        return all(self.nodes[child].closed for child in self.nodes[node].children)

    @property
    def _boltzmann(self) -> bool:
        return self.config.rule == "boltzmann"

    def _widens(self, node: int) -> bool:
        """Progressive widening: 1 + c sqrt(N) expansions, another when nothing is open below, up to the bound."""
        if self._boltzmann:
            weights = self._weights(node)
            return None in weights and max(weights, key=weights.__getitem__) is None
        number, passed = self.nodes[node].drawn, self.nodes[node].passed
        more = self._all_closed(node) or number < 1 + self.widening * math.sqrt(passed)
        return number < self.expansions and more

    def _attach(self, node: int) -> bool:
        """Expands a node; says whether that gave it a child."""
        candidates = self.expand(node)
        self._each = len(candidates)
        for new in candidates:
            self.nodes[node].slots.append(None if new is None else len(self.nodes))
            if new is not None:
                self.nodes.append(OracleNode(node, new.terminal, new.prior, new.value, new.chance))
        self.nodes[node].drawn += 1
        self._allowed = self.starts()
        return any(new is not None for new in candidates)

    def _reach(self, node: int, leaf: int | None) -> None:
        if self.config.reselect and self.nodes[node].judged:
            # The published code: reached again, the terminal counts a visit; only the nodes above count the reward.
            self.nodes[node].visits += 1
            self._back_up(self.path(node)[1:], self.nodes[node].reward)
            return
        self._missing.append((node, leaf))
        self.asked.append(node)
        for passed in self.path(node):
            self.nodes[passed].pending += 1
        if not self.config.reselect:
            self._exhaust(node)

    def _settle(self) -> None:
        """The oldest verdict that is missing comes."""
        node, leaf = self._missing.popleft()
        reward = self.judge(node)
        self._allowed = self.starts()
        path = self.path(node)
        for passed in path:
            self.nodes[passed].pending -= 1
        self.nodes[node].judged = reward is not None
        self.nodes[node].reward = reward or 0.0
        if reward is None:
            return
        below = path[: path.index(leaf)] if leaf is not None and leaf != node else path
        self._back_up(below, reward)
        if len(below) < len(path):
            opinion = self.nodes[leaf].value
            self._back_up(path[len(below) :], (1 - self.value_weight) * reward + self.value_weight * opinion)

    def _back_up(self, path: Sequence[int], reward: float) -> None:
        for passed in path:
            self.nodes[passed].visits += 1
            self.nodes[passed].total += reward

    def _exhaust(self, number: int) -> None:
        """Nobody shall come to this node again."""
        if self._boltzmann:
            self._spend(number)
        else:
            for passed in self.path(number):
                self._close(self.nodes[passed])

    def _close(self, node: OracleNode) -> None:
        below = all(self.nodes[child].closed for child in node.children)
        node.closed = node.terminal or (node.drawn >= self.expansions and below)

    def _spend(self, number: int) -> None:
        """What is at this node is no longer left to draw; where hardly anything is, nobody goes again."""
        gone = self.nodes[number].left
        for passed in self.path(number):
            node = self.nodes[passed]
            node.left -= gone
            last = node.drawn >= self.expansions or self._uncovered(passed) < self.config.exhausted
            node.closed |= node.terminal or node.left < self.config.exhausted or (self._all_closed(passed) and last)
            if node.closed:
                gone, node.left = gone + node.left, 0.0
            gone *= node.chance

    # The rules.

    def _uncovered(self, number: int) -> float:
        return max(1 - sum(self.nodes[child].chance for child in self.nodes[number].children), 0.0)

    def _weights(self, number: int) -> dict[int | None, float]:
        """Log-weight and noise of the open children, and of a fresh draw (None) where one is allowed."""
        node = self.nodes[number]
        noise = _noise(self.seed, self.done, self._vain, number, width=1 + self._each * self.expansions)
        weights: dict[int | None, float] = {}
        if node.drawn < self.expansions:
            mean = node.total / max(node.passed, 1)
            weights[None] = _log(self._uncovered(number)) + self.config.sharpness * mean + noise[0]
        for child in node.children:
            if not self.nodes[child].closed:
                mass = self.nodes[child].chance * self.nodes[child].left
                tilt = self.config.sharpness * self._mean(child)
                weights[child] = _log(mass) + tilt + noise[1 + node.slots.index(child)]
        return weights

    def _choose(self, number: int, *, without: Sequence[int | None] = ()) -> int:
        node = self.nodes[number]
        able = [child for child in node.children if not self.nodes[child].closed and child not in without]
        if self.config.rule == "uct":
            unvisited = [child for child in able if not self.nodes[child].passed]
            if unvisited:
                chance = _uniform(self.seed, self.done, number, width=self._each * self.expansions)
                return max(unvisited, key=lambda child: chance[node.slots.index(child)])
            return max(able, key=lambda child: self._uct(node, self.nodes[child]))
        if self._boltzmann:
            weights = self._weights(number)
            return max(able, key=weights.__getitem__)
        if self.config.rule == "puct":
            share = self._softmax({child: self.nodes[child].prior for child in node.children})
            spread = self._exploration() * math.sqrt(max(node.passed, 1))
            return max(
                able, key=lambda child: self._mean(child) + spread * share[child] / (1 + self.nodes[child].passed)
            )
        return self._halving(node, able) if number == 0 else self._improved(node, able)

    def _uct(self, parent: OracleNode, child: OracleNode) -> float:
        spread = math.sqrt(math.log(parent.passed) / child.passed)
        return child.total / child.passed + self._exploration() * spread

    def _exploration(self) -> float:
        progress = self.done / max(self.rollouts - 1, 1)
        decay = {"constant": 1.0, "linear": 1 - 0.9 * progress, "exponential": 0.1**progress}[self.config.schedule]
        return self.config.exploration * decay

    def _mean(self, number: int) -> float:
        """Rewards over visits, those that await their verdict included; an unvisited node has its own value, or
        its parent's mean where there are no values."""
        node = self.nodes[number]
        if node.passed:
            return node.total / node.passed
        parent = self.nodes[node.parent]
        return node.value if self.value_weight else parent.total / max(parent.visits, 1)

    def _halving(self, node: OracleNode, able: list[int]) -> int:
        """Sequential halving over the root's children by Gumbel noise + log prior + transformed mean."""
        noise = _gumbel(self.seed, width=len(node.slots))
        share = self._softmax({child: self.nodes[child].prior for child in node.children})
        worth = {
            child: noise[node.slots.index(child)] + math.log(share[child]) + self._transformed(node, child)
            for child in able
        }
        turn = considered(len(node.children), self.rollouts)[min(node.passed, self.rollouts - 1)]
        due = [child for child in able if self.nodes[child].passed == turn]
        return max(due or able, key=worth.__getitem__)

    def _improved(self, node: OracleNode, able: list[int]) -> int:
        """Softmax of log prior + transformed mean, against the share of visits."""
        policy = self._softmax({c: self.nodes[c].prior + self._transformed(node, c) for c in node.children})
        visits = 1 + sum(self.nodes[child].passed for child in node.children)
        return max(able, key=lambda child: policy[child] - self.nodes[child].passed / visits)

    def _transformed(self, node: OracleNode, child: int) -> float:
        most = max(self.nodes[c].passed for c in node.children)
        return (self.config.visit_weight + most) * self.config.value_scale * self._mean(child)

    @staticmethod
    def _softmax(logits: dict[int, float]) -> dict[int, float]:
        mass = {child: math.exp(logit) for child, logit in logits.items()}
        return {child: m / sum(mass.values()) for child, m in mass.items()}


def considered(children: int, budget: int) -> list[int]:
    """Sequential halving as a list: at each rollout, the visits of the children whose turn it is.

    Phases of `budget / (phases * left)` visits for each child that is left, at least one; then half of them are left,
    at least two. A single child's turn is always.
    """
    if children == 1:
        return list(range(budget))
    phases, left, rounds, turns = math.ceil(math.log2(children)), children, 0, []
    while len(turns) < budget:
        each = max(1, budget // (phases * left))
        for _ in range(each):
            turns += [rounds] * left
            rounds += 1
        left = max(2, left // 2)
    return turns[:budget]


@functools.partial(jax.jit, static_argnames=("width",))
def _draw_uniform(seed, rollout, node, *, width):
    key = jax.random.wrap_key_data(seed)
    for step in (SELECTION, rollout, node):
        key = jax.random.fold_in(key, step)
    return jax.random.uniform(key, (width,))


def _uniform(seed: np.ndarray, rollout: int, node: int, *, width: int) -> list[float]:
    return np.asarray(_draw_uniform(seed, rollout, node, width=width)).tolist()


def _log(mass: float) -> float:
    return math.log(max(mass, 1e-30))


@functools.partial(jax.jit, static_argnames=("width",))
def _draw_noise(seed, rollout, vain, node, *, width):
    key = jax.random.wrap_key_data(seed)
    for step in (SELECTION, rollout, vain, node):
        key = jax.random.fold_in(key, step)
    return jax.random.gumbel(key, (width,))


def _noise(seed: np.ndarray, rollout: int, vain: int, node: int, *, width: int) -> list[float]:
    return np.asarray(_draw_noise(seed, rollout, vain, node, width=width)).tolist()


@functools.partial(jax.jit, static_argnames=("width",))
def _draw_gumbel(seed, *, width):
    return jax.random.gumbel(jax.random.fold_in(jax.random.wrap_key_data(seed), GUMBEL), (width,))


def _gumbel(seed: np.ndarray, *, width: int) -> list[float]:
    return np.asarray(_draw_gumbel(seed, width=width)).tolist()
