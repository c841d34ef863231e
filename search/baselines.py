"""What a search is compared with, on the same rows, paths and pages: best-of-n and a step-level beam.

Both grow some paths from the root to their ends, a level at a time, and then others, for as long as the rollouts and
the budgets of `SearchConfig` allow. Best-of-n continues every path by one step; a beam draws K candidates for each of
its paths and goes on with the best B of what it has, programs included. A path without program is worth 0 unseen; it
leaves a beam.

Verdicts are asked for in the order of the ranking, until `tree_executions` are spent; a program that the tree has asked
about before has the same verdict, and costs nothing. By `drawn` each round is judged before the next, and so is a
beam's; best-of-n with another ranking is judged when all its paths are there.

Random keys derive from (seed, iteration, problem) and the number of the expansion in its tree, and a level is taken in
when all of it has been drawn: the result does not depend on company or time.
"""

from __future__ import annotations

from collections import deque
from concurrent.futures import Future
from dataclasses import dataclass, field

import numpy as np

from o1coder_jax.records import Judgement
from search.config import SearchConfig
from search.expansion import Expansion
from search.growing import Attached, Judge, take_in, within_budget
from search.tree import Node, Rollout, Tree


@dataclass(frozen=True)
class Move:
    """What a tree did.

    Attributes:
      attached: candidates that it took in.
      wanted: expansions that it wants drawn.
      given_up: nodes that nobody will continue.
    """

    attached: list[Attached] = field(default_factory=list)
    wanted: list[Expansion] = field(default_factory=list)
    given_up: list[int] = field(default_factory=list)


@dataclass
class Levels:
    """The host's side of a tree that grows by levels.

    Attributes:
      place: among the trees; seed: (2,), key data.
      paths: so many were begun.
      drawing: the expansions of the level under way.
      beam: ends of the paths that grow together, best first for a beam: programs, and steps that go on.
      ends: of all paths that are complete and were not put in order to be judged.
      queue: those that were, and await their turn.
      verdicts: those that are missing, oldest first.
      over: nothing is left to do.
    """

    tree: Tree
    place: int
    seed: np.ndarray
    judge: Judge
    config: SearchConfig
    paths: int = 0
    drawing: list[Expansion] = field(default_factory=list)
    beam: list[int] = field(default_factory=list)
    ends: list[int] = field(default_factory=list)
    queue: deque[int] = field(default_factory=deque)
    verdicts: deque[tuple[Node, Future[Judgement]]] = field(default_factory=deque)
    over: bool = False
    _expansions: int = 0
    _asked: dict[str, Future[Judgement]] = field(default_factory=dict)
    _counted: set[Future[Judgement]] = field(default_factory=set)

    @property
    def awaited(self) -> list[Future[Judgement]]:
        """Verdicts without which the tree cannot go on."""
        return [future for _, future in list(self.verdicts)[:1]]

    def advance(self) -> Move:
        """Does all that can be done without a further step or verdict."""
        self._settle()
        if self.drawing and not all(expansion.complete for expansion in self.drawing):
            return Move()
        attached = [self._attach(expansion) for expansion in self.drawing]
        given_up: list[int] = []
        if self.drawing:
            self._choose([number for new in attached for number in new.numbers if number >= 0])
        self.drawing = self._level()
        if not self.drawing:
            if attached:
                given_up = [*range(1, len(self.tree.nodes))]
                self._end_round()
            self._ask()
            if not self.verdicts and not self.queue:
                self._begin()
        return Move(attached, self.drawing if not self.over else [], given_up)

    # Growing.

    def _begin(self) -> None:
        """Begins other paths, has all judged that are left, or ends."""
        if self.paths < self.config.rollouts and within_budget(self.tree, self.config):
            count = min(self.config.together, self.config.rollouts - self.paths)
            self.paths += count
            one = self.config.baseline.kind == "beam"  # its paths part at the first step
            self.drawing = [self._expansion(0) for _ in range(1 if one else count)]
        elif self.ends:
            self.queue, self.ends = deque(self._ranked(self.ends)), []
            self._ask()
            self.over = not self.verdicts
        else:
            self.over = True

    def _level(self) -> list[Expansion]:
        return [self._expansion(node) for node in self.beam if not self.tree.nodes[node].terminal]

    def _expansion(self, node: int) -> Expansion:
        number, self._expansions = self._expansions, self._expansions + 1
        return Expansion.begin(self.place, self.tree, node, number=number, seed=self.seed, width=self.config.samples)

    def _attach(self, expansion: Expansion) -> Attached:
        return take_in(self.tree, expansion, range(len(expansion.steps)), merge=self.config.merge_identical)

    def _choose(self, new: list[int]) -> None:
        """Goes on with all paths, or with the best of them; those that ended without program are at their end."""
        nodes = self.tree.nodes
        done = [node for node in self.beam if nodes[node].terminal]
        if self.config.baseline.kind == "beam":
            self.ends += [node for node in new if nodes[node].terminal and nodes[node].code is None]
            able = [node for node in [*done, *new] if not nodes[node].terminal or nodes[node].code is not None]
            self.beam = self._ranked(able)[: self.config.baseline.beams]
        else:
            # A path that has ended keeps its place, so that paths stay in the order in which they were begun.
            step = iter(new)
            self.beam = [node if node in done else next(step) for node in self.beam or new]

    def _end_round(self) -> None:
        self.ends += self.beam
        self.beam = []
        if self.config.baseline.kind == "beam" or self.config.baseline.ranking == "drawn":
            self.queue, self.ends = deque(self._ranked(self.ends)), []

    # Ranking and judging.

    def _ranked(self, nodes: list[int]) -> list[int]:
        return sorted(nodes, key=self._score, reverse=True)  # stable: of equals the first comes first

    def _score(self, node: int) -> float:
        path = [self.tree.nodes[step] for step in self.tree.path(node)]
        opinions = [step.opinion for step in path if step.opinion is not None]
        ranking = self.config.baseline.ranking
        if ranking == "likelihood":
            return sum(step.log_probability for step in path) / sum(step.drawn for step in path)
        if ranking == "prm_last":
            return opinions[-1]
        return min(opinions) if ranking == "prm_min" else 0.0

    def _ask(self) -> None:
        """Has programs judged in their order: all that the budget allows, or one after the other until one passes."""
        while self.queue and not (self.config.stop_when_solved and self.verdicts):
            node = self.tree.nodes[self.queue.popleft()]
            if node.code is None:
                node.judge(Tree.NO_PROGRAM, self.config.alpha)
            elif (known := self._asked.get(node.code)) is not None:
                self.verdicts.append((node, known))
            elif self._may_judge():
                self.tree.executions += 1
                self._asked[node.code] = self.judge(self.tree.problem, node.code)
                self.verdicts.append((node, self._asked[node.code]))

    def _may_judge(self) -> bool:
        spent = self.config.tree_executions and self.tree.executions >= self.config.tree_executions
        return not spent and not (self.config.stop_when_solved and self.tree.solved)

    def _settle(self) -> None:
        """Takes the verdicts that have come, the oldest first."""
        while self.verdicts and self.verdicts[0][1].done():
            node, future = self.verdicts.popleft()
            if future not in self._counted:
                self._counted.add(future)
                self.tree.count(future.result())
            node.judge(future.result(), self.config.alpha)

    @property
    def rollouts(self) -> list[Rollout]:
        """Where the paths that were judged ended, in the order of their nodes."""
        return [Rollout(index) for index, node in enumerate(self.tree.nodes) if node.reward is not None]
