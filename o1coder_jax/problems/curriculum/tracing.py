"""A composition's computation as text that a small model can learn to write line by line.

    0: !4$-1%7
    1 keep x > 3: !4($-1.%7)=(4)7
    2 reverse: )7!7(4$4
    3 each x + 1: !7(8$4)5

Line 0 is the input; each further line repeats what its clause does and ends with the value after it. Elements of lists
and texts stand behind a mark that says their place, so that an element is found by its mark and not by counting. A
value has other marks than the one before it, so that a mark is of one value alone among those that stand near.

What becomes of an element is written behind it: `!7(8`, the element 7 with its old mark, then what is made of it with
its new one. Where elements are moved, the old mark says which comes next. Where some are kept or counted, a verdict
stands behind each, a dot or its new mark, and the value comes once more at the end. Sums, and largest and smallest so
far, stand behind each element.

Two elements are compared in one way, whatever for: `!3:$1>%4<` says that 3 is above 1 and below 4. To drop repeated
elements each is compared with those before it, up to an equal one; to keep rises, with the one before; to sort, with
all others, and its new mark follows from the signs. So each token asks for one small thing, and what there is to know
of two elements is the same in all these operations.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from o1coder_jax.problems.curriculum.behaviour import Clause, Composition, run
from o1coder_jax.problems.curriculum.values import Value

MARKS = ("!$%&*/;?@^_", "(){}[]',#\\|`")
"""Of places 0, 1, ..., and from the beginning again: of the values before the first, third, ... clause, and of the
others. None is part of a value."""

BELOW, SAME, ABOVE = "<~>"
"""How an element compares with another."""

PLUS = "+"
"""Between an element and what is added to it."""

DROPPED = "."
"""The verdict on an element that has no new place."""

Elements = Sequence[int | str]
Source = tuple[int, str, int]
"""A place in the value before, what is written behind its element, and how many elements are made of it."""

_MOVES = ("reverse", "take", "skip", "take_last", "skip_last", "every", "rotate", "mirror")
_SORTS = ("sort_up", "sort_down", "sort_letters")
_CHOICES = ("keep_above", "keep_below", "keep_multiples", "only_letters", "only_digits", "drop_vowels", "remove")
_FIRSTS = ("unique", "unique_letters", "distinct")


def trace(composition: Composition, stages: Sequence[Value]) -> str:
    """The lines of a run: `stages` are the values before, between and after the clauses."""
    lines = [f"0: {written(stages[0])}"]
    for number, (clause, before, after) in enumerate(zip(composition, stages[:-1], stages[1:], strict=True), 1):
        doing = clause.operation if clause.value is None else f"{clause.operation} {clause.value}"
        lines.append(f"{number} {doing}: {_line(clause, number, before, after)}")
    return "\n".join(lines)


def written(value: Value, number: int = 0) -> str:
    """The value after clause `number`: a number, or elements with their marks."""
    if isinstance(value, int):
        return str(value)
    elements: Elements = value
    return "".join(mark(number, place) + str(element) for place, element in enumerate(elements))


def mark(number: int, place: int) -> str:
    """That of a place in the value after clause `number`."""
    marks = MARKS[number % len(MARKS)]
    return marks[place % len(marks)]


def _line(clause: Clause, number: int, before: Value, after: Value) -> str:
    """What stands behind the name of clause `number`."""
    if isinstance(before, int):
        added = f"{before}{PLUS}{clause.value}=" if clause.operation == "number_add" else ""
        return added + written(after, number)
    if not isinstance(after, int) and (sources := _sources(clause, before)) is not None:
        return _made(number, before, after, sources)
    steps = "".join(mark(number - 1, place) + text for place, text in _steps(clause, number, before))
    return f"{steps}={written(after, number)}" if steps else written(after, number)


def _made(number: int, before: Elements, after: Elements, sources: Iterable[Source]) -> str:
    """Each element that is used, and behind it what is made of it."""
    text, made = "", 0
    for place, beside, count in sources:
        text += f"{mark(number - 1, place)}{before[place]}{beside}"
        text += "".join(f"{mark(number, new)}{after[new]}" for new in range(made, made + count))
        made += count
    return text


def _sources(clause: Clause, before: Elements) -> list[Source] | None:
    """What a value is made of, in order; None where it takes more to say so."""
    name, everywhere = clause.operation, range(len(before))
    if name in _MOVES:
        moved = run([clause.code], [list(everywhere)])[0]
        return [(place, "", 1) for place in moved] if isinstance(moved, list) else None
    if name == "repeat_each" and isinstance(clause.value, int):
        return [(place, "", clause.value) for place in everywhere]
    if name == "join":  # the sign between is made of the element before it
        return [(place, "", len(str(before[place])) + (place < everywhere[-1])) for place in everywhere]
    if name == "differences":
        return [(place, f":{before[place - 1]}", 1) for place in everywhere]
    if name in ("add", "add_place"):
        return [(place, f"{PLUS}{place if clause.value is None else clause.value}", 1) for place in everywhere]
    if name == "running_sums":
        return [(place, f"{PLUS}{_sum(before[:place])}", 1) for place in everywhere]
    whole = (*_SORTS, *_CHOICES, *_FIRSTS, "rises", "digits", "places")
    return None if name in whole else [(place, "", 1) for place in everywhere]


def _steps(clause: Clause, number: int, before: Elements) -> list[tuple[int, str]]:
    """What is written before the value: a place of the value before, and what stands behind its mark."""
    name, places = clause.operation, range(len(before))
    if name in ("sum", "digit_sum"):
        return [(place, f"{before[place]}{PLUS}{_sum(before[:place])}:{_sum(before[: place + 1])}") for place in places]
    if name in ("maximum", "minimum"):
        best = max if name == "maximum" else min
        return [(place, f"{before[place]}:{best(before[: place + 1])}") for place in places]  # type: ignore[type-var]
    news = _ranks(before, name == "sort_down") if name in _SORTS else _news(_kept(clause, before))
    if news is None:
        return []
    return [
        (place, f"{before[place]}{_compared(name, number, before, place)}{_verdict(number, news.get(place))}")
        for place in places
    ]


def _compared(name: str, number: int, before: Elements, place: int) -> str:
    """How an element compares with those that it has to be compared with."""
    if name in _SORTS:
        others = [other for other in range(len(before)) if other != place]
    elif name == "rises":
        others = [(place or len(before)) - 1]
    elif name in _FIRSTS:
        first = before.index(before[place])
        others = list(range(min(first + 1, place)))
    else:
        return ""
    signs = [f"{mark(number - 1, other)}{before[other]}{_sign(before[place], before[other])}" for other in others]
    return ":" + "".join(signs)


def _sign(one: int | str, other: int | str) -> str:
    """How `one` compares with `other`, of the same type."""
    return SAME if one == other else BELOW if one < other else ABOVE  # type: ignore[operator]


def _verdict(number: int, new: int | None) -> str:
    """The mark of an element's new place, if it has one."""
    return DROPPED if new is None else mark(number, new)


def _ranks(before: Elements, down: bool) -> dict[int, int]:
    """The new place of each when they are sorted; equal ones keep their order."""
    order = sorted(range(len(before)), key=lambda one: before[one], reverse=down)  # type: ignore[arg-type,return-value]
    return {place: new for new, place in enumerate(order)}


def _news(kept: Sequence[int] | None) -> dict[int, int] | None:
    """The new places of those that are kept."""
    return None if kept is None else {place: new for new, place in enumerate(kept)}


def _sum(elements: Elements) -> int:
    """Of numbers, or of the digits among characters."""
    return sum(int(one) for one in elements if isinstance(one, int) or one.isdigit())


def _kept(clause: Clause, before: Elements) -> list[int] | None:
    """The places that are kept, or counted; None for operations that do neither."""
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
