"""The state of generation: paths, and the rows that continue them.

Paths and rows hold keys and values as the products of a decode step read them (`laid`), in which the keys' last axis is
the places: on a CPU every other layout is copied at each step, which takes longer than the products.

Shapes: P paths, S places of a path (with holes), R rows, C row capacity, H tokens of a header at most, G, E, L, V as in
transformer.py. Everything here is one part of a mesh.
"""

from __future__ import annotations

from dataclasses import dataclass

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, UInt32

from o1coder_jax.transformer import ModelConfig, Transformer

# One array per layer, so that the token loop never slices a stacked cache; of a scanned model a single array, with the
# layers as an axis before those of one layer's array.
Cache = tuple[Array, ...]


HEADS, LAID_HEADS = -2, -3
"""The axis of the key heads in keys and values as they are read, and as they are laid for decoding."""


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Prefix:
    """Keys and values of what was read before, token by token.

    Attributes:
      keys, values: L arrays (P, S, G, E); places may be empty.
      valid: (P, S), which places hold a token.
    """

    keys: Cache
    values: Cache
    valid: Bool[Array, "P S"]


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Header:
    """What every row of a path begins with: given, not drawn.

    Attributes:
      tokens: (P, H), `length` (P,) of them.
    """

    tokens: Int[Array, "P H"]
    length: Int[Array, " P"]


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Paths:
    """What rows continue: whole paths, their last token included.

    Attributes:
      keys, values: L arrays (P, G, E, S) and L (P, G, S, E).
      valid: (P, S), which places hold a token.
      logits: (P, V), scores of the next token.
      length: (P,), tokens on the path.
      said: (P, V), which tokens are on the path; None without repetition penalty.
      header: None where rows begin with what they draw.
    """

    keys: Cache
    values: Cache
    valid: Bool[Array, "P S"]
    logits: Float[Array, "P V"]
    length: Int[Array, " P"]
    said: Bool[Array, "P V"] | None = None
    header: Header | None = None


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Rows:
    """Rows in generation.

    Attributes:
      tokens: (R, C), what was drawn so far.
      log_probability: (R, C), of each drawn token under the model at temperature 1; 0 for those that were given.
      length: (R,), tokens drawn.
      done: (R,), met a stop or the capacity.
      stop: (R,), state of the search for a stop (`stopping.py`).
      path: (R,), which path a row continues, and `lane` (R,), which of that path's K rows it is.
      seeds: (R, 2), key data; a row's draws depend on nothing else.
      keys, values: L arrays (R, G, E, C) and L (R, G, C, E) of the tokens that were fed.
      said: (R, V), which tokens are on the path or in the row; None without repetition penalty.
    """

    tokens: Int[Array, "R C"]
    log_probability: Float[Array, "R C"]
    length: Int[Array, " R"]
    done: Bool[Array, " R"]
    stop: Int[Array, " R"]
    path: Int[Array, " R"]
    lane: Int[Array, " R"]
    seeds: UInt32[Array, "R 2"]
    keys: Cache
    values: Cache
    said: Bool[Array, "R V"] | None = None


def empty_cache(config: ModelConfig, *places: int) -> Cache:
    """Keys (or values) of so many places."""
    shape = (*places, config.kv_heads, config.head_size)
    if config.scanned:
        return (jnp.zeros((config.layers, *shape), config.dtype),)
    return tuple(jnp.zeros(shape, config.dtype) for _ in range(config.layers))


def laid(keys: Cache, values: Cache) -> tuple[Cache, Cache]:
    """Keys and values, L arrays (..., S, G, E) each, as (..., G, E, S) and (..., G, S, E)."""
    return tuple(jnp.moveaxis(k, -3, -1) for k in keys), tuple(jnp.swapaxes(v, -3, -2) for v in values)


def unlaid(keys: Cache, values: Cache) -> tuple[Cache, Cache]:
    """What `laid` was given."""
    return tuple(jnp.moveaxis(k, -1, -3) for k in keys), tuple(jnp.swapaxes(v, -3, -2) for v in values)


def _empty_laid(config: ModelConfig, *places: int) -> tuple[Cache, Cache]:
    return laid(empty_cache(config, *places), empty_cache(config, *places))


def empty_paths(
    model: Transformer, paths: int, places: int, *, header_tokens: int = 0, penalised: bool = False
) -> Paths:
    """Room for paths; with headers of so many tokens at most, and with a repetition penalty, if asked for."""
    keys, values = _empty_laid(model.config, paths, places)
    return Paths(
        keys,
        values,
        jnp.zeros((paths, places), bool),
        jnp.zeros((paths, model.vocab_size), jnp.float32),
        jnp.zeros(paths, jnp.int32),
        said=jnp.zeros((paths, model.vocab_size), bool) if penalised else None,
        header=Header(jnp.zeros((paths, header_tokens), jnp.int32), jnp.zeros(paths, jnp.int32))
        if header_tokens
        else None,
    )


def empty_rows(model: Transformer, rows: int, capacity: int, *, penalised: bool = False) -> Rows:
    """Rows that are all done: places to open."""

    def plane() -> Array:  # one for each: buffers that are donated must not be shared
        return jnp.zeros(rows, jnp.int32)

    keys, values = _empty_laid(model.config, rows, capacity)
    return Rows(
        tokens=jnp.zeros((rows, capacity), jnp.int32),
        log_probability=jnp.zeros((rows, capacity), jnp.float32),
        length=plane(),
        done=jnp.ones(rows, bool),
        stop=plane(),
        path=plane(),
        lane=plane(),
        seeds=jnp.zeros((rows, 2), jnp.uint32),
        keys=keys,
        values=values,
        said=jnp.zeros((rows, model.vocab_size), bool) if penalised else None,
    )
