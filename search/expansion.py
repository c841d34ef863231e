"""Candidates in the making: the nodes that are expanded, and what is read or has ended of them."""

from __future__ import annotations

from dataclasses import dataclass

import jax.numpy as jnp
import numpy as np

from o1coder_jax.sampling import fold
from search.cache import SHARED, Held, Owner
from search.tree import Node, Tree


@dataclass
class Expansion:
    """A node whose candidates are drawn.

    Attributes:
      place: of its tree in the forest.
      number: of this expansion in its tree; seeds and pages of its candidates go by it.
      seeds: (K, 2), key data of the candidates.
      steps: the candidates that have ended.
      path: the path that they continue, once it is open; `started` of them have a row.
    """

    place: int
    tree: Tree
    node: int
    number: int
    seeds: np.ndarray
    steps: list[Node | None]
    path: int | None = None
    started: int = 0

    @classmethod
    def begin(cls, place: int, tree: Tree, node: int, *, number: int, seed: np.ndarray, width: int) -> Expansion:
        """With nothing drawn; the candidates' seeds derive from that of the tree."""
        seeds = fold(jnp.tile(seed, (width, 1)), number * width + jnp.arange(width))
        return cls(place, tree, node, number, np.asarray(seeds), [None] * width)

    @property
    def drawn(self) -> list[Node]:
        """The candidates that have ended; all of them once it is complete."""
        return [step for step in self.steps if step is not None]

    @property
    def complete(self) -> bool:
        return len(self.drawn) == len(self.steps)

    def draft(self, k: int) -> Owner:
        """Who holds the pages of candidate k as long as it has no number of its own."""
        return self.tree.number, -1 - (self.number * len(self.steps) + k)


@dataclass(frozen=True)
class Piece:
    """Tokens to take into pages.

    Attributes:
      before: what holds the tokens before it.
      tokens: at `places`, the first at position `start`.
      open: the last token is left out: it is fed when the path that it ends is opened.
    """

    before: list[Held]
    tokens: list[int]
    places: list[int]
    start: int
    open: bool = True


@dataclass(frozen=True)
class Ended:
    """A row that ended its step, as candidate k of an expansion."""

    expansion: Expansion
    k: int
    row: int


def owners(tree: Tree, node: int) -> list[Owner]:
    """Who holds the pages of a path, from the shared prefix on."""
    return [SHARED, (tree.number, 0), *((tree.number, step) for step in tree.path(node))]
