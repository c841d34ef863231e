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
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

# Before JAX is imported; for us and for mctx alike.
os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("XLA_FLAGS", "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1")

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

    def unfinished(forest: Forest) -> Array:
        return jnp.any((forest.rollouts < rules.rollouts) & ~forest.closed[:, 0] | (forest.asked > forest.settled))

    def turn(forest: Forest) -> Forest:
        settles = ~forest.walking & (forest.asked > forest.settled)
        number = (forest.rollouts - settles) % _SCRIPT  # of the rollout under way
        row = jax.tree.map(lambda plane: plane[number, forest.trees], script)
        growth = Growth(forest.walking, fresh, row.terminal, row.prior, row.value)
        return move(forest, Orders(settles, row.reward, settles, growth, starts), rules)

    return jax.lax.while_loop(unfinished, turn, forest)


def ours(shape: Shape, rule: Any) -> Callable[[], Forest]:
    """A function that grows the trees once."""
    rules = Rules(shape.simulations, 1, 1.0, SelectionConfig(rule=rule, exploration=EXPLORATION))
    script = jax.device_put(Script.of(shape))
    everyone = jnp.ones(shape.trees, bool)
    seeds = fold(jnp.tile(seed_for(0), (shape.trees, 1)), jnp.arange(shape.trees))

    def run() -> Forest:
        forest = plant(empty(shape.trees, shape.nodes, shape.width, 1), everyone, seeds)
        return jax.block_until_ready(grow_all(forest, script, rules=rules))

    return run


def theirs(shape: Shape, rule: str) -> Callable[[], Array]:
    """As `ours`, with mctx: its MuZero policy is PUCT, its Gumbel policy sequential halving.

    The function returns the visits of the roots' children.
    """
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
        return found.search_tree.summary().visit_counts

    return lambda: jax.block_until_ready(search(script, jax.random.key(0)))


def plain(shape: Shape) -> Callable[[], list[PlainNode]]:
    """As `ours` with PUCT, in plain Python, one tree after the other; the function returns their roots."""
    script = Script.of(shape)
    planes = [plane.swapaxes(0, 1).tolist() for plane in vars(script).values()]
    rows = [list(zip(*(plane[t] for plane in planes), strict=True)) for t in range(shape.trees)]
    return lambda: [_plain_tree(shape, own) for own in rows]


class PlainNode:
    __slots__ = ("children", "closed", "parent", "prior", "terminal", "total", "value", "visits")

    def __init__(self, parent: PlainNode | None, terminal: bool, value: float):
        self.parent, self.terminal, self.value = parent, terminal, value
        self.children: list[PlainNode] = []
        self.closed, self.visits, self.total, self.prior = False, 0, 0.0, 0.0


def _plain_tree(shape: Shape, rows: list[Any]) -> PlainNode:
    root = PlainNode(None, False, 0.0)
    while root.visits < shape.simulations and not root.closed:
        terminal, prior, value, reward = rows[root.visits % _SCRIPT]
        node = root
        while node.children:
            node = _plain_choice(node)
        if not node.terminal:
            most = max(prior)
            mass = [math.exp(p - most) for p in prior]
            scale = 1 / sum(mass)
            for ends, share, worth in zip(terminal, mass, value, strict=True):
                child = PlainNode(node, ends, worth)
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
    return root


def _plain_choice(node: PlainNode) -> PlainNode:
    root = EXPLORATION * math.sqrt(max(node.visits, 1))
    best, chosen = -1.0, node
    for child in node.children:
        if not child.closed:
            mean = child.total / child.visits if child.visits else child.value
            score = mean + root * child.prior / (1 + child.visits)
            if score > best:
                best, chosen = score, child
    return chosen


def simulations(grown: Any) -> int:
    """How many simulations there were in all trees; one that is exhausted has fewer than it was allowed."""
    if isinstance(grown, Forest):
        return int(grown.rollouts.sum())
    if isinstance(grown, list):
        return sum(root.visits for root in grown)
    return int(grown.sum())


def alternating(rivals: dict[str, Callable[[], Any]], rounds: int) -> dict[str, dict[str, float]]:
    """Microseconds of a simulation of a tree: medians of CPU and wall time.

    A first run of each, which compiles, is left out.
    """
    counts = {name: simulations(run()) for name, run in rivals.items()}
    cpu: dict[str, list[float]] = {name: [] for name in rivals}
    wall: dict[str, list[float]] = {name: [] for name in rivals}
    for _ in range(rounds):
        for name, run in rivals.items():
            before = time.process_time(), time.perf_counter()
            run()
            cpu[name].append((time.process_time() - before[0]) / counts[name] * 1e6)
            wall[name].append((time.perf_counter() - before[1]) / counts[name] * 1e6)
    return {
        name: {"cpu_us": round(statistics.median(cpu[name]), 3), "wall_us": round(statistics.median(wall[name]), 3)}
        for name in rivals
    }


def rivals(shape: Shape, rounds: int = 5) -> dict[str, Any]:
    """Ours, mctx and plain Python at one shape."""
    runs: dict[str, Callable[[], Any]] = {f"ours {rule}": ours(shape, rule) for rule in ("puct", "gumbel", "uct")}
    if importlib.util.find_spec("mctx"):
        runs |= {f"mctx {rule}": theirs(shape, rule) for rule in ("puct", "gumbel")}
    else:
        print("mctx is not installed: it is left out (pip install -e '.[bench]')", flush=True)
    return alternating(runs | {"python puct": plain(shape)}, rounds)


def scaling(rounds: int = 5) -> dict[str, Any]:
    """A simulation of one tree with PUCT, by the number of trees, and by the nodes of a tree."""
    base = Shape(trees=256, simulations=64)
    by_trees = {str(t): ours(replace(base, trees=t), "puct") for t in (16, 64, 256, 1024)}
    by_nodes = {str(n): ours(replace(base, simulations=(n - 1) // base.width), "puct") for n in (32, 64, 128, 256, 512)}
    return {"trees": alternating(by_trees, rounds), "nodes": alternating(by_nodes, rounds)}


def main() -> None:
    one_core = {max(os.sched_getaffinity(0))}
    os.sched_setaffinity(0, one_core)  # before JAX meets its devices: its thread pool has the size of this set
    found = {f"rivals, K={width}": rivals(Shape(width=width)) for width in (3, 8)} | {"scaling": scaling()}
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps(found, indent=1) + "\n")
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    run_command(main)
