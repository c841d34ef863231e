"""What is set aside, what is held back, and which part a problem lies in.

Every choice is seeded by content: it depends on (seed, statement), never on the order or the place of rows.
"""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Iterable, Sequence
from typing import Any

from o1coder_jax.records import Problem, content_hash


@dataclasses.dataclass(frozen=True, slots=True)
class Rejected:
    """A problem that was set aside, and why.

    Attributes:
      id: of the problem.
      where: its place (`train.json, row 8`).
      reason: one line.
      verdicts: what the reference solutions gave, one object each, if they were run.
    """

    id: str
    where: str
    reason: str
    verdicts: tuple[dict[str, Any], ...] = ()

    def to_json(self) -> dict[str, Any]:
        return {"id": self.id, "where": self.where, "reason": self.reason, "verdicts": list(self.verdicts)}


def statement_hash(problem: Problem) -> str:
    """Identifies a statement; differences in blanks and line ends do not count."""
    return content_hash(" ".join(problem.statement.split()))


def place(problem: Problem) -> str:
    """Where a problem came from, in words; the source of one that no file gave."""
    return str(problem.meta.get("where") or problem.source or problem.id)


def without_duplicates(problems: Iterable[Problem]) -> tuple[list[Problem], list[Rejected]]:
    """Keeps the first problem of each statement and sets the others aside."""
    first: dict[str, Problem] = {}
    rejected = []
    for problem in problems:
        other = first.setdefault(statement_hash(problem), problem)
        if other is not problem:
            rejected.append(Rejected(problem.id, place(problem), f"same statement as {other.id}"))
    return list(first.values()), rejected


def hold_back(problem: Problem, *, max_tests: int, max_hidden: int, seed: int) -> Problem:
    """Moves a seeded half of a problem's tests, at most `max_hidden`, to `hidden`; keeps at most `max_tests`.

    With a single test the hidden one is that same test. `meta["held_back"]` records what was done.
    """
    count = len(problem.tests)
    order = list(range(count))
    random.Random(content_hash("hold back", seed, statement_hash(problem))).shuffle(order)
    hidden_count = min(count // 2, max_hidden)
    hidden = sorted(order[:hidden_count]) if count > 1 else order
    own = sorted(order[hidden_count:][:max_tests])
    record = {"own": own, "hidden": hidden, "of": count, "seed": seed, "hidden_is_own": count == 1}
    return dataclasses.replace(
        problem,
        tests=tuple(problem.tests[i] for i in own),
        hidden=tuple(problem.tests[i] for i in hidden),
        meta={**problem.meta, "held_back": record},
    )


def part_sizes(count: int, shares: Sequence[float]) -> list[int]:
    """Sizes of parts by largest remainder; none is empty when there is a problem for each.

    With fewer problems than parts, the first parts get one each.

    Args:
      count: how many problems there are.
      shares: of each part, in order of importance; they sum to 1.
    """
    if count < len(shares):
        return [1] * count + [0] * (len(shares) - count)
    exact = [count * share for share in shares]
    sizes = [int(value) for value in exact]
    by_remainder = sorted(range(len(shares)), key=lambda part: sizes[part] - exact[part])
    for part in by_remainder[: count - sum(sizes)]:
        sizes[part] += 1
    while 0 in sizes:
        sizes[sizes.index(max(sizes))] -= 1
        sizes[sizes.index(0)] += 1
    return sizes


def cut(problems: Iterable[Problem], shares: Sequence[float], seed: int) -> list[list[Problem]]:
    """Deals problems to parts in the order of a seeded hash of their statements."""
    ordered = sorted(problems, key=lambda problem: content_hash("part", seed, statement_hash(problem)))
    parts, start = [], 0
    for size in part_sizes(len(ordered), shares):
        parts.append(ordered[start : start + size])
        start += size
    return parts
