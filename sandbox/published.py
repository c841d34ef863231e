"""What O1-CODER's published code takes for a right answer, as its behaviour was read and tried; for the audit only.

What a script printed is right when, with the white space at both ends left out, it is the expected text. It is also
right when

  - each of its characters, read as a number, is close to the line of the expected text at the same place;
  - the sets of characters of its words are, as a set, the sets of words of the expected lines;
  - the same holds once characters and words are read as numbers and rounded to three decimals.

What a function returned is right when Python calls it equal to the expected value, or to the first element of an
expected list. An expected object with integer keys counts as a list of one, and of an expected list that begins with
one only that is looked at. Values are compared here as JSON, so tuples are lists, and keys are text on both sides.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any

_RELATIVE, _ABSOLUTE = 1e-5, 1e-8  # of "close", as numpy has it
_DECIMALS = 3


def accepts_text(expected: str, actual: str) -> bool:
    """Whether a script that printed `actual` passes."""
    if expected.strip() == actual.strip():
        return True
    lines = [line.strip() for line in expected.split("\n") if line]
    if _close(lines, actual):
        return True
    return any(_same_sets(lines, actual, read) for read in (_as_it_is, _rounded))


def accepts_value(expected: Any, actual: Any) -> bool:
    """Whether a function that returned `actual` passes; both are JSON values."""
    wanted = as_expected(expected)
    return bool(actual == wanted or (isinstance(wanted, list) and wanted and actual == wanted[0]))


def as_expected(value: Any) -> Any:
    """What an expected value is turned into first."""
    if _has_integer_keys(value):
        return [value]
    if isinstance(value, list) and value and _has_integer_keys(value[0]):
        return value[:1]
    return value


def _close(lines: list[str], actual: str) -> bool:
    if len(lines) != len(actual):
        return False
    try:
        pairs = [(float(line), float(character)) for line, character in zip(lines, actual, strict=True)]
    except ValueError:
        return False
    return all(math.isfinite(line) and abs(line - given) <= _ABSOLUTE + _RELATIVE * abs(line) for line, given in pairs)


def _as_it_is(text: str) -> str:
    return text


def _rounded(text: str) -> float:
    return round(float(text), _DECIMALS)


def _same_sets(lines: list[str], actual: str, read: Callable[[str], Any]) -> bool:
    def sets(groups: Iterable[Iterable[str]]) -> set[frozenset[Any]]:
        return {frozenset(read(piece) for piece in group) for group in groups}

    try:
        return sets(set(actual.split())) == sets(line.split() for line in lines)
    except ValueError:
        return False


def _has_integer_keys(value: Any) -> bool:
    if not isinstance(value, dict):
        return False
    try:
        for key in value:
            int(key)
    except ValueError:
        return False
    return True
