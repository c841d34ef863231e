"""The places of a search: who grows where, what each tree asks for, and when it ends. Nothing here is on the device."""

from __future__ import annotations

import math
import zlib
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field, replace

import numpy as np

from o1coder_jax.records import Judgement, Problem
from o1coder_jax.sampling import seed_for
from search.baselines import Levels
from search.config import SearchConfig
from search.counters import Counters
from search.device import Device, Report
from search.expansion import Piece
from search.forest import Growth
from search.growing import Attached, Growing, Judge
from search.rollouts import Orders
from search.slots import Part
from search.tree import Tree


@dataclass
class Places:
    """The trees of this process: a fixed number of places, each with a tree, or free for the next problem.

    Attributes:
      config, judge, counters: of the search.
      seeds: (seed, iteration).
      waiting: problems without a tree yet: number, problem, and prompt.
      parts: rows and pages; each has an equal share of the `count` places, in order.
      tree_tokens: by the problems' numbers, in place of `config.tree_tokens`.
      trees: by place.
    """

    config: SearchConfig
    judge: Judge
    counters: Counters
    seeds: tuple[int, int]
    waiting: deque[tuple[int, Problem, tuple[int, ...]]]
    parts: Sequence[Part]
    count: int
    tree_tokens: Sequence[int] | None = None
    trees: list[Growing | Levels | None] = field(init=False)

    def __post_init__(self) -> None:
        self.trees = [None] * self.count

    @property
    def growing(self) -> bool:
        """Whether any tree is not finished."""
        return any(self.trees)

    @property
    def awaited(self) -> list[Future[Judgement]]:
        """Verdicts without which trees cannot go on."""
        return [future for tree in self.trees if tree is not None for future in tree.awaited]

    def part(self, place: int) -> Part:
        """Where a place's rows and pages are."""
        return self.parts[place * len(self.parts) // len(self.trees)]

    # Plant.

    def _free(self) -> list[deque[int]]:
        """The free places of each part."""
        size = len(self.trees) // len(self.parts)
        return [
            deque(place for place in range(d * size, (d + 1) * size) if self.trees[place] is None)
            for d in range(len(self.parts))
        ]

    def plantings(self, batch: int) -> int:
        """Readings that give free places to waiting problems, when enough are free to be worth one."""
        left, empty = len(self.waiting), not any(self.trees)
        free = [len(places) for places in self._free()]
        count = 0
        while left and (empty or max(free) >= batch):
            empty, count = False, count + 1
            for _ in range(batch):
                for d in range(len(free)):
                    if left and free[d]:
                        left, free[d] = left - 1, free[d] - 1
        return count

    def plant(self, batch: int, now: int) -> tuple[list[list[Piece]], dict[int, np.ndarray]]:
        """Gives free places to waiting problems, at most `batch` in each part.

        Returns:
          Their prompts to read, for each part, and the seeds of the new trees by place.
        """
        free = self._free()
        pieces: list[list[Piece]] = [[] for _ in self.parts]
        seeds = {}
        for _ in range(batch):
            for d, part in enumerate(self.parts):
                if self.waiting and free[d]:
                    place = free[d].popleft()
                    self.trees[place] = growing = self._next_tree(place)
                    seeds[place] = growing.seed
                    pieces[d] += part.read_prompt(growing.tree, now)
        return pieces, seeds

    def _next_tree(self, place: int) -> Growing | Levels:
        number, problem, ids = self.waiting.popleft()
        seed = np.asarray(seed_for(*self.seeds, zlib.crc32(problem.id.encode())))
        config = self.config
        tree = Tree(number, problem, ids, alpha=config.alpha, value_weight=config.value_weight)
        if self.tree_tokens is not None:
            config = replace(config, tree_tokens=self.tree_tokens[number])
        if config.baseline.kind != "none":
            return Levels(tree, place, seed, self.judge, config)
        return Growing(tree, seed, self.judge, config)

    # Turn.

    def orders(self) -> Orders:
        """Verdicts that have come, and candidates that are complete."""
        count, width = len(self.trees), self.config.samples
        settles, counted, starts, which = np.zeros((4, count), bool)
        reward = np.zeros(count, np.float32)
        fresh, terminal = np.zeros((2, count, width), bool)
        prior, value, chance = np.zeros((3, count, width), np.float32)
        for place, growing in enumerate(self.trees):
            if not isinstance(growing, Growing):
                continue
            if (node := growing.settled()) is not None:
                settles[place], counted[place], reward[place] = True, node.reward is not None, node.reward or 0.0
            if (new := growing.attached()) is not None:
                steps = new.expansion.drawn
                which[place], fresh[place] = True, new.fresh
                terminal[place] = [step.terminal for step in steps]
                prior[place] = [step.prior for step in steps]
                value[place] = [step.opinion or 0.0 for step in steps]
                chance[place] = [math.exp(step.log_probability) for step in steps]
                self._adopt(place, new)
            starts[place] = growing.may_start
        growth = Growth(which, fresh, terminal, prior, value, chance if self.config.draws_on else None)
        return Orders(settles, reward, counted, growth, starts)

    def _adopt(self, place: int, new: Attached) -> None:
        self.part(place).adopt(new.expansion, new.numbers)
        steps = zip(new.expansion.drawn, new.fresh, strict=True)
        self.counters.kept += sum(step.drawn for step, fresh in steps if fresh)

    # Follow.

    def follow(self, report: Report, device: Device) -> Iterator[Tree]:
        """Sees where the trees went: to terminals (judge them), to a new node (draw candidates), or to their end."""
        ended = []
        for place, growing in enumerate(self.trees):
            if not isinstance(growing, Growing):
                continue
            for number in range(growing.asked, int(report.asked[place])):
                growing.ask(growing.tree.nodes[report.waiting[place, number % self.config.window]])
            growing.walking = bool(report.walking[place])
            if growing.walking and growing.expansion is None:
                self.part(place).waiting.append(growing.expand(place, int(report.cursor[place])))
            over = report.rollouts[place] >= self.config.rollouts or report.exhausted[place]
            if not growing.walking and not growing.verdicts and (over or not growing.may_start):
                ended.append(place)
        if ended:
            rollouts = device.ends(ended)
            for place in ended:
                tree = self._clear(place)
                tree.finish(rollouts[place])
                yield tree

    def advance(self) -> Iterator[Tree]:
        """The same for the trees of a baseline, which move on the host."""
        for place, growing in enumerate(self.trees):
            if not isinstance(growing, Levels):
                continue
            part, move = self.part(place), growing.advance()
            for new in move.attached:
                self._adopt(place, new)
            for node in move.given_up:
                part.cache.release((growing.tree.number, node))
            part.waiting.extend(move.wanted)
            if growing.over:
                tree = self._clear(place)
                tree.finish(growing.rollouts)
                yield tree

    def _clear(self, place: int) -> Tree:
        growing = self.trees[place]
        assert growing is not None
        self.trees[place] = None
        self.part(place).cache.release_tree(growing.tree.number, len(growing.tree.nodes))
        self.counters.executions += growing.tree.executions
        self.counters.infra_errors += growing.tree.infra_errors
        return growing.tree
