"""A tree in its place: what it waits for, and what it asks of the judge."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field

import numpy as np

from o1coder_jax.records import Judgement, Problem
from o1coder_jax.rewards import terminal_reward
from search.config import SearchConfig
from search.expansion import Expansion
from search.tree import Node, Tree

Judge = Callable[[Problem, str], "Future[Judgement]"]
Opinion = Callable[[Tree, Node], float]
"""What a candidate is worth, in [0, 1]; it is not in the tree yet."""


@dataclass(frozen=True)
class Attached:
    """Candidates that were taken into a tree: which of the K became nodes, and under which number (-1: none)."""

    expansion: Expansion
    fresh: list[bool]
    numbers: list[int]


def take_in(tree: Tree, expansion: Expansion, picked: Sequence[int], *, merge: bool) -> Attached:
    """Makes the picked candidates of a complete expansion nodes, all but repeated ones if `merge`."""
    first = len(tree.nodes)
    new = iter(tree.attach([expansion.drawn[k] for k in picked], merge=merge, known=expansion.known))
    fresh = [k in picked and next(new) for k in range(len(expansion.steps))]
    numbers = np.where(fresh, first + np.cumsum(fresh) - 1, -1)
    return Attached(expansion, fresh, numbers.tolist())


def within_budget(tree: Tree, config: SearchConfig) -> bool:
    """Whether its budgets allow a tree another rollout."""
    solved = config.stop_when_solved and tree.solved
    tokens = config.tree_tokens and tree.tokens >= config.tree_tokens
    executions = config.tree_executions and tree.executions >= config.tree_executions
    return not (solved or tokens or executions)


@dataclass
class Growing:
    """The host's side of a tree that grows.

    Attributes:
      seed: (2,), key data.
      verdicts: those that are missing, oldest first; `asked` were asked for so far.
      walking: a rollout is under way; otherwise the tree awaits its oldest verdict.
      expansion: candidates that are drawn, or weighed against each other by the judge; `expanded` says how often that
        was begun for a node.
    """

    tree: Tree
    seed: np.ndarray
    judge: Judge
    config: SearchConfig
    asked: int = 0
    verdicts: deque[tuple[Node, Future[Judgement]]] = field(default_factory=deque)
    walking: bool = True
    expansion: Expansion | None = None
    expanded: Counter[int] = field(default_factory=Counter)
    _weighed: list[Future[Judgement] | None] = field(default_factory=list)

    @property
    def may_start(self) -> bool:
        """Whether its budgets allow another rollout."""
        return within_budget(self.tree, self.config)

    @property
    def awaited(self) -> list[Future[Judgement]]:
        """Verdicts without which the tree cannot go on."""
        if any(self._weighed):
            return [future for future in self._weighed if future is not None and not future.done()]
        return [self.verdicts[0][1]] if self.verdicts and not self.walking else []

    def expand(self, place: int, node: int) -> Expansion:
        """Begins to draw candidates for a node; each time others."""
        again, self.expanded[node] = self.expanded[node], self.expanded[node] + 1
        children = (child.tokens for child in self.tree.nodes if child.parent == node)
        self.expansion = Expansion.begin(
            place,
            self.tree,
            node,
            number=node + again * self.config.nodes,
            seed=self.seed,
            width=self.config.samples,
            known=frozenset(children if again and self.config.merge_identical else ()),
            again=again > 0,
        )
        return self.expansion

    def ask(self, node: Node) -> None:
        """Has a terminal judged; one without a program has failed without being run."""
        self.asked += 1
        self.verdicts.append((node, self._verdict(node)))

    def _verdict(self, node: Node) -> Future[Judgement]:
        if node.code is not None and node.judgement is None:
            self.tree.executions += 1
            return self.judge(self.tree.problem, node.code)
        known: Future[Judgement] = Future()
        known.set_result(node.judgement or Tree.NO_PROGRAM)
        return known

    def settled(self) -> Node | None:
        """The terminal of the oldest verdict, now judged, if it has come and is due: between two rollouts."""
        if self.walking or not self.verdicts or not self.verdicts[0][1].done():
            return None
        node, future = self.verdicts.popleft()
        if node.code is not None and node.judgement is None:
            self.tree.count(future.result())
        node.judge(future.result(), self.config.alpha)
        return node

    def attached(self) -> Attached | None:
        """Takes complete candidates into the tree."""
        expansion = self.expansion
        if expansion is None or not expansion.complete:
            return None
        picked = self._picked(expansion.drawn)
        if picked is None:
            return None
        self.expansion, self._weighed = None, []
        return take_in(self.tree, expansion, picked, merge=self.config.merge_identical)

    def _picked(self, steps: list[Node]) -> list[int] | None:
        """The candidates to take: all, or the best program alone; None as long as programs are being judged."""
        if not self.config.best_code_only or all(step.code is None for step in steps):
            return list(range(len(steps)))
        if not self._weighed:
            self._weighed = [None if step.code is None else self._verdict(step) for step in steps]
        if self.awaited:
            return None
        worth = [-1.0] * len(steps)
        for k, future in enumerate(self._weighed):
            if future is not None:
                steps[k].judgement = judgement = future.result()
                self.tree.count(judgement)
                reward = terminal_reward(judgement, self.config.alpha)
                worth[k] = -0.5 if reward is None else reward
        return [int(np.argmax(worth))]
