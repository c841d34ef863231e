"""Candidates in the making: the nodes that are expanded, and what is read or has ended of them."""

from __future__ import annotations

import functools
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int, UInt32

from o1coder_jax.sampling import fold
from search.cache import SHARED, Held, Owner
from search.tree import Node, Tree


@functools.partial(jax.jit, static_argnames=("width",))
def _seeds_of_candidates(seed: UInt32[Array, "2"], first: Int[Array, ""], *, width: int) -> UInt32[Array, "K 2"]:
    return fold(jnp.tile(seed, (width, 1)), first + jnp.arange(width))


@dataclass
class Expansion:
    """A node whose candidates are drawn.

    Attributes:
      place: of its tree in the forest.
      number: of this expansion in its tree; seeds and pages of its candidates go by it.
      seeds: (K, 2), key data of the candidates.
      known: the tokens of steps that the node has already; a candidate that repeats one is no new child.
      again: the node was expanded before.
      steps: the candidates that have ended.
      path: the path that they continue, once it is open; `started` of them have a row.
    """

    place: int
    tree: Tree
    node: int
    number: int
    seeds: np.ndarray
    known: frozenset[tuple[int, ...]]
    steps: list[Node | None]
    again: bool = False
    path: int | None = None
    started: int = 0

    @classmethod
    def begin(
        cls,
        place: int,
        tree: Tree,
        node: int,
        *,
        number: int,
        seed: np.ndarray,
        width: int,
        known: frozenset[tuple[int, ...]] = frozenset(),
        again: bool = False,
    ) -> Expansion:
        """With nothing drawn; the candidates' seeds derive from that of the tree."""
        seeds = np.asarray(_seeds_of_candidates(seed, np.int32(number * width), width=width))
        return cls(place, tree, node, number, seeds, known, [None] * width, again)

    @property
    def drawn(self) -> list[Node]:
        """The candidates that have ended; all of them once it is complete."""
        return [step for step in self.steps if step is not None]

    @property
    def complete(self) -> bool:
        return len(self.drawn) == len(self.steps)

    def repeats(self, step: Node) -> bool:
        """Whether the node has this step already, or another candidate is the same."""
        return step.tokens in self.known or any(step.tokens == other.tokens for other in self.drawn)

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
      ends: which of them are last tokens of nodes whose states are kept.
    """

    before: list[Held]
    tokens: list[int]
    places: list[int]
    start: int
    open: bool = True
    ends: tuple[int, ...] = ()


@dataclass(frozen=True)
class Ended:
    """A row that ended its step, as candidate k of an expansion."""

    expansion: Expansion
    k: int
    row: int


def owners(tree: Tree, node: int) -> list[Owner]:
    """Who holds the pages of a path, from the shared prefix on."""
    return [SHARED, (tree.number, 0), *((tree.number, step) for step in tree.path(node))]
