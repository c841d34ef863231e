"""What a search does on the device: jitted functions over all trees and rows, their state donated.

`read` takes in prompts (or paths whose pages were dropped), `wave` decodes candidates, `rate` asks the process reward
model about them and `value` the policy's own head, `store`, `keep` and `note` put what these computed into pages,
`turn` backs up, grows and walks on; `search/device.py` calls them. D is the number of parts of the mesh; what belongs
to a part has D as its first axis, and no operation crosses parts.

States: where nodes may be expanded again, the state at a node's last token is kept, one for the last page of each node,
and gives the scores of the next token when a path is opened once more. Where the policy carries a value head, all steps
are fed to their last token as soon as they have ended, so that every path is opened from such a state.
"""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Bool, Float, Int, UInt32

from o1coder_jax import pages as paging
from o1coder_jax.decode import decode, feed_rows, open_rows, read_on
from o1coder_jax.mesh import ROWS
from o1coder_jax.pages import Pages
from o1coder_jax.rows import Cache, Header, Paths, Prefix, Rows, laid, unlaid
from o1coder_jax.stopping import Stops
from o1coder_jax.transformer import Transformer
from search import forest as forests
from search.forest import Forest
from search.plans import Generation, Plan, Reading
from search.rollouts import Orders, Rules, move


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
        keys = tuple(layer[..., which, :, :, :tokens] for layer in rows.keys)
        values = tuple(layer[..., which, :, :tokens, :] for layer in rows.values)
        keys, values = unlaid(keys, values)
        return paging.write(pages, places, keys, values)

    return jax.vmap(part)(pages, rows, which, places)


@functools.partial(jax.jit, donate_argnames=("states",))
def note(
    states: Float[Array, "D M W"], ends: Int[Array, "D B S"], hidden: Float[Array, "D B S W"]
) -> Float[Array, "D M W"]:
    """Keeps the states at nodes' last tokens."""
    return jax.vmap(lambda old, at, new: old.at[at].set(new, mode="drop"))(states, ends, hidden)


@functools.partial(jax.jit, static_argnames=("graph", "page_tokens"))
def read(
    graph: nnx.GraphDef[Transformer], weights: Any, pages: Pages, reading: Reading, *, page_tokens: int
) -> tuple[Float[Array, "D B S W"], Cache, Cache]:
    """States of tokens, and their keys and values, to be stored at `reading.places`."""
    model = nnx.merge(graph, weights)
    hidden, new = jax.vmap(lambda pages, reading: _read(model, pages, reading, page_tokens))(pages, reading)
    return hidden, new.keys, new.values


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


@functools.partial(jax.jit, static_argnames=("graph", "width"), donate_argnames=("generation", "states"))
def value(
    graph: nnx.GraphDef[Transformer],
    weights: Any,
    generation: Generation,
    states: Float[Array, "D M W"],
    ended: Bool[Array, "D R"],
    ends: Int[Array, "D R"],
    *,
    width: int,
) -> tuple[Generation, Float[Array, "D M W"], Float[Array, "D R"]]:
    """Feeds the last tokens of rows that have `ended`, and has the policy's value head rate them.

    Args:
      ends: the last page of the node that a row becomes; out of range for none.

    Returns:
      The state with the keys and values of these tokens in their rows, the states, and the opinions in [0, 1].
    """
    model = nnx.merge(graph, weights)

    def part(generation: Generation, states: Array, ended: Array, ends: Array) -> tuple[Generation, Array, Array]:
        hidden, rows = feed_rows(model, generation.paths, generation.rows, ended, width=width)
        states = states.at[ends].set(hidden, mode="drop")
        return Generation(generation.paths, rows), states, jax.nn.sigmoid(model.values(hidden))

    return jax.vmap(part)(generation, states, ended, ends)


@functools.partial(
    jax.jit,
    static_argnames=("graph", "steps", "width", "page_tokens", "truncated", "to_end"),
    donate_argnames=("generation",),
)
def wave(
    graph: nnx.GraphDef[Transformer],
    weights: Any,
    pages: Pages,
    states: Float[Array, "D M W"] | None,
    generation: Generation,
    plan: Plan,
    stops: Stops,
    settings: Float[Array, "4"],
    *,
    steps: int,
    width: int,
    page_tokens: int,
    truncated: bool,
    to_end: bool = False,
) -> tuple[Generation, tuple[Float[Array, "D O 1 W"], Prefix] | None]:
    """Opens paths, starts rows, and decodes `steps` tokens of every unfinished row.

    Returns the new state, and of the opened paths' last tokens the states and the keys and values, L arrays
    (D, O, 1, G, E), to be kept where they were not fed before; None with `to_end`, where all were.
    """
    model = nnx.merge(graph, weights)

    def part(
        generation: Generation, plan: Plan, pages: Pages, states: Array | None
    ) -> tuple[Generation, tuple[Array, Prefix] | None]:
        if states is not None and to_end:
            paths, last = _open_whole(model, pages, states, generation.paths, plan, page_tokens), None
        else:
            paths, last = _open_paths(model, pages, states, generation.paths, plan, page_tokens)
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

    return jax.vmap(part)(generation, plan, pages, states)


def _open_whole(model: Transformer, pages: Pages, states: Array, paths: Paths, plan: Plan, page_tokens: int) -> Paths:
    """Opens paths whose last tokens are in pages, too."""
    whole = paging.gather(pages, plan.table, plan.filled, page_tokens)
    logits = model.logits(states[plan.end_page])

    return _opened(paths, plan, whole, logits)


def _open_paths(
    model: Transformer, pages: Pages, states: Array | None, paths: Paths, plan: Plan, page_tokens: int
) -> tuple[Paths, tuple[Array, Prefix]]:
    """Opens paths, and feeds their last tokens where that was not done before."""
    before = paging.gather(pages, plan.table, plan.filled, page_tokens)
    feeds = plan.last_path_place < before.valid.shape[1]
    hidden, new = read_on(model, before, plan.last[:, None], feeds.astype(jnp.int32), plan.length - 1)
    end = hidden[:, 0] if states is None else jnp.where(feeds[:, None], hidden[:, 0], states[plan.end_page])
    number = jnp.arange(len(plan.slot))

    def put(whole: Array, last: Array) -> Array:
        return whole.at[..., number, plan.last_path_place, :, :].set(last[..., 0, :, :], mode="drop")

    whole = Prefix(
        tuple(map(put, before.keys, new.keys)),
        tuple(map(put, before.values, new.values)),
        before.valid.at[number, plan.last_path_place].set(True, mode="drop"),
    )
    return _opened(paths, plan, whole, model.logits(end)), (hidden, new)


def _opened(paths: Paths, plan: Plan, whole: Prefix, logits: Array) -> Paths:
    """The paths with those that are opened."""

    def put(old: Array, new: Array) -> Array:
        return old.at[..., plan.slot, :, :, :].set(new, mode="drop")

    keys, values = laid(whole.keys, whole.values)
    return Paths(
        tuple(map(put, paths.keys, keys)),
        tuple(map(put, paths.values, values)),
        paths.valid.at[plan.slot].set(whole.valid, mode="drop"),
        paths.logits.at[plan.slot].set(logits, mode="drop"),
        paths.length.at[plan.slot].set(plan.length, mode="drop"),
        said=_said(paths, plan),
        header=_header(paths, plan),
    )


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
