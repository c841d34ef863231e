"""Forests that grow by script instead of a model: candidates, priors, values and verdicts are drawn by hash."""

from __future__ import annotations

import functools
import random
from collections import Counter, deque
from collections.abc import Sequence
from dataclasses import dataclass, field

import jax
import jax.numpy as jnp
import numpy as np

from o1coder_jax.sampling import fold, seed_for
from search.forest import Forest, Growth, empty, nodes_needed, plant
from search.rollouts import Orders, Rules, move
from search.selection import SelectionConfig
from search.widening import ONCE, Widening
from tests.search.oracle import Candidate, Oracle


@dataclass(frozen=True)
class Case:
    """Rules and shape of a forest."""

    selection: SelectionConfig
    window: int = 1
    value_weight: float = 0.0
    trees: int = 10
    width: int = 3
    depth: int = 4
    rollouts: int = 20
    widening: Widening = ONCE

    @property
    def rules(self) -> Rules:
        return Rules(self.rollouts, self.window, self.value_weight, self.selection, self.widening)

    @property
    def nodes(self) -> int:
        return nodes_needed(rollouts=self.rollouts, depth=self.depth, width=self.width)

    def seeds(self, numbers: Sequence[int]) -> np.ndarray:
        return np.asarray(fold(jnp.tile(seed_for(7), (len(numbers), 1)), jnp.asarray(numbers)))

    def __str__(self) -> str:
        kind = f"reselect-{self.selection.rule}" if self.selection.reselect else self.selection.rule
        wide = f"E{self.widening.expansions}" if self.widening.expansions > 1 else ""
        return f"{kind}-{self.selection.schedule}-W{self.window}-v{self.value_weight}-K{self.width}{wide}"


@dataclass
class Script:
    """What the candidates and verdicts of one tree are: a function of the path of slots, and of the script's number.

    Scripts differ in how often a candidate is terminal, merged away, or could not be checked, and in their budgets.
    Rewards and values are multiples of 1/64, so that sums are exact.
    """

    number: int
    case: Case
    paths: list[tuple[int, ...]] = field(default_factory=lambda: [()])
    times: Counter[int] = field(default_factory=Counter)
    solved: bool = False
    drawn: int = 0

    def __post_init__(self) -> None:
        rng = random.Random(self.number)
        self.terminal = rng.choice([0.0, 0.2, 0.5, 1.0])
        self.merged = rng.choice([0.0, 0.3, 0.9])
        self.unchecked = rng.choice([0.0, 0.0, 0.3, 1.0])
        self.stops_when_solved = rng.random() < 0.2
        self.budget = rng.choice([4, 1000, 1000, 1000])

    def may_start(self) -> bool:
        return self.drawn < self.budget and not (self.stops_when_solved and self.solved)

    def candidates(self, node: int) -> list[Candidate | None]:
        path, time = self.paths[node], self.times[node]
        self.times[node] += 1
        rng = random.Random(f"{self.number} {path} {time}")
        out: list[Candidate | None] = []
        for slot in range(self.case.width):
            merged = slot + time > 0 and rng.random() < self.merged
            terminal = len(path) + 1 >= self.case.depth or rng.random() < self.terminal
            new = Candidate(terminal, rng.uniform(-3, 0), rng.randrange(65) / 64, rng.randrange(1, 33) / 64)
            out.append(None if merged else new)
            if not merged:
                self.paths.append((*path, time * self.case.width + slot))
        self.drawn += 1
        return out

    def reward(self, node: int) -> float | None:
        rng = random.Random(f"{self.number} {self.paths[node]} reward")
        reward = None if rng.random() < self.unchecked else rng.choice([0.0, 1.0, rng.randrange(65) / 64])
        self.solved |= reward == 1.0
        return reward

    def oracle(self, seed: np.ndarray) -> Oracle:
        case = self.case
        return Oracle(
            seed, case.rollouts, case.selection, self.candidates, self.reward, case.window, case.value_weight,
            self.may_start, case.widening.expansions, case.widening.weight,
        ).grow()  # fmt: skip


@functools.partial(jax.jit, static_argnames=("rules",), donate_argnames=("forest",))
def turn(forest: Forest, orders: Orders, *, rules: Rules) -> Forest:
    return move(forest, orders, rules)


@dataclass
class Host:
    """The host's side of one tree: verdicts that are missing and when they come, all that was asked."""

    script: Script
    late: random.Random | None
    asked: list[int] = field(default_factory=list)
    missing: deque[tuple[int, int]] = field(default_factory=deque)
    ready: int | None = None

    def comes(self, now: int) -> int:
        return now if self.late is None else now + self.late.randrange(6)


def _empty(case: Case, trees: int) -> Forest:
    mass = case.selection.rule == "boltzmann"
    return empty(trees, case.nodes, case.width * case.widening.expansions, case.window, mass=mass)


def grow_forest(case: Case, numbers: Sequence[int], *, late: int | None = None) -> tuple[Forest, list[Host]]:
    """Grows the trees of some scripts side by side, as `search/waves.py` does.

    Candidates and verdicts come at once, or, with the seed `late`, some turns later and in any order.
    """
    rng = None if late is None else random.Random(late)
    hosts = [Host(Script(number, case), rng) for number in numbers]
    everyone = jnp.ones(len(hosts), bool)
    forest = plant(_empty(case, len(hosts)), everyone, jnp.asarray(case.seeds(numbers)))
    seen = jax.device_get(forest)
    for now in range(10_000):
        forest = turn(forest, _orders(hosts, seen, now), rules=case.rules)
        seen = jax.device_get(forest)
        check(seen, case)
        for t, host in enumerate(hosts):
            for i in range(len(host.asked), int(seen.asked[t])):
                node = int(seen.waiting[t, i % case.window])
                host.asked.append(node)
                host.missing.append((node, host.comes(now + 1)))
            if seen.walking[t] and host.ready is None:
                host.ready = host.comes(now + 1)
        if not any(host.missing or host.ready for host in hosts):
            return seen, hosts
    raise AssertionError("the forest does not come to an end")


def _orders(hosts: Sequence[Host], seen: Forest, now: int) -> Orders:
    trees, width = len(hosts), hosts[0].script.case.width
    settles, counted, starts, which = np.zeros((4, trees), bool)
    reward = np.zeros(trees, np.float32)
    fresh, terminal = np.zeros((2, trees, width), bool)
    prior, value, chance = np.zeros((3, trees, width), np.float32)
    for t, host in enumerate(hosts):
        if host.missing and host.missing[0][1] <= now and not seen.walking[t]:
            verdict = host.script.reward(host.missing.popleft()[0])
            settles[t], counted[t], reward[t] = True, verdict is not None, verdict or 0.0
        if host.ready is not None and host.ready <= now:
            host.ready = None
            which[t] = True
            for k, new in enumerate(host.script.candidates(int(seen.cursor[t]))):
                if new is not None:
                    fresh[t, k], (terminal[t, k], prior[t, k], value[t, k], chance[t, k]) = True, new
        starts[t] = host.script.may_start()
    boltzmann = hosts[0].script.case.selection.rule == "boltzmann"
    growth = Growth(which, fresh, terminal, prior, value, chance if boltzmann else None)
    return Orders(settles, reward, counted, growth, starts)


def check(forest: Forest, case: Case) -> None:
    """What holds of every forest between turns."""
    for t in range(forest.parent.shape[0]):
        count = int(forest.count[t])
        parent, children = forest.parent[t, :count], forest.children[t, :count]
        visits, pending, closed = forest.visits[t, :count], forest.pending[t, :count], forest.closed[t, :count]
        assert parent[0] == Forest.NONE and (parent[1:] < np.arange(1, count)).all()
        links = [(c, n) for n in range(count) for c in children[n].tolist() if c != Forest.NONE]
        assert sorted(links) == [(c, int(parent[c])) for c in range(1, count)]
        inner = np.array([bool(len(row[row != Forest.NONE])) for row in children])
        assert (inner == (forest.drawn[t, :count] > 0)).all()
        assert not (inner & forest.terminal[t, :count]).any()
        for n in np.flatnonzero(inner):
            below = children[n][children[n] != Forest.NONE]
            assert visits[below].sum() <= visits[n]
            assert pending[below].sum() <= pending[n]
            last = forest.drawn[t, n] >= case.widening.expansions
            exhausted = closed[below].all() and last and not case.selection.reselect
            if forest.mass is None:
                assert closed[n] == exhausted
            else:
                fresh = max(1 - forest.mass.chance[t, below].sum(), 0)
                left = fresh + (forest.mass.chance[t, below] * forest.mass.left[t, below]).sum()
                left = 0 if closed[n] else left
                assert fresh == 0 or forest.mass.left[t, n] == left  # else the script's chances add up to more than 1
                assert closed[n] >= exhausted
                share = case.selection.exhausted
                assert closed[n] or (forest.mass.left[t, n] >= share and not (closed[below].all() and fresh < share))
        if case.window > 1:
            assert pending[0] == forest.asked[t] - forest.settled[t]
        assert 0 <= forest.asked[t] - forest.settled[t] <= case.window
        assert forest.rollouts[t] <= case.rollouts
        assert not (forest.walking[t] and closed[forest.cursor[t]])
