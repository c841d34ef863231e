"""Values that flow between operations, their text on standard streams, and seeded inputs.

A value is a list of integers, a text without blanks, or a number. Inputs are lists or texts, kept small
because a tiny model has to write such tests too: up to `LIST_LENGTH` numbers in -9..20, up to
`TEXT_LENGTH` letters and digits.
"""

from __future__ import annotations

import enum
import functools
import random
from collections.abc import Sequence
from typing import Any

Value = list[int] | str | int

LIST_LENGTH = 8
TEXT_LENGTH = 10
BANK_INPUTS = 4000
SMALLEST, LARGEST = -9, 20

# Few letters, so that repeats and the letters that operations name (a, b, e) are frequent.
_ALPHABET = "aabbceeiostxz" + "AABEITZ" + "00112357"

_SHORT_ALPHABET = "aabbE27"
_SHORT_NUMBERS = range(-3, 6)
_SHORT_LENGTHS = (2, 3, 3, 4, 4, 5, 6)
NAMED_SHARE = 0.5
"""Of short inputs, those of which one element is a value that the program names."""

_LIST_EDGES: tuple[list[int], ...] = (
    [0],
    [1],
    [7],
    [-4],
    [20],
    [0, 0],
    [3, 3, 3],
    [5, 5, 5, 5, 5],
    [-2, -2],
    [1, 2, 3, 4, 5],
    [-3, -1, 0, 2, 6, 9],
    [9, 7, 4, 2, 0],
    [5, 3, 1, -1, -3, -5],
    [-7, -2, -9, -5],
    [-1, -1, -6, -3],
    [2, 1],
    [1, 2],
    [4, -4, 4, -4],
    [0, 3, 0, 3, 0],
    [20, -9, 20, -9],
    [1, 1, 2, 2, 3, 3, 4, 4],
    [2, 3, 4, 5, 6, 7, 8, 9],
    [8, 6, 4, 2],
    [0, 3, 5, 8],
)
_TEXT_EDGES: tuple[str, ...] = (
    "a",
    "e",
    "B",
    "Z",
    "7",
    "0",
    "aa",
    "ee",
    "AA",
    "aaaa",
    "bbbbb",
    "abc",
    "zxa",
    "abba",
    "ABE",
    "AEI",
    "aeio",
    "AaEeBb",
    "123",
    "7510",
    "0000",
    "a1b2",
    "1a1a1",
    "xtz",
)


class Kind(enum.StrEnum):
    """The type of a value."""

    LIST = "list"
    TEXT = "text"
    NUMBER = "number"


INPUT_KINDS = (Kind.LIST, Kind.TEXT)


def empty(kind: Kind) -> Value:
    """The empty input of a kind, which every problem's own tests contain."""
    return [] if kind is Kind.LIST else ""


def edge_inputs(kind: Kind) -> list[Value]:
    """Single elements, repeats, negatives only, sorted either way, one case only ...; without the empty input."""
    return list(_LIST_EDGES) if kind is Kind.LIST else list(_TEXT_EDGES)


def random_input(kind: Kind, rng: random.Random) -> Value:
    """A small input; lists come from several ranges, so that repeats, signs and sorted runs all occur."""
    if kind is Kind.LIST:
        low, high = rng.choice(((SMALLEST, LARGEST), (SMALLEST, LARGEST), (-3, 6), (0, 12), (SMALLEST, 9)))
        numbers = [rng.randint(low, high) for _ in range(rng.randint(0, LIST_LENGTH))]
        return sorted(numbers) if rng.random() < 0.1 else numbers
    return "".join(rng.choice(_ALPHABET) for _ in range(rng.randint(0, TEXT_LENGTH)))


def short_input(kind: Kind, rng: random.Random, named: Sequence[Value] = ()) -> Value:
    """A small input of at least two different elements: two to six small numbers, or characters of few kinds.

    Each of them is seen often in what is learned from such inputs, and so is what can be made of two of them.

    Args:
      named: numbers or characters, one of which stands in a share (`NAMED_SHARE`) of the inputs.
    """
    while True:
        length = rng.choice(_SHORT_LENGTHS)
        drawn: list[Any] = rng.choices(_SHORT_NUMBERS if kind is Kind.LIST else _SHORT_ALPHABET, k=length)
        if named and rng.random() < NAMED_SHARE:
            drawn[rng.randrange(length)] = rng.choice(named)
        value = drawn if kind is Kind.LIST else "".join(drawn)
        if len(set(value)) > 1 and not str(value).isdigit():
            return value


@functools.cache
def _bank(kind: Kind) -> tuple[Value, ...]:
    """Different random inputs, the same in every run, from which all others are drawn."""
    rng = random.Random(f"bank/{kind}")
    bank: dict[str, Value] = {}
    while len(bank) < BANK_INPUTS:
        value = random_input(kind, rng)
        bank[str(value)] = value
    return tuple(bank.values())


def distinct_inputs(
    kind: Kind, count: int, rng: random.Random, *, first: Sequence[Value] = (), without: Sequence[Value] = ()
) -> list[Value]:
    """`count` different inputs, those of `first` (as many as fit) ahead of random ones, none of `without`."""
    seen = {str(value) for value in without}
    chosen: list[Value] = []
    for value in [*first, *rng.sample(_bank(kind), count + len(without))]:
        if len(chosen) < count and str(value) not in seen:
            seen.add(str(value))
            chosen.append(value)
    return chosen


def to_stdin(value: Value) -> str:
    """One line: numbers with blanks between, or the text; the empty input is an empty line."""
    return to_stdout(value)


def to_stdout(value: Value) -> str:
    """What the programs print: a list with blanks between, anything else as it is, and the end of the line."""
    return (" ".join(map(str, value)) if isinstance(value, list) else str(value)) + "\n"
