"""What a search does on the device: three jitted functions over all trees, their state donated.

`refill` plants problems, `wave` decodes candidates, `turn` backs up, grows and walks on; `search/waves.py` calls them.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float

from o1coder_jax import pages as paging
from o1coder_jax.decode import Rows, decode, empty_rows, open_rows, prefill
from o1coder_jax.pages import Pages
from o1coder_jax.sampling import fold
from o1coder_jax.transformer import Transformer
from search import forest as forests
from search.backup import settle
from search.config import SearchConfig
from search.forest import Forest
from search.selection import descend


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class State:
    """Everything on the device: the forest, its pages, and the rows in generation."""

    forest: Forest
    pages: Pages
    rows: Rows


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Orders:
    """What the host tells the device in a turn: verdicts that arrived, candidates that were read."""

    settles: Bool[Any, " T"]
    reward: Float[Any, " T"]
    counted: Bool[Any, " T"]
    grows: Bool[Any, " T"]
    fresh: Bool[Any, "T K"]
    terminal: Bool[Any, "T K"]


def initial_state(model: Transformer, config: SearchConfig) -> State:
    nodes = forests.nodes_needed(rollouts=config.rollouts, depth=config.depth, width=config.samples)
    return State(
        forests.empty(config.trees, nodes, config.samples),
        paging.empty_pages(
            model.config,
            trees=config.trees,
            nodes=nodes,
            pages=config.prompt_pages + (nodes - 1) * config.step_pages,
            path_pages=config.prompt_pages + (config.depth - 1) * config.step_pages,
            page_tokens=config.page_tokens,
        ),
        empty_rows(model, config.trees, config.samples, config.code_tokens),
    )


@functools.partial(jax.jit, static_argnames=("graph", "config"), donate_argnames=("state",))
def refill(
    graph: nnx.GraphDef[Transformer], weights: Any, state: State, batch: dict[str, Array], *, config: SearchConfig
) -> State:
    """Plants new problems: prefills their prompts and clears their trees.

    Args:
      batch: per mesh part D and new row R: `slot` (D, R), the place within the part (out of range: no row),
        `tokens` (D, R, S), `length` (D, R); and for all places `which` (T,), `seed` (T, 2).
    """
    parts = batch["slot"].shape[0]
    model = nnx.merge(graph, weights)

    def split(x: Array) -> Array:
        return x.reshape(parts, -1, *x.shape[1:])

    def put(pages: Pages, slot: Array, tokens: Array, length: Array) -> Pages:
        prefix = prefill(model, tokens, length - 1)
        last = jnp.take_along_axis(tokens, (length - 1)[:, None], axis=1)[:, 0]
        return paging.write_prompt(pages, slot, prefix, last, length, config.page_tokens)

    pages = jax.vmap(put)(jax.tree.map(split, state.pages), batch["slot"], batch["tokens"], batch["length"])
    return State(
        forests.plant(state.forest, batch["which"], batch["seed"]),
        jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), pages),
        state.rows,
    )


@functools.partial(jax.jit, static_argnames=("graph", "config", "truncated"), donate_argnames=("state",))
def wave(
    graph: nnx.GraphDef[Transformer],
    weights: Any,
    state: State,
    opening: Bool[Array, " T"],
    stop: Bool[Array, " V"],
    settings: Float[Array, "3"],
    *,
    config: SearchConfig,
    truncated: bool,
) -> State:
    """Starts candidates in the trees that are opening, and decodes `wave_steps` tokens of every unfinished row."""
    model = nnx.merge(graph, weights)
    forest, pages, rows = state.forest, state.pages, state.rows
    trees = jnp.arange(config.trees)
    node = forest.cursor
    prefix = paging.gather(pages, node, config.page_tokens)
    candidate = node[:, None] * config.samples + jnp.arange(config.samples)
    seeds = fold(jnp.repeat(forest.seed, config.samples, axis=0), candidate.reshape(-1))
    prefix, rows, keys, values = open_rows(
        model,
        prefix,
        rows,
        opening=opening,
        last=pages.last[trees, node],
        length=pages.length[trees, node],
        seeds=seeds.reshape(config.trees, config.samples, 2),
        stop=stop,
        settings=settings,
        truncated=truncated,
    )
    pages = paging.write_last(pages, node, opening, keys, values)
    rows = decode(model, prefix, rows, steps=config.wave_steps, stop=stop, settings=settings, truncated=truncated)
    return State(forest, pages, rows)


@functools.partial(jax.jit, static_argnames=("config",), donate_argnames=("state",))
def turn(state: State, orders: Orders, *, config: SearchConfig) -> State:
    """Backs up verdicts, attaches candidates, and walks to where each tree works next."""
    forest = settle(state.forest, orders.settles, orders.reward, orders.counted)
    parent = forest.cursor
    forest, child = forests.grow(forest, orders.grows, orders.fresh, orders.terminal)
    owner = jnp.where(orders.terminal, Forest.NONE, child)
    pages = paging.write_steps(state.pages, parent, owner, state.rows, config.step_tokens, config.page_tokens)
    moves = orders.settles | orders.grows
    forest = descend(forest, moves, config=config.selection, rollouts=config.rollouts)
    return State(forest, pages, state.rows)
