"""Which part a template belongs to: templates that share a behaviour are one group, a group is in one part."""

from __future__ import annotations

import collections
import random
from collections.abc import Iterable, Sequence

from o1coder_jax.problems.curriculum.behaviour import Behaviour
from o1coder_jax.problems.curriculum.catalogue import READERS
from o1coder_jax.problems.curriculum.values import INPUT_KINDS, Kind

Template = tuple[Kind, tuple[str, ...]]
"""The input's kind and the operations' names."""


RARITY = 4
"""An operation that is in n problems is drawn with weight 1 / (RARITY + n), so that all are used alike."""


def draw_template(length: int, used: collections.Counter[str], rng: random.Random) -> Template | None:
    """A random chain of different operations that fit together; None if the walk has no way on.

    `used` says in how many problems each operation, and each kind of input, is already.
    """
    start = kind = rng.choices(INPUT_KINDS, [1 / (RARITY + used[kind]) for kind in INPUT_KINDS])[0]
    names: list[str] = []
    for _ in range(length):
        ways = [operation for operation in READERS[kind] if operation.name not in names]
        if not ways:
            return None
        operation = rng.choices(ways, [1 / (RARITY + used[way.name]) for way in ways])[0]
        names.append(operation.name)
        kind = dict(operation.signatures)[kind]
    return start, tuple(names)


class Parting:
    """A union-find over templates, where each group has one part.

    A template whose behaviours are already in two parts would join them, and is refused. So groups stay
    closed over everything that was drawn, and no giant one can form across parts.
    """

    def __init__(self) -> None:
        self._owner: dict[bytes, int] = {}
        self._parents: list[int] = []
        self._parts: list[str] = []
        self.refused = 0

    def parts_of(self, behaviours: Iterable[Behaviour]) -> set[str]:
        """The parts in which any of these behaviours is."""
        return {self._parts[owner] for owner in self._owners(behaviours)}

    def place(self, behaviours: Sequence[Behaviour], part: str) -> None:
        """Puts a template, given by the behaviours of its instances, in a part."""
        if self.parts_of(behaviours) - {part}:
            raise ValueError(f"a template of part {part} computes what one of another part does")
        template = len(self._parents)
        self._parents.append(template)
        self._parts.append(part)
        for owner in self._owners(behaviours):
            self._parents[self._root(owner)] = template
        for behaviour in behaviours:
            for block in behaviour.blocks:
                self._owner[block] = template

    def group_sizes(self) -> list[int]:
        """Templates per group, largest first."""
        counts = collections.Counter(self._root(template) for template in range(len(self._parents)))
        return sorted(counts.values(), reverse=True)

    def _owners(self, behaviours: Iterable[Behaviour]) -> list[int]:
        blocks = (block for behaviour in behaviours for block in behaviour.blocks)
        return sorted({self._owner[block] for block in blocks if block in self._owner})

    def _root(self, template: int) -> int:
        while self._parents[template] != template:
            self._parents[template] = self._parents[self._parents[template]]
            template = self._parents[template]
        return template
