"""Jitted generation: K rows continue each of T prefixes that they share.

A prefix is a prompt, or a path through a search tree. Its keys and values are held once and read by all of its K
rows; each row owns the keys and values of what it has generated itself. A wave is a fixed number of decode
steps, so shapes never change and nothing recompiles; a row that has met a stop token stands still.

Every token goes through the model once: a prefix's last token is fed by `open_rows` (once, not once per row), a
row's last token is fed only if somebody continues it.

Shapes: T prefixes, K rows of each, S prefix places (with holes), C row capacity, G, E, L, V as in transformer.py.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float, Int, UInt32

from o1coder_jax.sampling import draw, uniforms
from o1coder_jax.transformer import Transformer

NEGATIVE = -1e30  # masked score: finite, so that a row without keys still has a softmax

Cache = tuple[Array, ...]  # one array per layer: the token loop never slices a stacked cache


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Prefix:
    """What K rows continue.

    Attributes:
      keys, values: L arrays (T, S, G, E); places may be empty.
      valid: (T, S), which places hold a token.
    """

    keys: Cache
    values: Cache
    valid: Bool[Array, "T S"]


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Rows:
    """Rows in generation.

    Attributes:
      tokens: (T, K, C), what was drawn so far.
      log_probability: (T, K, C), of each drawn token under the model at temperature 1.
      length: (T, K), tokens drawn.
      done: (T, K), met a stop token or the capacity.
      start: (T,), position of a row's first token in its sequence.
      seeds: (T, K, 2), key data; a row's draws depend on nothing else.
      keys, values: L arrays (T, K, C, G, E) of the tokens that were fed.
    """

    tokens: Int[Array, "T K C"]
    log_probability: Float[Array, "T K C"]
    length: Int[Array, "T K"]
    done: Bool[Array, "T K"]
    start: Int[Array, " T"]
    seeds: UInt32[Array, "T K 2"]
    keys: Cache
    values: Cache


def empty_rows(model: Transformer, prefixes: int, rows: int, capacity: int) -> Rows:
    """Rows that are all done: places to open."""
    c = model.config
    shape = (prefixes, rows, capacity, c.kv_heads, c.head_size)
    return Rows(
        tokens=jnp.zeros(shape[:3], jnp.int32),
        log_probability=jnp.zeros(shape[:3], jnp.float32),
        length=jnp.zeros(shape[:2], jnp.int32),
        done=jnp.ones(shape[:2], bool),
        start=jnp.zeros(prefixes, jnp.int32),
        seeds=jnp.zeros((*shape[:2], 2), jnp.uint32),
        keys=tuple(jnp.zeros(shape, c.dtype) for _ in range(c.layers)),
        values=tuple(jnp.zeros(shape, c.dtype) for _ in range(c.layers)),
    )


def prefill(model: Transformer, tokens: Int[Array, "T S"], length: Int[Array, " T"]) -> Prefix:
    """Keys and values of right-padded prompts; `length` counts the tokens to read."""
    valid = jnp.arange(tokens.shape[1]) < length[:, None]
    positions = jnp.broadcast_to(jnp.arange(tokens.shape[1]), tokens.shape)
    mask = jnp.tril(jnp.ones((tokens.shape[1],) * 2, bool))[None, None] & valid[:, None, None, :]

    def attend(_: None, q: Array, k: Array, v: Array) -> tuple[Array, tuple[Array, Array]]:
        return jax.nn.dot_product_attention(q, k, v, mask=mask), (k, v)

    _, kept = model.hidden(tokens, positions, attend)
    return Prefix(tuple(k for k, _ in kept), tuple(v for _, v in kept), valid)


def open_rows(
    model: Transformer,
    prefix: Prefix,
    rows: Rows,
    *,
    opening: Bool[Array, " T"],
    last: Int[Array, " T"],
    length: Int[Array, " T"],
    seeds: UInt32[Array, "T K 2"],
    stop: Bool[Array, " V"],
    settings: Float[Array, "3"],
    truncated: bool,
) -> tuple[Prefix, Rows, Cache, Cache]:
    """Feeds the last token of each prefix and draws the first token of each of its rows.

    Args:
      prefix: all of the prefix but its last token.
      opening: which prefixes start; the rows of the others are left as they are.
      last, length: the last token, and the number of tokens with it.

    Returns:
      The prefix with one more place (valid where opening), the rows, and the last token's keys and values,
      L arrays (T, 1, G, E) each.
    """

    def attend(cache: tuple[Array, Array], q: Array, k: Array, v: Array) -> tuple[Array, tuple[Array, Array]]:
        keys, values = jnp.concatenate([cache[0], k], axis=1), jnp.concatenate([cache[1], v], axis=1)
        mask = jnp.pad(prefix.valid, ((0, 0), (0, 1)), constant_values=True)[:, None, None, :]
        return jax.nn.dot_product_attention(q, keys, values, mask=mask), (k, v)

    cache = [*zip(prefix.keys, prefix.values, strict=True)]
    hidden, kept = model.hidden(last[:, None], (length - 1)[:, None], attend, cache)
    logits = jnp.repeat(model.logits(hidden[:, 0]), rows.tokens.shape[1], axis=0)
    flat_seeds = seeds.reshape(-1, 2)
    token, log_probability = draw(
        logits, uniforms(flat_seeds, jnp.zeros(len(flat_seeds), jnp.int32)), settings, truncated=truncated
    )
    token, log_probability = (x.reshape(rows.length.shape) for x in (token, log_probability))
    start = opening[:, None]
    fresh = replace(
        rows,
        tokens=jnp.where(start[..., None], 0, rows.tokens).at[..., 0].set(jnp.where(start, token, rows.tokens[..., 0])),
        log_probability=jnp.where(start[..., None], 0.0, rows.log_probability)
        .at[..., 0]
        .set(jnp.where(start, log_probability, rows.log_probability[..., 0])),
        length=jnp.where(start, 1, rows.length),
        done=jnp.where(start, stop[token] | (rows.tokens.shape[2] == 1), rows.done),
        start=jnp.where(opening, length, rows.start),
        seeds=jnp.where(start[..., None], seeds, rows.seeds),
    )
    new_keys, new_values = tuple(k for k, _ in kept), tuple(v for _, v in kept)
    longer = Prefix(
        keys=tuple(jnp.concatenate([a, b], axis=1) for a, b in zip(prefix.keys, new_keys, strict=True)),
        values=tuple(jnp.concatenate([a, b], axis=1) for a, b in zip(prefix.values, new_values, strict=True)),
        valid=jnp.concatenate([prefix.valid, opening[:, None]], axis=1),
    )
    return longer, fresh, new_keys, new_values


def decode(
    model: Transformer,
    prefix: Prefix,
    rows: Rows,
    *,
    steps: int,
    stop: Bool[Array, " V"],
    settings: Float[Array, "3"],
    truncated: bool,
) -> Rows:
    """Runs `steps` decode steps on all rows; those that are done stand still."""
    cached = tuple(zip(prefix.keys, prefix.values, strict=True))

    def body(_: int, state: Rows) -> Rows:
        return _decode_one(model, cached, prefix.valid, state, stop, settings, truncated)

    return jax.lax.fori_loop(0, steps, body, rows)


def _decode_one(
    model: Transformer,
    prefix: tuple[tuple[Array, Array], ...],
    prefix_valid: Bool[Array, "T S"],
    rows: Rows,
    stop: Bool[Array, " V"],
    settings: Float[Array, "3"],
    truncated: bool,
) -> Rows:
    prefixes, width, capacity = rows.tokens.shape
    c = model.config
    at = jnp.maximum(rows.length - 1, 0)  # (T, K), where the token to feed stands in its row
    token = jnp.take_along_axis(rows.tokens, at[..., None], axis=-1)
    earlier = jnp.arange(capacity) < at[..., None]  # (T, K, C), own tokens fed before

    def attend(cache: Any, q: Array, k: Array, v: Array) -> tuple[Array, tuple[Array, Array]]:
        (prefix_keys, prefix_values), row_keys, row_values = cache
        grouped = q.reshape(prefixes, width, c.kv_heads, c.heads // c.kv_heads, c.head_size) * c.head_size**-0.5
        k, v = (x.reshape(prefixes, width, c.kv_heads, c.head_size) for x in (k, v))
        shared = jnp.einsum("tkgre,tsge->tkgrs", grouped, prefix_keys)
        own = jnp.einsum("tkgre,tkcge->tkgrc", grouped, row_keys)
        itself = jnp.einsum("tkgre,tkge->tkgr", grouped, k)[..., None]
        scores = jnp.concatenate(
            [
                jnp.where(prefix_valid[:, None, None, None, :], shared, NEGATIVE),
                jnp.where(earlier[:, :, None, None, :], own, NEGATIVE),
                itself,
            ],
            axis=-1,
        )
        weights = jax.nn.softmax(scores.astype(jnp.float32), axis=-1).astype(q.dtype)
        to_shared, to_own, to_itself = jnp.split(weights, [shared.shape[-1], shared.shape[-1] + capacity], axis=-1)
        out = jnp.einsum("tkgrs,tsge->tkgre", to_shared, prefix_values)
        out = out + jnp.einsum("tkgrc,tkcge->tkgre", to_own, row_values)
        out = out + to_itself * v[:, :, :, None, :]
        return out.reshape(q.shape), (k, v)

    cache = [*zip(prefix, rows.keys, rows.values, strict=True)]
    positions = (rows.start[:, None] + at).reshape(-1, 1)
    hidden, kept = model.hidden(token.reshape(-1, 1), positions, attend, cache)
    number = uniforms(rows.seeds.reshape(-1, 2), rows.length.reshape(-1))
    drawn, log_probability = draw(model.logits(hidden[:, 0]), number, settings, truncated=truncated)
    drawn, log_probability = (x.reshape(rows.length.shape) for x in (drawn, log_probability))
    going = ~rows.done
    here = (jnp.arange(capacity) == rows.length[..., None]) & going[..., None]  # (T, K, C)
    length = rows.length + going
    tree, row = jnp.arange(prefixes)[:, None], jnp.arange(width)
    fed = jnp.where(going, at, capacity)  # out of range: dropped

    def put(cache: Array, new: Array) -> Array:
        return cache.at[tree, row, fed].set(new, mode="drop")

    return replace(
        rows,
        tokens=jnp.where(here, drawn[..., None], rows.tokens),
        log_probability=jnp.where(here, log_probability[..., None], rows.log_probability),
        length=length,
        done=rows.done | stop[drawn] | (length >= capacity),
        keys=tuple(put(old, k) for (k, _), old in zip(kept, rows.keys, strict=True)),
        values=tuple(put(old, v) for (_, v), old in zip(kept, rows.values, strict=True)),
    )


def stop_mask(vocab_size: int, ids: Sequence[int]) -> Bool[Array, " V"]:
    """True at the ids that end a row."""
    return jnp.zeros(vocab_size, bool).at[jnp.array(ids)].set(True)


@functools.partial(jax.jit, static_argnames=("graph", "capacity", "truncated"))
def start_batch(
    graph: nnx.GraphDef[Transformer],
    weights: Any,
    tokens: Int[Array, "T S"],
    length: Int[Array, " T"],
    seeds: UInt32[Array, "T K 2"],
    stop: Bool[Array, " V"],
    settings: Float[Array, "3"],
    *,
    capacity: int,
    truncated: bool,
) -> tuple[Prefix, Rows]:
    """Prefills prompts (length >= 1) and opens K rows on each."""
    model = nnx.merge(graph, weights)
    prefix = prefill(model, tokens, length - 1)
    last = jnp.take_along_axis(tokens, (length - 1)[:, None], axis=1)[:, 0]
    rows = empty_rows(model, seeds.shape[0], seeds.shape[1], capacity)
    opening = jnp.ones(len(tokens), bool)
    prefix, rows, _, _ = open_rows(
        model,
        prefix,
        rows,
        opening=opening,
        last=last,
        length=length,
        seeds=seeds,
        stop=stop,
        settings=settings,
        truncated=truncated,
    )
    return prefix, rows


@functools.partial(jax.jit, static_argnames=("graph", "steps", "truncated"), donate_argnames=("rows",))
def decode_batch(
    graph: nnx.GraphDef[Transformer],
    weights: Any,
    prefix: Prefix,
    rows: Rows,
    stop: Bool[Array, " V"],
    settings: Float[Array, "3"],
    *,
    steps: int,
    truncated: bool,
) -> Rows:
    """`decode`, jitted, the rows donated."""
    model = nnx.merge(graph, weights)
    return decode(model, prefix, rows, steps=steps, stop=stop, settings=settings, truncated=truncated)
