"""Keys and values of search trees, held in pages: the tree is the page table.

A node owns the pages of its own step; a path is the list of its ancestors' pages and its own. To expand a node its
path is gathered once into a dense prefix that all candidates share; the keys and values of the new steps are
scattered into new pages afterwards. So a gather happens once per step, not once per token, and no special
attention kernel is needed. Nodes that cannot have children own no pages. Pages belong to one tree, so a mesh that
shards trees moves nothing.

Shapes: T trees, M token places of a tree, N nodes, P pages of the longest path, K candidates, L, G, E as in
transformer.py.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Int

from o1coder_jax.decode import Cache, Prefix, Rows
from o1coder_jax.transformer import ModelConfig

NO_PAGE = -1


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Pages:
    """The pool and its tables.

    Attributes:
      keys, values: L arrays (T, M, G, E).
      filled: (T, M), places that hold a token.
      table: (T, N, P), the pages of each node's path, NO_PAGE where it is shorter.
      used: (T, N), pages in that path.
      length: (T, N), tokens in that path.
      last: (T, N), the path's last token, and `last_place`, where its keys go when it is fed.
      free: (T,), the next free page.
    """

    keys: Cache
    values: Cache
    filled: Bool[Array, "T M"]
    table: Int[Array, "T N P"]
    used: Int[Array, "T N"]
    length: Int[Array, "T N"]
    last: Int[Array, "T N"]
    last_place: Int[Array, "T N"]
    free: Int[Array, " T"]


def empty_pages(config: ModelConfig, *, trees: int, nodes: int, pages: int, path_pages: int, page_tokens: int) -> Pages:
    """A pool of `pages` pages of `page_tokens` tokens for each tree."""
    shape = (trees, pages * page_tokens, config.kv_heads, config.head_size)

    def plane() -> Array:  # one for each table: buffers that are donated must not be shared
        return jnp.zeros((trees, nodes), jnp.int32)

    return Pages(
        keys=tuple(jnp.zeros(shape, config.dtype) for _ in range(config.layers)),
        values=tuple(jnp.zeros(shape, config.dtype) for _ in range(config.layers)),
        filled=jnp.zeros(shape[:2], bool),
        table=jnp.full((trees, nodes, path_pages), NO_PAGE, jnp.int32),
        used=plane(),
        length=plane(),
        last=plane(),
        last_place=plane(),
        free=jnp.zeros(trees, jnp.int32),
    )


def write_prompt(
    pages: Pages, slot: Int[Array, " R"], prefix: Prefix, last: Int[Array, " R"], length: Int[Array, " R"], page: int
) -> Pages:
    """Puts R prompts (all but their last token read) at the roots of the trees `slot`.

    `slot` outside 0..T-1 drops the row. The tree's other pages become free.
    """
    places = prefix.valid.shape[1]
    count = -(-length // page)
    number = jnp.arange(pages.table.shape[2])
    root = jnp.where(number < count[:, None], number, NO_PAGE)
    filled = jnp.pad(prefix.valid, ((0, 0), (0, pages.filled.shape[1] - places)))

    def put(pool: Array, new: Array) -> Array:
        return pool.at[slot, :places].set(new, mode="drop")

    def put_root(plane: Array, new: Array) -> Array:
        return plane.at[slot, 0].set(new, mode="drop")

    return replace(
        pages,
        keys=tuple(put(pool, new) for pool, new in zip(pages.keys, prefix.keys, strict=True)),
        values=tuple(put(pool, new) for pool, new in zip(pages.values, prefix.values, strict=True)),
        filled=pages.filled.at[slot].set(filled, mode="drop"),
        table=put_root(pages.table, root),
        used=put_root(pages.used, count),
        length=put_root(pages.length, length),
        last=put_root(pages.last, last),
        last_place=put_root(pages.last_place, length - 1),
        free=pages.free.at[slot].set(count, mode="drop"),
    )


def gather(pages: Pages, node: Int[Array, " T"], page: int) -> Prefix:
    """The dense prefix of a path in each tree: (T, P * page, ...) with holes where pages are not full."""
    tree = jnp.arange(len(node))
    path = pages.table[tree, node]
    places = (path[:, :, None] * page + jnp.arange(page)).reshape(len(node), -1)
    inside = jnp.repeat(path != NO_PAGE, page, axis=1)
    places = jnp.maximum(places, 0)

    def take(pool: Array) -> Array:
        return jax.vmap(lambda rows, at: rows[at])(pool, places)

    return Prefix(
        keys=tuple(take(pool) for pool in pages.keys),
        values=tuple(take(pool) for pool in pages.values),
        valid=inside & jnp.take_along_axis(pages.filled, places, axis=1),
    )


def write_last(pages: Pages, node: Int[Array, " T"], which: Bool[Array, " T"], keys: Cache, values: Cache) -> Pages:
    """Stores the keys and values (T, 1, G, E) of the paths' last tokens, which have just been fed."""
    tree = jnp.arange(len(node))
    place = jnp.where(which, pages.last_place[tree, node], pages.filled.shape[1])

    def put(pool: Array, new: Array) -> Array:
        return pool.at[tree, place].set(new[:, 0], mode="drop")

    return replace(
        pages,
        keys=tuple(put(pool, new) for pool, new in zip(pages.keys, keys, strict=True)),
        values=tuple(put(pool, new) for pool, new in zip(pages.values, values, strict=True)),
        filled=pages.filled.at[tree, place].set(True, mode="drop"),
    )


def write_steps(
    pages: Pages, parent: Int[Array, " T"], child: Int[Array, "T K"], rows: Rows, step_tokens: int, page: int
) -> Pages:
    """Gives each child that may have children itself (`child` != NONE) pages with its step's keys and values.

    A step of n tokens fills n - 1 places; that of its last token is filled when the child is expanded.
    """
    return jax.vmap(lambda *tree: _write_steps_one(*tree, step_tokens=step_tokens, page=page))(
        pages, parent, child, rows
    )


def _write_steps_one(
    pages: Pages, parent: Int[Array, ""], child: Int[Array, " K"], rows: Rows, *, step_tokens: int, page: int
) -> Pages:
    owner = child >= 0
    count = jnp.where(owner, -(-rows.length // page), 0)
    first = pages.free + jnp.cumsum(count) - count
    token = jnp.arange(step_tokens)
    place = (first[:, None] + token // page) * page + token % page  # (K, step_tokens)
    place = jnp.where(owner[:, None] & (token < rows.length[:, None] - 1), place, pages.filled.shape[0])
    node = jnp.where(owner, child, pages.used.shape[0])  # out of range: dropped
    number = jnp.arange(pages.table.shape[1]) - pages.used[parent]
    own = (number >= 0) & (number < count[:, None])
    path = jnp.where(own, first[:, None] + number, pages.table[parent])
    end = rows.length - 1

    def put(pool: Array, new: Array) -> Array:
        return pool.at[place.reshape(-1)].set(new[:, :step_tokens].reshape(-1, *pool.shape[1:]), mode="drop")

    return replace(
        pages,
        keys=tuple(put(pool, new) for pool, new in zip(pages.keys, rows.keys, strict=True)),
        values=tuple(put(pool, new) for pool, new in zip(pages.values, rows.values, strict=True)),
        filled=pages.filled.at[place.reshape(-1)].set(True, mode="drop"),
        table=pages.table.at[node].set(path, mode="drop"),
        used=pages.used.at[node].set(pages.used[parent] + count, mode="drop"),
        length=pages.length.at[node].set(pages.length[parent] + rows.length, mode="drop"),
        last=pages.last.at[node].set(jnp.take_along_axis(rows.tokens, end[:, None], axis=1)[:, 0], mode="drop"),
        last_place=pages.last_place.at[node].set((first + end // page) * page + end % page, mode="drop"),
        free=pages.free + jnp.sum(count),
    )
