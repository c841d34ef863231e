"""What the functions of `engine.py` work on: sizes, the state of generation, what a wave or a reading is given."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, UInt32

from o1coder_jax import pages as paging
from o1coder_jax.pages import Pages
from o1coder_jax.rows import Paths, Rows, empty_paths, empty_rows
from o1coder_jax.transformer import Transformer
from search.config import SearchConfig


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
      ends: (D, B, S), for the last token of a node its page; out of range for the others.
    """

    table: Int[Any, "D B Q"]
    filled: Int[Any, "D B Q"]
    tokens: Int[Any, "D B S"]
    count: Int[Any, "D B"]
    start: Int[Any, "D B"]
    places: Int[Any, "D B S"]
    ends: Int[Any, "D B S"]


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Plan:
    """What a wave begins with, in each part.

    Attributes:
      slot: (D, O), paths that are opened; `table`, `filled` (D, O, Q), their pages.
      last, length: (D, O), their last token, and the number of tokens with it; `last_place` (D, O, 1), where its keys
        go in the pool, and `last_path_place` (D, O), where in the path: out of range for a token that was fed before.
      end_page: (D, O), the page that holds it.
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
    last_place: Int[Any, "D O 1"]
    last_path_place: Int[Any, "D O"]
    end_page: Int[Any, "D O"]
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


def empty_states(model: Transformer, sizes: Sizes, parts: int) -> Float[Array, "D M W"]:
    """Room for the state at the end of each of the M pages."""
    return jnp.zeros((parts, sizes.pages, model.config.width), model.config.dtype)


def _parts(tree: Any, parts: int) -> Any:
    return jax.tree.map(lambda x: jnp.tile(x[None], (parts, *[1] * x.ndim)), tree)


def empty_plan(config: SearchConfig, sizes: Sizes, parts: int) -> dict[str, np.ndarray]:
    """The arrays of a `Plan`; rows to `keep` before it, with places; and places for last tokens after it."""
    nowhere = sizes.pages * config.page_tokens

    def full(value: int, *shape: int) -> np.ndarray:
        return np.full((parts, *shape), value, np.int32)

    plan = {
        "kept": full(0, sizes.turnover),
        "kept_places": full(nowhere, sizes.turnover, config.step_tokens),
        "slot": full(sizes.paths, sizes.openings),
        "table": full(0, sizes.openings, config.path_pages),
        "filled": full(0, sizes.openings, config.path_pages),
        "last": full(0, sizes.openings),
        "length": full(1, sizes.openings),
        "last_place": full(nowhere, sizes.openings, 1),
        "last_path_place": full(config.path_pages * config.page_tokens, sizes.openings),
        "end_page": full(sizes.pages, sizes.openings),
        "row": full(sizes.rows, sizes.turnover),
        "path": full(0, sizes.turnover),
        "lane": full(0, sizes.turnover),
        "seeds": np.zeros((parts, sizes.turnover, 2), np.uint32),
    }
    if config.sampling.penalised:
        plan["said"] = full(np.iinfo(np.int32).max, sizes.openings, config.path_pages * config.page_tokens)
    if sizes.header_tokens:
        plan["header"] = full(0, sizes.openings, sizes.header_tokens)
        plan["header_length"] = full(0, sizes.openings)
    return plan


def empty_reading(config: SearchConfig, sizes: Sizes, parts: int, rows: int, length: int) -> Reading:
    """A `Reading` of nothing, in host arrays: so many pieces of so many tokens at most in each part."""
    table, filled = np.zeros((2, parts, rows, config.path_pages), np.int32)
    tokens, places = np.zeros((2, parts, rows, length), np.int32)
    places[:] = sizes.pages * config.page_tokens
    ends = np.full_like(places, sizes.pages)
    count, start = np.zeros((2, parts, rows), np.int32)
    return Reading(table, filled, tokens, count, start, places, ends)
