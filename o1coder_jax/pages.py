"""Keys and values of search trees, held in pages.

A node owns the pages of its own step, and a path is the list of its ancestors' pages and its own: siblings and
descendants share them. To expand a node its path is gathered once into a dense prefix that all its candidates read;
the keys and values of the new steps are scattered into new pages afterwards. So a gather happens once per step, not
once per token, and no special attention kernel is needed. Which page belongs to whom is the host's knowledge
(`search/cache.py`); here are only the pages.

Shapes: M places (pages x tokens of a page), O paths, Q pages of the longest path, B pieces, S tokens of a piece.
"""

from __future__ import annotations

from dataclasses import dataclass

import jax
import jax.numpy as jnp
from jaxtyping import Array, Int

from o1coder_jax.rows import Cache, Prefix, empty_cache
from o1coder_jax.transformer import ModelConfig


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Pages:
    """The pool: keys and values of M places, as `rows.Cache`."""

    keys: Cache
    values: Cache


def empty_pages(config: ModelConfig, places: int) -> Pages:
    """A pool of so many places."""
    return Pages(empty_cache(config, places), empty_cache(config, places))


def gather(pages: Pages, table: Int[Array, "O Q"], filled: Int[Array, "O Q"], page_tokens: int) -> Prefix:
    """The dense prefixes of paths.

    Args:
      table: the pages of each path, in order; any number where `filled` is 0.
      filled: how many tokens of each page belong to the path.
    """
    offset = jnp.arange(page_tokens)
    places = (table[:, :, None] * page_tokens + offset).reshape(len(table), -1)
    valid = (offset < filled[:, :, None]).reshape(len(table), -1)
    keys, values = (tuple(pool[..., places, :, :] for pool in cache) for cache in (pages.keys, pages.values))
    return Prefix(keys, values, valid)


def write(pages: Pages, places: Int[Array, "B S"], keys: Cache, values: Cache) -> Pages:
    """Puts keys and values of B x S tokens at these places; M or more drops one."""

    def put(pool: Array, new: Array) -> Array:
        return pool.at[..., places, :, :].set(new, mode="drop")

    return Pages(
        tuple(put(pool, new) for pool, new in zip(pages.keys, keys, strict=True)),
        tuple(put(pool, new) for pool, new in zip(pages.values, values, strict=True)),
    )
