"""A composition's computation as text that a small model can learn to write line by line.

    0: !4$-1%7
    1 keep x > 3: !4%7=!4$7
    2 each x + 1: !5$8

Line 0 is the input; each further line repeats what its clause does and ends with the value after it. Elements of lists
and texts stand behind a mark that says their place, so that an element is found by its mark and not by counting. Where
elements are chosen or moved, the first part of the line has them with the marks that they had, the last with new ones;
a sum has its partial sums before it, a count what is counted. So each token asks for one small thing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from o1coder_jax.problems.curriculum.behaviour import Clause, Composition, run
from o1coder_jax.problems.curriculum.catalogue import operation
from o1coder_jax.problems.curriculum.values import Value

MARKS = "!$%&*/;<>?@^_~|`"
"""Of places 0, 1, ..., and from the beginning again; none is part of a value."""

Elements = Sequence[int | str]
_MOVES = ("reverse", "skip", "take_last", "skip_last", "every", "rotate", "mirror")
_SORTS = ("sort_up", "sort_down", "sort_letters")
_CHOICES = ("keep_above", "keep_below", "keep_multiples", "only_letters", "only_digits", "drop_vowels", "remove")
_FIRSTS = ("unique", "unique_letters", "distinct")
_COUNTS = ("distinct", "count_above", "count_letters")


def trace(composition: Composition, stages: Sequence[Value]) -> str:
    """The lines of a run: `stages` are the values before, between and after the clauses."""
    lines = [f"0: {written(stages[0])}"]
    for number, (clause, before, after) in enumerate(zip(composition, stages[:-1], stages[1:], strict=True), 1):
        doing = operation(clause.operation).correct.filled(clause.value).pseudocode
        parts = [*_steps(clause, before), written(after)]
        lines.append(f"{number} {doing}: {'='.join(parts)}")
    return "\n".join(lines)


def written(value: Value) -> str:
    """A number, or elements with their marks."""
    if isinstance(value, int):
        return str(value)
    elements: Elements = value
    return _marked(enumerate(elements))


def _marked(elements: Iterable[tuple[int, int | str]]) -> str:
    return "".join(f"{MARKS[place % len(MARKS)]}{element}" for place, element in elements)


def _steps(clause: Clause, before: Value) -> list[str]:
    """The parts of a line before the value."""
    name = clause.operation
    if isinstance(before, int):
        return []
    if name in ("sum", "digit_sum"):
        return [_marked(_partial_sums(before))]
    if name in ("maximum", "minimum"):
        best = max if name == "maximum" else min
        return [_marked([(place, best(before[: place + 1])) for place in range(len(before))])]  # type: ignore[type-var]
    places = _places(clause, before)
    if places is None:
        return []
    chosen = _marked([(place, before[place]) for place in places])
    return [chosen, _marked(enumerate([before[place] for place in places]))] if name in _COUNTS else [chosen]


def _partial_sums(before: Elements) -> list[tuple[int, int]]:
    """At each number, or digit, the sum so far."""
    total, sums = 0, []
    for place, element in enumerate(before):
        if isinstance(element, int) or element.isdigit():
            total += int(element)
            sums.append((place, total))
    return sums


def _places(clause: Clause, before: Elements) -> list[int] | None:
    """Where the elements of the value (or what is counted) come from; None for operations on each element."""
    name, everywhere = clause.operation, range(len(before))
    if name in _MOVES:
        moved = run([clause.code], [list(everywhere)])[0]
        return moved if isinstance(moved, list) else None
    if name in _SORTS:
        return sorted(everywhere, key=lambda place: before[place], reverse=name == "sort_down")  # type: ignore[arg-type,return-value]
    if name in _CHOICES:
        alone = [[element] if isinstance(element, int) else element for element in before]
        return [place for place, kept in enumerate(run([clause.code], alone)) if kept]
    if name in _FIRSTS:
        return [place for place in everywhere if before[place] not in before[:place]]
    if name == "rises":
        return [place for place in everywhere if before[place] > before[place - 1]]  # type: ignore[operator]
    if name == "repeat_each" and isinstance(clause.value, int):
        return [place for place in everywhere for _ in range(clause.value)]
    tests: dict[str, Callable[[int | str], bool]] = {
        "count_above": lambda x: isinstance(x, int) and isinstance(clause.value, int) and x > clause.value,
        "count_letters": lambda c: isinstance(c, str) and c.isalpha(),
        "digits": lambda c: isinstance(c, str) and c.isdigit(),
        "places": lambda c: isinstance(c, str) and c in "aeiouAEIOU",
    }
    return [place for place in everywhere if tests[name](before[place])] if name in tests else None
