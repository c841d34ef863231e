"""A composition's computation as text that a small model can learn to write line by line.

    0: !4$-1%7
    1 keep x > 3: !4($-1.%7)=!4$7
    2 reverse: $7!4=!7$4
    3 each x + 1: !8$5

Line 0 is the input; each further line repeats what its clause does and ends with the value after it. Elements of lists
and texts stand behind a mark that says their place, so that an element is found by its mark and not by counting. Where
elements are kept or counted, each is first written with a verdict behind it, a dot or a sign that says its new place:
so no token asks for a search. Where they are moved, they come first with the marks that they had. A sum has its partial
sums before it. So each token asks for one small thing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from o1coder_jax.problems.curriculum.behaviour import Clause, Composition, run
from o1coder_jax.problems.curriculum.catalogue import operation
from o1coder_jax.problems.curriculum.values import Value

MARKS = "!$%&*/;<>?@^_~|`"
"""Of places 0, 1, ..., and from the beginning again; none is part of a value."""

KEPT, DROPPED = "(){}[]',#", "."
"""Verdicts on an element: the sign of its new place, from the beginning again after the last, or that it has none."""

Elements = Sequence[int | str]
_MOVES = ("reverse", "skip", "take_last", "skip_last", "every", "rotate", "mirror")
_SORTS = ("sort_up", "sort_down", "sort_letters")
_CHOICES = ("keep_above", "keep_below", "keep_multiples", "only_letters", "only_digits", "drop_vowels", "remove")
_FIRSTS = ("unique", "unique_letters", "distinct")


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
    places = range(len(before))
    if name == "sum":
        return [_marked((place, _sum(before[: place + 1])) for place in places)]
    if name == "digit_sum":
        return [_marked((place, f"{before[place]}:{_sum(before[: place + 1])}") for place in places)]
    if name in ("maximum", "minimum"):
        best = max if name == "maximum" else min
        return [_marked((place, best(before[: place + 1])) for place in places)]  # type: ignore[type-var]
    if name == "differences":
        return [_marked((place, before[place - 1]) for place in places)]
    moved = _moved(clause, before)
    if moved is not None:
        return [_marked((place, before[place]) for place in moved)]
    kept = _kept(clause, before)
    return [] if kept is None else [_judged(name, before, kept)]


def _judged(name: str, before: Elements, kept: Sequence[int]) -> str:
    """The elements with their verdicts; a rise has the element that it is compared with."""
    verdicts = {place: KEPT[new % len(KEPT)] for new, place in enumerate(kept)}
    compared = {place: f":{before[place - 1]}" if name == "rises" else "" for place in range(len(before))}
    return _marked(
        (place, f"{element}{compared[place]}{verdicts.get(place, DROPPED)}") for place, element in enumerate(before)
    )


def _sum(elements: Elements) -> int:
    """Of numbers, or of the digits among characters."""
    return sum(int(one) for one in elements if isinstance(one, int) or one.isdigit())


def _moved(clause: Clause, before: Elements) -> list[int] | None:
    """Where each element of the value comes from; None for operations that do not move elements."""
    name, everywhere = clause.operation, range(len(before))
    if name in _MOVES:
        moved = run([clause.code], [list(everywhere)])[0]
        return moved if isinstance(moved, list) else None
    if name in _SORTS:
        return sorted(everywhere, key=lambda place: before[place], reverse=name == "sort_down")  # type: ignore[arg-type,return-value]
    if name == "repeat_each" and isinstance(clause.value, int):
        return [place for place in everywhere for _ in range(clause.value)]
    return None


def _kept(clause: Clause, before: Elements) -> list[int] | None:
    """The places that are kept, or counted; None for operations that keep all."""
    name, everywhere = clause.operation, range(len(before))
    if name in _CHOICES:
        alone = [[element] if isinstance(element, int) else element for element in before]
        return [place for place, kept in enumerate(run([clause.code], alone)) if kept]
    if name in _FIRSTS:
        return [place for place in everywhere if before[place] not in before[:place]]
    if name == "rises":
        return [place for place in everywhere if before[place] > before[place - 1]]  # type: ignore[operator]
    tests: dict[str, Callable[[int | str], bool]] = {
        "count_above": lambda x: isinstance(x, int) and isinstance(clause.value, int) and x > clause.value,
        "count_letters": lambda c: isinstance(c, str) and c.isalpha(),
        "digits": lambda c: isinstance(c, str) and c.isdigit(),
        "places": lambda c: isinstance(c, str) and c in "aeiouAEIOU",
    }
    return [place for place in everywhere if tests[name](before[place])] if name in tests else None
