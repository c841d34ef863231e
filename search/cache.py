"""Which KV page belongs to which node: the host's side of `o1coder_jax/pages.py`.

A pool serves all trees of one part of the mesh. A node holds the pages of its own step; a prefix that all prompts
share belongs to no tree. When the pool is full, the pages that were used longest ago are dropped, deepest nodes first;
using a node uses all of its path, and nothing is held below what is not, so what is missing of a path is always its
end, and is read again in one piece.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

Owner = tuple[int, int]  # a tree's number and a node; the shared prefix is SHARED
SHARED: Owner = (-1, 0)


@dataclass
class Held:
    """The pages of a node: `fed` of its `tokens` are in them; `used` is the wave in which they were last needed.

    Once `released`, they may be another's.
    """

    pages: list[int]
    tokens: int
    fed: int
    depth: int
    used: int
    pins: int = 0
    released: bool = False


@dataclass
class Cache:
    """A pool's table.

    Args:
      pages: in the pool.
      page_tokens: tokens of a page.
    """

    pages: int
    page_tokens: int
    _free: list[int] = field(default_factory=list)
    _held: dict[Owner, Held] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._free = list(range(self.pages))[::-1]

    @property
    def nowhere(self) -> int:
        """A place out of range."""
        return self.pages * self.page_tokens

    def get(self, owner: Owner) -> Held | None:
        return self._held.get(owner)

    def touch(self, owners: Sequence[Owner], now: int) -> None:
        """Says that the pages of these are needed in wave `now`, so that they are not dropped in it."""
        for owner in owners:
            if held := self._held.get(owner):
                held.used = now

    def pin(self, owners: Sequence[Owner], by: int) -> None:
        """Keeps the pages of these until they are unpinned (`by` -1)."""
        for owner in owners:
            if held := self._held.get(owner):
                held.pins += by

    def pinned(self, owner: Owner) -> bool:
        held = self._held.get(owner)
        return held is not None and held.pins > 0

    def need(self, tokens: int) -> int:
        """Pages that so many tokens of a node take."""
        return -(-tokens // self.page_tokens)

    def room(self, now: int) -> int:
        """Pages that the pool can give in this wave."""
        return len(self._free) + sum(len(h.pages) for owner, h in self._held.items() if self._cold(owner, h, now))

    def hold(self, owner: Owner, tokens: int, depth: int, now: int) -> Held | None:
        """Pages for a node's tokens, none of them fed yet; None when the pool cannot give as many in this wave."""
        assert owner not in self._held
        need = self.need(tokens)
        if need > len(self._free):
            self._make_room(need, now)
        if need > len(self._free):
            return None
        held = Held([self._free.pop() for _ in range(need)], tokens, 0, depth, now)
        self._held[owner] = held
        return held

    def release(self, owner: Owner) -> None:
        held = self._held.pop(owner, None)
        if held is not None:
            held.released = True
            self._free.extend(held.pages)

    def rename(self, owner: Owner, name: Owner) -> None:
        self._held[name] = self._held.pop(owner)

    def release_tree(self, number: int, nodes: int) -> None:
        for node in range(nodes):
            self.release((number, node))

    def places(self, held: Held, first: int, count: int) -> list[int]:
        """Where tokens `first` to `first + count` of a node lie in the pool."""
        size = self.page_tokens
        return [held.pages[i // size] * size + i % size for i in range(first, first + count)]

    def _make_room(self, need: int, now: int) -> None:
        if need > self.room(now):
            return
        cold = [(held.used, -held.depth, owner) for owner, held in self._held.items() if self._cold(owner, held, now)]
        for _, _, owner in sorted(cold):
            self.release(owner)
            if need <= len(self._free):
                return

    @staticmethod
    def _cold(owner: Owner, held: Held, now: int) -> bool:
        return owner != SHARED and held.used < now and not held.pins


def page_table(path: Sequence[Held], page_tokens: int, *, closed: bool = False) -> tuple[list[int], list[int]]:
    """The pages of a path, and how many tokens each holds: those that were fed, or all with `closed`."""
    pages: list[int] = []
    filled: list[int] = []
    for held in path:
        tokens = held.tokens if closed else held.fed
        pages += held.pages
        filled += [min(max(tokens - i * page_tokens, 0), page_tokens) for i in range(len(held.pages))]
    return pages, filled
