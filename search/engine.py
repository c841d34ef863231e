"""What a search does on the device: jitted functions over all trees and rows, their state donated.

`read` takes in prompts (or paths whose pages were dropped), `wave` decodes candidates, `rate` asks the process reward
model about them, `store` and `keep` put what these computed into pages, `turn` backs up, grows and walks on;
`search/device.py` calls them. D is the number of parts of the
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
from o1coder_jax.decode import decode, open_rows, read_on
from o1coder_jax.mesh import ROWS
from o1coder_jax.pages import Pages
from o1coder_jax.rows import Cache, Header, Paths, Prefix, Rows, empty_paths, empty_rows
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
      header_tokens: of the longest header that rows are given.
    """

    rows: int
    paths: int
    turnover: int
    openings: int
    prompts: int
    pages: int
    header_tokens: int = 0

    @classmethod
    def of(cls, config: SearchConfig, parts: int, nodes: int, *, header_tokens: int = 0) -> Sizes:
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
            pages=config.pages // parts if config.pages else max(everything, (paths + 1) * config.path_pages),
            header_tokens=header_tokens,
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
      slot: (D, O), paths that are opened; `table`, `filled` (D, O, Q), their pages.
      last, length: (D, O), their last token, and the number of tokens with it; `last_path_place` (D, O), where its
        keys go in the path.
      row, path, lane: (D, A), rows that start; `seeds` (D, A, 2).
      said: (D, O, S), the tokens of the opened paths, out of range where there are no more; None without repetition
        penalty.
      header: (D, O, H), what their rows are given, `header_length` (D, O) of them; None for nothing.
    """

    slot: Int[Any, "D O"]
    table: Int[Any, "D O Q"]
    filled: Int[Any, "D O Q"]
    last: Int[Any, "D O"]
    length: Int[Any, "D O"]
    last_path_place: Int[Any, "D O"]
    row: Int[Any, "D A"]
    path: Int[Any, "D A"]
    lane: Int[Any, "D A"]
    seeds: UInt32[Any, "D A 2"]
    said: Int[Any, "D O S"] | None = None
    header: Int[Any, "D O H"] | None = None
    header_length: Int[Any, "D O"] | None = None


def empty_generation(model: Transformer, config: SearchConfig, sizes: Sizes, parts: int) -> Generation:
    places, penalised = config.path_pages * config.page_tokens, config.sampling.penalised
    paths = empty_paths(model, sizes.paths, places, header_tokens=sizes.header_tokens, penalised=penalised)
    return _parts(Generation(paths, empty_rows(model, sizes.rows, config.code_tokens, penalised=penalised)), parts)


def empty_pages(model: Transformer, config: SearchConfig, sizes: Sizes, parts: int) -> Pages:
    return _parts(paging.empty_pages(model.config, sizes.pages * config.page_tokens), parts)


def _parts(tree: Any, parts: int) -> Any:
    return jax.tree.map(lambda x: jnp.tile(x[None], (parts, *[1] * x.ndim)), tree)


@functools.partial(jax.jit, donate_argnames=("forest",))
def plant(forest: Forest, which: Bool[Array, " T"], seed: UInt32[Array, "T 2"]) -> Forest:
    """Clears the chosen trees for new problems."""
    return forests.plant(forest, which, seed)


@functools.partial(jax.jit, donate_argnames=("pages",))
def store(pages: Pages, places: Int[Array, "D B S"], keys: Cache, values: Cache) -> Pages:
    """Puts keys and values, L arrays (D, B, S, G, E), into pages.

    On its own, because a function that reads pages and writes to them is compiled to copy the whole pool.
    """
    return jax.vmap(paging.write)(pages, places, keys, values)


@functools.partial(jax.jit, donate_argnames=("pages",))
def keep(pages: Pages, rows: Rows, which: Int[Array, "D A"], places: Int[Array, "D A S"]) -> Pages:
    """Puts the keys and values of rows' first S tokens into pages."""

    def part(pages: Pages, rows: Rows, which: Array, places: Array) -> Pages:
        tokens = places.shape[1]
        keys, values = (
            tuple(layer[..., which, :tokens, :, :] for layer in cache) for cache in (rows.keys, rows.values)
        )
        return paging.write(pages, places, keys, values)

    return jax.vmap(part)(pages, rows, which, places)


@functools.partial(jax.jit, static_argnames=("graph", "page_tokens"))
def read(
    graph: nnx.GraphDef[Transformer], weights: Any, pages: Pages, reading: Reading, *, page_tokens: int
) -> tuple[Cache, Cache]:
    """Keys and values of tokens, to be stored at `reading.places`."""
    model = nnx.merge(graph, weights)
    _, new = jax.vmap(lambda pages, reading: _read(model, pages, reading, page_tokens))(pages, reading)
    return new.keys, new.values


def _read(model: Transformer, pages: Pages, reading: Reading, page_tokens: int) -> tuple[Array, Prefix]:
    before = paging.gather(pages, reading.table, reading.filled, page_tokens)
    return read_on(model, before, reading.tokens, reading.count, reading.start)


@functools.partial(jax.jit, static_argnames=("graph", "page_tokens"))
def rate(
    graph: nnx.GraphDef[Transformer], weights: Any, pages: Pages, reading: Reading, *, page_tokens: int
) -> tuple[Float[Array, "D B"], Cache, Cache]:
    """The process reward model's opinion of steps, in [0, 1], and their keys and values as from `read`."""
    model = nnx.merge(graph, weights)

    def part(pages: Pages, reading: Reading) -> tuple[Array, Prefix]:
        hidden, new = _read(model, pages, reading, page_tokens)
        last = jnp.maximum(reading.count - 1, 0)
        return model.values(jnp.take_along_axis(hidden, last[:, None, None], axis=1)[:, 0]), new

    score, new = jax.vmap(part)(pages, reading)
    return jax.nn.sigmoid(score), new.keys, new.values


@functools.partial(
    jax.jit,
    static_argnames=("graph", "steps", "width", "page_tokens", "truncated"),
    donate_argnames=("generation",),
)
def wave(
    graph: nnx.GraphDef[Transformer],
    weights: Any,
    pages: Pages,
    generation: Generation,
    plan: Plan,
    stops: Stops,
    settings: Float[Array, "4"],
    *,
    steps: int,
    width: int,
    page_tokens: int,
    truncated: bool,
) -> tuple[Generation, Cache, Cache]:
    """Opens paths, starts rows, and decodes `steps` tokens of every unfinished row.

    Returns the new state, and the keys and values, L arrays (D, O, 1, G, E), of the opened paths' last tokens.
    """
    model = nnx.merge(graph, weights)

    def part(generation: Generation, plan: Plan, pages: Pages) -> tuple[Generation, Prefix]:
        paths, last = _open_paths(model, pages, generation.paths, plan, page_tokens)
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
        return Generation(paths, rows), last

    generation, last = jax.vmap(part)(generation, plan, pages)
    return generation, last.keys, last.values


def _open_paths(model: Transformer, pages: Pages, paths: Paths, plan: Plan, page_tokens: int) -> tuple[Paths, Prefix]:
    before = paging.gather(pages, plan.table, plan.filled, page_tokens)
    one = jnp.ones_like(plan.last)
    hidden, new = read_on(model, before, plan.last[:, None], one, plan.length - 1)
    number = jnp.arange(len(plan.slot))

    def put(old: Array, whole: Array, last: Array) -> Array:
        whole = whole.at[..., number, plan.last_path_place, :, :].set(last[..., 0, :, :], mode="drop")
        return old.at[..., plan.slot, :, :, :].set(whole, mode="drop")

    prefix = paths.prefix
    valid = before.valid.at[number, plan.last_path_place].set(True, mode="drop")
    prefix = Prefix(
        tuple(map(put, prefix.keys, before.keys, new.keys)),
        tuple(map(put, prefix.values, before.values, new.values)),
        prefix.valid.at[plan.slot].set(valid, mode="drop"),
    )
    opened = Paths(
        prefix,
        paths.logits.at[plan.slot].set(model.logits(hidden[:, 0]), mode="drop"),
        paths.length.at[plan.slot].set(plan.length, mode="drop"),
        said=_said(paths, plan),
        header=_header(paths, plan),
    )
    return opened, new


def _said(paths: Paths, plan: Plan) -> Array | None:
    """Which tokens are on the paths, with those that are opened."""
    if paths.said is None or plan.said is None:
        return None
    opened = jnp.zeros((len(plan.slot), paths.said.shape[1]), bool)
    opened = opened.at[jnp.arange(len(plan.slot))[:, None], plan.said].set(True, mode="drop")
    return paths.said.at[plan.slot].set(opened, mode="drop")


def _header(paths: Paths, plan: Plan) -> Header | None:
    """The paths' headers, with those that are opened."""
    if paths.header is None or plan.header is None or plan.header_length is None:
        return None
    return Header(
        paths.header.tokens.at[plan.slot].set(plan.header, mode="drop"),
        paths.header.length.at[plan.slot].set(plan.header_length, mode="drop"),
    )


@functools.partial(jax.jit, static_argnames=("rules", "mesh"), donate_argnames=("forest",))
def turn(forest: Forest, orders: Orders, *, rules: Rules, mesh: Mesh) -> Forest:
    """Backs up verdicts, attaches candidates, and walks to where each tree works next."""
    split = P(ROWS)
    moves = jax.shard_map(
        functools.partial(move, rules=rules), mesh=mesh, in_specs=(split, split), out_specs=split, check_vma=False
    )
    return moves(forest, orders)
