"""Jitted generation: rows continue paths that several of them share.

A path is a prompt, or a way down a search tree. Its keys and values are held once and read by all rows that continue
it; each row owns the keys and values of what it has generated itself. Rows are independent of each other: one that
has ended stands still until another takes its place, whatever the rows around it do. Shapes never change, so nothing
recompiles.

Every token goes through the model once: a path's last token is fed when the path is opened (once, not once per
row), a row's last token is fed only if somebody continues it, or asks for its state (`feed_rows`).

Shapes as in rows.py, and K rows of a path at most, A rows that open. Everything here is one part of a mesh; callers
map it over the parts.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, UInt32

from o1coder_jax.attention import meet
from o1coder_jax.rows import Header, Paths, Prefix, Rows
from o1coder_jax.sampling import draw, uniforms
from o1coder_jax.stopping import Stops, begins, ends
from o1coder_jax.transformer import Transformer

NEGATIVE = -1e30  # masked score: finite, so that a row without keys still has a softmax


def prefix_positions(valid: Bool[Array, "P S"]) -> Int[Array, "P S"]:
    """Where the token of each place stands in its sequence; places without one say nothing."""
    return jnp.cumsum(valid, axis=1) - 1


def read_on(
    model: Transformer,
    prefix: Prefix | None,
    tokens: Int[Array, "P S"],
    count: Int[Array, " P"],
    start: Int[Array, " P"],
) -> tuple[Float[Array, "P S D"], Prefix]:
    """Reads further tokens of each sequence, all at once.

    Args:
      prefix: what was read before; None when there is nothing.
      tokens: padded on the right; `count` (may be 0) says how many there are.
      start: the position of the first.

    Returns:
      The model's states, and the keys and values of the new tokens.
    """
    length = tokens.shape[1]
    valid = jnp.arange(length) < count[:, None]
    positions = start[:, None] + jnp.arange(length)
    mask = jnp.tril(jnp.ones((length, length), bool))[None] & valid[:, None, :]
    if prefix is not None:
        before = jnp.broadcast_to(prefix.valid[:, None, :], (*mask.shape[:2], prefix.valid.shape[1]))
        mask = jnp.concatenate([before, mask], axis=-1)

    def attend(
        cache: tuple[Array, Array] | None, q: Array, k: Array, v: Array, window: Array | None
    ) -> tuple[Array, tuple[Array, Array]]:
        keys, values, key_positions = k, v, positions
        if cache is not None and prefix is not None:
            keys, values = jnp.concatenate([cache[0], k], axis=1), jnp.concatenate([cache[1], v], axis=1)
            key_positions = jnp.concatenate([prefix_positions(prefix.valid), positions], axis=1)
        seen = mask if window is None else mask & (positions[:, :, None] - key_positions[:, None, :] < window)
        return meet(q, keys, values, seen[:, None]), (k, v)

    cache = None if prefix is None else [*zip(prefix.keys, prefix.values, strict=True)]
    places = length + (0 if prefix is None else prefix.valid.shape[1])
    hidden, kept = model.hidden(tokens, positions, attend, cache, places=places)
    return hidden, Prefix(tuple(k for k, _ in kept), tuple(v for _, v in kept), valid)


def open_rows(
    paths: Paths,
    rows: Rows,
    *,
    at: Int[Array, " A"],
    path: Int[Array, " A"],
    lane: Int[Array, " A"],
    seeds: UInt32[Array, "A 2"],
    stops: Stops,
    settings: Float[Array, "4"],
    truncated: bool,
) -> Rows:
    """Starts rows: draws the first token of each from its path's scores.

    Args:
      at: the row to start; R or more starts none.
      path, lane: which path it continues, and as which of its rows.
    """
    first = jnp.zeros_like(at)
    said = None if paths.said is None else paths.said[path]
    token, log_probability = draw(paths.logits[path], uniforms(seeds, first), settings, truncated=truncated, said=said)
    token, log_probability = _given(paths.header, path, first, token, log_probability)
    stop = begins(stops, token)

    def put(plane: Array, value: Any) -> Array:
        return plane.at[at].set(value, mode="drop")

    return replace(
        rows,
        tokens=put(rows.tokens, 0).at[at, 0].set(token, mode="drop"),
        log_probability=put(rows.log_probability, 0.0).at[at, 0].set(log_probability, mode="drop"),
        length=put(rows.length, 1),
        done=put(rows.done, ends(stops, stop) | (rows.tokens.shape[1] == 1)),
        stop=put(rows.stop, stop),
        path=put(rows.path, path),
        lane=put(rows.lane, lane),
        seeds=put(rows.seeds, seeds),
        said=None if said is None else put(rows.said, said).at[at, token].set(True, mode="drop"),  # type: ignore[arg-type]
    )


def _given(
    header: Header | None,
    path: Int[Array, " R"],
    place: Int[Array, " R"],
    token: Int[Array, " R"],
    log_probability: Float[Array, " R"],
) -> tuple[Int[Array, " R"], Float[Array, " R"]]:
    """What was drawn for these places of rows, or the token of the header that belongs there."""
    if header is None:
        return token, log_probability
    inside = place < header.length[path]
    given = header.tokens[path, jnp.minimum(place, header.tokens.shape[1] - 1)]
    return jnp.where(inside, given, token), jnp.where(inside, 0.0, log_probability)


def decode(
    model: Transformer,
    paths: Paths,
    rows: Rows,
    *,
    steps: int,
    width: int,
    stops: Stops,
    settings: Float[Array, "4"],
    truncated: bool,
) -> Rows:
    """Runs `steps` decode steps on all rows; those that are done stand still. `width` is K."""

    def body(_: int, state: Rows) -> Rows:
        return _decode_one(model, paths, state, width, stops, settings, truncated)

    return jax.lax.fori_loop(0, steps, body, rows)


def _decode_one(
    model: Transformer,
    paths: Paths,
    rows: Rows,
    width: int,
    stops: Stops,
    settings: Float[Array, "4"],
    truncated: bool,
) -> Rows:
    capacity = rows.tokens.shape[1]
    going = ~rows.done
    hidden, rows = feed_rows(model, paths, rows, going, width=width)
    number = uniforms(rows.seeds, rows.length)
    drawn, log_probability = draw(model.logits(hidden), number, settings, truncated=truncated, said=rows.said)
    drawn, log_probability = _given(paths.header, rows.path, rows.length, drawn, log_probability)
    here = (jnp.arange(capacity) == rows.length[:, None]) & going[:, None]
    length = rows.length + going
    stop = jnp.where(going, stops.following[rows.stop, drawn], rows.stop)
    return replace(
        rows,
        tokens=jnp.where(here, drawn[:, None], rows.tokens),
        log_probability=jnp.where(here, log_probability[:, None], rows.log_probability),
        length=length,
        done=rows.done | ends(stops, stop) | (length >= capacity),
        stop=stop,
        said=None if rows.said is None else rows.said.at[jnp.arange(len(drawn)), drawn].max(going),
    )


def feed_rows(
    model: Transformer, paths: Paths, rows: Rows, going: Bool[Array, " R"], *, width: int
) -> tuple[Float[Array, "R D"], Rows]:
    """Feeds the last token of the rows that are `going`; `width` is K.

    Returns:
      The states at these tokens (of the other rows anything), and the rows with their keys and values.
    """
    count, capacity = rows.tokens.shape
    c = model.config
    valid = paths.valid
    at = jnp.maximum(rows.length - 1, 0)  # (R,), where the token to feed stands in its row
    token = jnp.take_along_axis(rows.tokens, at[:, None], axis=1)
    earlier = jnp.arange(capacity) < at[:, None]  # (R, C), own tokens fed before
    path = jnp.where(going, rows.path, len(valid))  # out of range: takes no place among its path's rows
    positions = (paths.length[rows.path] + at)[:, None]

    def attend(cache: Any, q: Array, k: Array, v: Array, window: Array | None) -> tuple[Array, tuple[Array, Array]]:
        (path_keys, path_values), row_keys, row_values = cache
        query = q.reshape(count, c.kv_heads, c.heads // c.kv_heads, c.head_size) * c.head_size**-0.5
        k, v = (x.reshape(count, c.kv_heads, c.head_size) for x in (k, v))
        # Rows that share a path meet its keys as one matrix product: queries are laid out by (path, lane).
        laid = jnp.zeros((len(valid), width, *query.shape[1:]), query.dtype).at[path, rows.lane].set(query, mode="drop")
        shared = jnp.einsum("pkgre,pges->pkgrs", laid, path_keys, preferred_element_type=jnp.float32)
        own = jnp.einsum("ngre,ngec->ngrc", query, row_keys, preferred_element_type=jnp.float32)
        path_seen, own_seen = valid[:, None], earlier  # (P, 1 or K, S), (R, C)
        if window is not None:
            place = jnp.zeros((len(valid), width), at.dtype).at[path, rows.lane].set(positions[:, 0], mode="drop")
            path_seen = path_seen & (place[:, :, None] - prefix_positions(valid)[:, None, :] < window)
            own_seen = own_seen & (at[:, None] - jnp.arange(capacity) < window)
        shared = jnp.where(path_seen[:, :, None, None, :], shared, NEGATIVE)
        own = jnp.where(own_seen[:, None, None, :], own, NEGATIVE)
        itself = jnp.einsum("ngre,nge->ngr", query, k, preferred_element_type=jnp.float32)
        # One softmax over three parts: each is weighed against the largest score of all.
        shared_top = jnp.max(shared, axis=-1)
        top = jnp.maximum(jnp.maximum(jnp.max(own, axis=-1), itself), shared_top[rows.path, rows.lane])
        shared_weight = jnp.exp(shared - shared_top[..., None])
        seen = jnp.einsum("pkgrs,pgse->pkgre", shared_weight.astype(q.dtype), path_values)
        scale = jnp.exp(shared_top[rows.path, rows.lane] - top)
        own_weight, itself_weight = jnp.exp(own - top[..., None]), jnp.exp(itself - top)
        total = jnp.sum(shared_weight, axis=-1)[rows.path, rows.lane] * scale
        total = total + jnp.sum(own_weight, axis=-1) + itself_weight
        out = seen[rows.path, rows.lane].astype(jnp.float32) * scale[..., None]
        out = out + jnp.einsum("ngrc,ngce->ngre", own_weight.astype(q.dtype), row_values)
        out = out + itself_weight[..., None] * v[:, :, None, :]
        return (out / total[..., None]).astype(q.dtype).reshape(q.shape), (k, v)

    shared_cache = zip(paths.keys, paths.values, strict=True)
    cache = [*zip(shared_cache, rows.keys, rows.values, strict=True)]
    hidden, kept = model.hidden(token, positions, attend, cache, places=valid.shape[1] + capacity)
    # Written in place, which takes that all reading is over: the place, out of range where none is fed, is made to hang
    # on what comes of all layers. Otherwise XLA copies all caches twice a step, on a CPU several times a step's work.
    over = jnp.isinf(jnp.sum(hidden, axis=(1, 2))).astype(at.dtype)
    fed = jnp.minimum(jnp.where(going, at, capacity), capacity + over)
    row = jnp.arange(count)

    def put(cache: Array, new: Array, *where: Any) -> Array:
        return cache.at[(..., row, slice(None), *where)].set(jnp.moveaxis(new, -3, 0), mode="drop")

    keys = tuple(put(old, k, slice(None), fed) for (k, _), old in zip(kept, rows.keys, strict=True))
    values = tuple(put(old, v, fed, slice(None)) for (_, v), old in zip(kept, rows.values, strict=True))
    return hidden[:, 0], replace(rows, keys=keys, values=values)
