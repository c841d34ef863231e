"""What the trees themselves cost: select, expand, back up, without any model; on one core.

    python -m benchmarks.trees            # everything; the figures go to benchmarks/results/trees.json

`rivals` grows 256 trees by 256 simulations three times: as arrays with `search.rollouts.move`, with mctx (optional:
`pip install -e '.[bench]'`) at the same shapes, and by the same algorithm in plain Python. A simulation is one walk,
one expansion into K children with random priors and values, and one backup; a tenth of our candidates are terminals
whose random verdict comes at once, mctx has none. `scaling` is the time of one simulation of one tree over the
number of trees, and over the nodes of a tree. Rounds alternate between rivals, and medians are given.
"""

from __future__ import annotations

import functools
import importlib.util
import json
import math
import os
import random
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

os.environ.setdefault("JAX_PLATFORMS", "cpu")  # before JAX is imported

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from o1coder_jax.errors import run_command
from o1coder_jax.sampling import fold, seed_for
from search.forest import Forest, Growth, empty, plant
from search.rollouts import Orders, Rules, move
from search.selection import SelectionConfig

RESULTS = Path(__file__).parent / "results" / "trees.json"
TERMINAL = 0.1  # share of the candidates
EXPLORATION = 1.25
_SCRIPT = 512  # rows of random numbers, used in turn


@dataclass(frozen=True)
class Shape:
    """T trees, simulations of each, K children of a node."""

    trees: int = 256
    simulations: int = 256
    width: int = 3

    @property
    def nodes(self) -> int:
        return 1 + self.simulations * self.width


@dataclass(frozen=True)
class Script:
    """Random candidates and rewards: (S, T, K) and (S, T)."""

    terminal: Any
    prior: Any
    value: Any
    reward: Any

    @classmethod
    def of(cls, shape: Shape) -> Script:
        rng = np.random.default_rng(0)
        size = (_SCRIPT, shape.trees, shape.width)
        return cls(
            rng.random(size) < TERMINAL,
            rng.normal(size=size).astype(np.float32),
            rng.random(size).astype(np.float32),
            rng.random(size[:2]).astype(np.float32),
        )


jax.tree_util.register_dataclass(Script)


@functools.partial(jax.jit, static_argnames=("rules",), donate_argnames=("forest",))
def grow_all(forest: Forest, script: Script, *, rules: Rules) -> Forest:
    """Moves all trees until each has had its rollouts, or is exhausted."""
    fresh = jnp.ones(script.terminal.shape[1:], bool)
    starts = jnp.ones(len(fresh), bool)

    def unfinished(state: tuple[Forest, Array]) -> Array:
        forest, _ = state
        return jnp.any((forest.rollouts < rules.rollouts) & ~forest.closed[:, 0] | (forest.asked > forest.settled))

    def turn(state: tuple[Forest, Array]) -> tuple[Forest, Array]:
        forest, number = state
        row = jax.tree.map(lambda plane: plane[number % _SCRIPT], script)
        growth = Growth(forest.walking, fresh, row.terminal, row.prior, row.value)
        settles = ~forest.walking & (forest.asked > forest.settled)
        return move(forest, Orders(settles, row.reward, settles, growth, starts), rules), number + 1

    return jax.lax.while_loop(unfinished, turn, (forest, jnp.array(0)))[0]


def ours(shape: Shape, rule: Any) -> Callable[[], int]:
    """A function that grows the trees once, and says how many simulations that were."""
    rules = Rules(shape.simulations, 1, 1.0, SelectionConfig(rule=rule, exploration=EXPLORATION))
    script = jax.device_put(Script.of(shape))
    everyone = jnp.ones(shape.trees, bool)
    seeds = fold(jnp.tile(seed_for(0), (shape.trees, 1)), jnp.arange(shape.trees))

    def run() -> int:
        forest = plant(empty(shape.trees, shape.nodes, shape.width, 1), everyone, seeds)
        return int(grow_all(forest, script, rules=rules).rollouts.sum())

    return run


def theirs(shape: Shape, rule: str) -> Callable[[], int]:
    """As `ours`, with mctx: its MuZero policy is PUCT, its Gumbel policy sequential halving."""
    import mctx

    script = jax.device_put(Script.of(shape))
    trees = jnp.arange(shape.trees)

    def expand(script: Script, _: Any, action: Array, row: Array) -> tuple[Any, Array]:
        row = (row * shape.width + action + 1) % _SCRIPT
        value = jnp.take_along_axis(script.value[row, trees], action[:, None], axis=1)[:, 0]
        nothing = jnp.zeros(shape.trees)
        prior = script.prior[row, trees]
        return mctx.RecurrentFnOutput(reward=nothing, discount=nothing + 1, prior_logits=prior, value=value), row

    @jax.jit
    def search(script: Script, key: Array) -> Array:
        start = jnp.zeros(shape.trees, jnp.int32)
        root = mctx.RootFnOutput(prior_logits=script.prior[0], value=script.reward[0], embedding=start)
        options: dict[str, Any] = {}
        if rule == "gumbel":
            policy, options = mctx.gumbel_muzero_policy, {"max_num_considered_actions": shape.width}
        else:
            policy, options = mctx.muzero_policy, {"dirichlet_fraction": 0.0}
        found = policy(script, key, root, expand, num_simulations=shape.simulations, **options)
        return found.search_tree.summary().visit_counts.sum()

    return lambda: int(search(script, jax.random.key(0)))


def plain(shape: Shape, rule: str = "puct") -> Callable[[], int]:
    """As `ours` with PUCT, in plain Python, one tree after the other."""
    assert rule == "puct"
    script = Script.of(shape)
    rows = jax.tree.map(lambda plane: plane.tolist(), script)

    def run() -> int:
        return sum(
            _plain_tree(shape, [tuple(plane[s][t] for plane in vars(rows).values()) for s in range(_SCRIPT)])
            for t in range(shape.trees)
        )

    return run


class _PlainNode:
    __slots__ = ("children", "closed", "parent", "prior", "terminal", "total", "value", "visits")

    def __init__(self, parent: _PlainNode | None, terminal: bool, value: float):
        self.parent, self.terminal, self.value = parent, terminal, value
        self.children: list[_PlainNode] = []
        self.closed, self.visits, self.total, self.prior = False, 0, 0.0, 0.0


def _plain_tree(shape: Shape, rows: list[Any]) -> int:
    root, done, turn = _PlainNode(None, False, 0.0), 0, 0
    while done < shape.simulations and not root.closed:
        terminal, prior, value, reward = rows[turn % _SCRIPT]
        turn += 1
        node = root
        while node.children:
            node = _plain_choice(node)
        if not node.terminal:
            most = max(prior)
            mass = [math.exp(p - most) for p in prior]
            scale = 1 / sum(mass)
            for ends, share, worth in zip(terminal, mass, value, strict=True):
                child = _PlainNode(node, ends, worth)
                child.prior = share * scale
                node.children.append(child)
            node = _plain_choice(node)
        worth = reward if node.terminal else node.value
        closes, above = node.terminal, node
        while True:
            above.visits += 1
            above.total += worth
            closes = closes and all(child.closed for child in above.children)
            above.closed = above.closed or closes
            if above.parent is None:
                break
            above = above.parent
        done += 1
    return done


def _plain_choice(node: _PlainNode) -> _PlainNode:
    root = EXPLORATION * math.sqrt(max(node.visits, 1))
    best, chosen = -1.0, node
    for child in node.children:
        if not child.closed:
            mean = child.total / child.visits if child.visits else child.value
            score = mean + root * child.prior / (1 + child.visits)
            if score > best:
                best, chosen = score, child
    return chosen


def alternating(rivals: dict[str, Callable[[], int]], rounds: int) -> dict[str, dict[str, float]]:
    """Median CPU and wall microseconds of a simulation of a tree; the first run, which compiles, is left out."""
    cpu: dict[str, list[float]] = {name: [] for name in rivals}
    wall: dict[str, list[float]] = {name: [] for name in rivals}
    for run in rivals.values():
        run()
    for _ in range(rounds):
        for name, run in rivals.items():
            before = time.process_time(), time.perf_counter()
            simulations = run()
            cpu[name].append((time.process_time() - before[0]) / simulations * 1e6)
            wall[name].append((time.perf_counter() - before[1]) / simulations * 1e6)
    return {
        name: {"cpu_us": round(statistics.median(cpu[name]), 3), "wall_us": round(statistics.median(wall[name]), 3)}
        for name in rivals
    }


def rivals(shape: Shape, rounds: int = 5) -> dict[str, Any]:
    """Ours, mctx and plain Python at one shape."""
    runs = {f"ours {rule}": ours(shape, rule) for rule in ("puct", "gumbel", "uct")}
    if importlib.util.find_spec("mctx"):
        runs |= {f"mctx {rule}": theirs(shape, rule) for rule in ("puct", "gumbel")}
    else:
        print("mctx is not installed: it is left out (pip install -e '.[bench]')", flush=True)
    return alternating(runs | {"python puct": plain(shape)}, rounds)


def scaling(rounds: int = 3) -> dict[str, Any]:
    """A simulation of one tree with PUCT, by the number of trees, and by the nodes of a tree."""
    base = Shape(trees=256, simulations=64)
    by_trees = {str(t): ours(replace(base, trees=t), "puct") for t in (16, 64, 256, 1024)}
    by_nodes = {str(n): ours(replace(base, simulations=(n - 1) // base.width), "puct") for n in (32, 128, 512)}
    return {"trees": alternating(by_trees, rounds), "nodes": alternating(by_nodes, rounds)}


def main() -> None:
    os.sched_setaffinity(0, {random.choice(sorted(os.sched_getaffinity(0)))})
    found = {f"rivals, K={width}": rivals(Shape(width=width)) for width in (3, 8)} | {"scaling": scaling()}
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps(found, indent=1) + "\n")
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    run_command(main)
