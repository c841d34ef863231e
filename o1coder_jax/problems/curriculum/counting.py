"""How many different problems there are: a lower bound, by behaviour."""

from __future__ import annotations

from collections.abc import Iterator

from o1coder_jax.problems.curriculum.behaviour import examine, instances
from o1coder_jax.problems.curriculum.catalogue import READERS
from o1coder_jax.problems.curriculum.config import LONGEST
from o1coder_jax.problems.curriculum.values import INPUT_KINDS, Kind


def count_distinct(limit: int) -> int:
    """Counts compositions of two and more clauses that differ in what they compute; stops soon after `limit`.

    Statements, forms and phrasings are not counted apart. Each composition is examined as in `build`: nearly
    constant ones, and those with a clause that hardly matters, do not count.
    """
    signatures: set[bytes] = set()
    for length in range(2, LONGEST + 1):
        for kind in INPUT_KINDS:
            for names in all_chains(kind, length):
                found = (examine(kind, item) for item in instances(names))
                signatures.update(behaviour.signature for behaviour in found if behaviour is not None)
                if len(signatures) >= limit:
                    return len(signatures)
    return len(signatures)


def all_chains(kind: Kind, length: int) -> Iterator[tuple[str, ...]]:
    """Every sequence of different operations that fit together and begin with a `kind`."""
    if length == 0:
        yield ()
        return
    for operation in READERS[kind]:
        for rest in all_chains(dict(operation.signatures)[kind], length - 1):
            if operation.name not in rest:
                yield (operation.name, *rest)
