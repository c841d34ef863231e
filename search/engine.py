"""What a search does on the device: jitted functions over all trees and rows, their state donated.

`read` takes prompts (or paths that were dropped) into pages, `wave` decodes candidates, `rate` asks the process reward
model about them, `turn` backs up, grows and walks on; `search/waves.py` calls them. D is the number of parts of the
mesh; what belongs to a part has D as its first axis, and no operation crosses parts.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Bool, Float, Int, UInt32

from o1coder_jax import pages as paging
from o1coder_jax.decode import Paths, Rows, decode, empty_paths, empty_rows, open_rows, read_on
from o1coder_jax.mesh import ROWS
from o1coder_jax.pages import Pages
from o1coder_jax.stopping import Stops
from o1coder_jax.transformer import Transformer
from search import forest as forests
from search.config import SearchConfig
from search.forest import Forest
from search.rollouts import Orders, Rules, move


@dataclass(frozen=True)
class Sizes:
    """Of one part of the mesh.

    Attributes:
      rows, paths: in generation at a time.
      turnover: rows that start, or end, in a wave at most; `openings`: paths that are opened in one.
      prompts: that are read in one go.
      pages: in the pool.
    """

    rows: int
    paths: int
    turnover: int
    openings: int
    prompts: int
    pages: int

    @classmethod
    def of(cls, config: SearchConfig, parts: int, nodes: int) -> Sizes:
        rows, width = config.slots // parts, config.samples
        turnover = max(1, -(-rows // 2))
        paths = rows if width == 1 else min(rows, -(-2 * rows // width) + 1)
        everything = config.prompt_pages * (config.trees // parts + 1)
        everything += config.trees // parts * (nodes - 1) * config.step_pages
        return cls(
            rows=rows,
            paths=paths,
            turnover=turnover,
            openings=min(paths, -(-2 * turnover // width)),
            prompts=max(1, config.trees // parts // 8),
            pages=config.pages // parts or max(everything, (paths + 1) * config.path_pages),
        )


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Generation:
    """What decodes: the paths in use and the rows that continue them, for each part."""

    paths: Paths
    rows: Rows


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Reading:
    """Tokens to take into pages, B pieces of S at most in each part.

    Attributes:
      table, filled: (D, B, Q), the pages that hold what comes before, see `pages.gather`.
      tokens: (D, B, S), `count` (D, B) of them, the first at position `start` (D, B).
      places: (D, B, S), where they go; out of range for none.
    """

    table: Int[Any, "D B Q"]
    filled: Int[Any, "D B Q"]
    tokens: Int[Any, "D B S"]
    count: Int[Any, "D B"]
    start: Int[Any, "D B"]
    places: Int[Any, "D B S"]


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Plan:
    """What a wave begins with, in each part.

    Attributes:
      kept: (D, A), rows whose step is to be kept, and `kept_places` (D, A, S), where its keys and values go.
      slot: (D, O), paths that are opened; `table`, `filled` (D, O, Q), their pages.
      last, length: (D, O), their last token, and the number of tokens with it; `last_page_place`, `last_path_place`
        (D, O), where its keys go in the pool and in the path.
      row, path, lane: (D, A), rows that start; `seeds` (D, A, 2).
    """

    kept: Int[Any, "D A"]
    kept_places: Int[Any, "D A S"]
    slot: Int[Any, "D O"]
    table: Int[Any, "D O Q"]
    filled: Int[Any, "D O Q"]
    last: Int[Any, "D O"]
    length: Int[Any, "D O"]
    last_page_place: Int[Any, "D O"]
    last_path_place: Int[Any, "D O"]
    row: Int[Any, "D A"]
    path: Int[Any, "D A"]
    lane: Int[Any, "D A"]
    seeds: UInt32[Any, "D A 2"]


def empty_generation(model: Transformer, config: SearchConfig, sizes: Sizes, parts: int) -> Generation:
    one = Generation(
        empty_paths(model, sizes.paths, config.path_pages * config.page_tokens),
        empty_rows(model, sizes.rows, config.code_tokens),
    )
    return _parts(one, parts)


def empty_pages(model: Transformer, config: SearchConfig, sizes: Sizes, parts: int) -> Pages:
    return _parts(paging.empty_pages(model.config, sizes.pages * config.page_tokens), parts)


def _parts(tree: Any, parts: int) -> Any:
    return jax.tree.map(lambda x: jnp.tile(x[None], (parts, *[1] * x.ndim)), tree)


@functools.partial(jax.jit, donate_argnames=("forest",))
def plant(forest: Forest, which: Bool[Array, " T"], seed: UInt32[Array, "T 2"]) -> Forest:
    """Clears the chosen trees for new problems."""
    return forests.plant(forest, which, seed)


@functools.partial(jax.jit, static_argnames=("graph", "page_tokens"), donate_argnames=("pages",))
def read(graph: nnx.GraphDef[Transformer], weights: Any, pages: Pages, reading: Reading, *, page_tokens: int) -> Pages:
    """Takes tokens into pages."""
    model = nnx.merge(graph, weights)
    return jax.vmap(lambda pages, reading: _read(model, pages, reading, page_tokens)[0])(pages, reading)


def _read(model: Transformer, pages: Pages, reading: Reading, page_tokens: int) -> tuple[Pages, Array]:
    before = paging.gather(pages, reading.table, reading.filled, page_tokens)
    hidden, new = read_on(model, before, reading.tokens, reading.count, reading.start)
    return paging.write(pages, reading.places, new.keys, new.values), hidden


@functools.partial(jax.jit, static_argnames=("graph", "page_tokens"), donate_argnames=("pages",))
def rate(
    graph: nnx.GraphDef[Transformer], weights: Any, pages: Pages, reading: Reading, *, page_tokens: int
) -> tuple[Pages, Float[Array, "D B"]]:
    """Takes steps into the process reward model's pages, and its opinion of each, in [0, 1]."""
    model = nnx.merge(graph, weights)

    def part(pages: Pages, reading: Reading) -> tuple[Pages, Array]:
        pages, hidden = _read(model, pages, reading, page_tokens)
        last = jnp.maximum(reading.count - 1, 0)
        return pages, model.values(jnp.take_along_axis(hidden, last[:, None, None], axis=1)[:, 0])

    pages, score = jax.vmap(part)(pages, reading)
    return pages, jax.nn.sigmoid(score)


@functools.partial(
    jax.jit,
    static_argnames=("graph", "steps", "width", "page_tokens", "truncated"),
    donate_argnames=("pages", "generation"),
)
def wave(
    graph: nnx.GraphDef[Transformer],
    weights: Any,
    pages: Pages,
    generation: Generation,
    plan: Plan,
    stops: Stops,
    settings: Float[Array, "3"],
    *,
    steps: int,
    width: int,
    page_tokens: int,
    truncated: bool,
) -> tuple[Pages, Generation]:
    """Keeps finished steps, opens paths, starts rows, and decodes `steps` tokens of every unfinished row."""
    model = nnx.merge(graph, weights)

    def part(pages: Pages, generation: Generation, plan: Plan) -> tuple[Pages, Generation]:
        pages = _keep(pages, generation.rows, plan)
        pages, paths = _open_paths(model, pages, generation.paths, plan, page_tokens)
        rows = open_rows(
            paths,
            generation.rows,
            at=plan.row,
            path=plan.path,
            lane=plan.lane,
            seeds=plan.seeds,
            stops=stops,
            settings=settings,
            truncated=truncated,
        )
        rows = decode(model, paths, rows, steps=steps, width=width, stops=stops, settings=settings, truncated=truncated)
        return pages, Generation(paths, rows)

    return jax.vmap(part)(pages, generation, plan)


def _keep(pages: Pages, rows: Rows, plan: Plan) -> Pages:
    tokens = plan.kept_places.shape[1]

    def steps(cache: tuple[Array, ...]) -> tuple[Array, ...]:
        return tuple(layer[plan.kept, :tokens] for layer in cache)

    return paging.write(pages, plan.kept_places, steps(rows.keys), steps(rows.values))


def _open_paths(model: Transformer, pages: Pages, paths: Paths, plan: Plan, page_tokens: int) -> tuple[Pages, Paths]:
    before = paging.gather(pages, plan.table, plan.filled, page_tokens)
    one = jnp.ones_like(plan.last)
    hidden, new = read_on(model, before, plan.last[:, None], one, plan.length - 1)
    pages = paging.write(pages, plan.last_page_place[:, None], new.keys, new.values)
    number = jnp.arange(len(plan.slot))

    def put(pool: Array, old: Array, last: Array) -> Array:
        whole = old.at[number, plan.last_path_place].set(last[:, 0], mode="drop")
        return pool.at[plan.slot].set(whole, mode="drop")

    prefix = paths.prefix
    valid = before.valid.at[number, plan.last_path_place].set(True, mode="drop")
    prefix = type(prefix)(
        tuple(map(put, prefix.keys, before.keys, new.keys)),
        tuple(map(put, prefix.values, before.values, new.values)),
        prefix.valid.at[plan.slot].set(valid, mode="drop"),
    )
    return pages, Paths(
        prefix,
        paths.logits.at[plan.slot].set(model.logits(hidden[:, 0]), mode="drop"),
        paths.length.at[plan.slot].set(plan.length, mode="drop"),
    )


@functools.partial(jax.jit, static_argnames=("rules", "mesh"), donate_argnames=("forest",))
def turn(forest: Forest, orders: Orders, *, rules: Rules, mesh: Mesh) -> Forest:
    """Backs up verdicts, attaches candidates, and walks to where each tree works next."""
    split = P(ROWS)
    moves = jax.shard_map(
        functools.partial(move, rules=rules), mesh=mesh, in_specs=(split, split), out_specs=split, check_vma=False
    )
    return moves(forest, orders)
