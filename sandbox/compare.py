"""Comparison of what a program gave with what was expected. Runs outside the program's process.

For the stdin form `compare` is {"mode": MODE, ...} with

  tokens   (default) the same words in the same order; only white space may differ
  lines    the same lines; white space at their ends and empty lines at the end may differ
  exact    the same text
  float    as tokens, but numbers may differ by max(abs, rel * |expected|); two integers must be equal

and, except for `exact`, "case": false to ignore case and "ordered": false to ignore the order of lines.
For the call form the modes are

  exact    (default) the same JSON value: True is not 1, 1 is not 1.0, tuples are lists, keys are text
  float    as exact, but numbers that are not both integers may differ as above

with "ordered": false to ignore the order of the outermost list. `abs` and `rel` are 1e-6 unless given.
NaN equals nothing. Text is compared as text: never as sets, never by the shorter of two.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable
from typing import Any

from o1coder_jax.errors import UserError

Matcher = Callable[[Any, Any], bool]
"""matches(expected, actual): both text, or both JSON values as `normal` gives them."""

# ASCII digits only, no `1_0`, no `inf`, no `nan`.
_NUMBER = re.compile(r"[+-]?(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][+-]?[0-9]+)?")
_INTEGER = re.compile(r"[+-]?[0-9]+")
_DEFAULT_TOLERANCE = 1e-6

_TEXT_MODES = ("tokens", "lines", "exact", "float")
_VALUE_MODES = ("exact", "float")


def matcher(compare: dict[str, Any], *, call_form: bool) -> Matcher:
    """The comparison that a problem asks for; `UserError` when there is none of that name."""
    modes = _VALUE_MODES if call_form else _TEXT_MODES
    mode = compare.get("mode", modes[0])
    if mode not in modes:
        form = "call" if call_form else "stdin"
        raise UserError(f"comparison mode {mode!r} is unknown in the {form} form; use one of {', '.join(modes)}")
    allowed = {"mode", "ordered"} if call_form else {"mode", "ordered", "case"}
    if mode == "exact" and not call_form:
        allowed = {"mode"}
    if mode == "float":
        allowed |= {"abs", "rel"}
    unknown = sorted(set(compare) - allowed)
    if unknown:
        raise UserError(f"comparison setting {unknown[0]!r} is unknown in mode {mode!r}; remove it")
    ordered, case = _flag(compare, "ordered"), _flag(compare, "case")
    near = _near(compare) if mode == "float" else None
    if call_form:
        return _value_matcher(near, ordered)
    if mode == "exact":
        return _same_text
    return _text_matcher(mode, near, ordered, case)


def _flag(compare: dict[str, Any], name: str) -> bool:
    value = compare.get(name, True)
    if not isinstance(value, bool):
        raise UserError(f"comparison setting {name!r} is {value!r}; give true or false")
    return value


def _near(compare: dict[str, Any]) -> Callable[[float, float], bool]:
    """near(expected, actual) within max(abs, rel * |expected|), for finite numbers."""
    tolerances = []
    for name in ("abs", "rel"):
        value = compare.get(name, _DEFAULT_TOLERANCE)
        number = isinstance(value, (int, float)) and not isinstance(value, bool)
        if not number or not math.isfinite(value) or value < 0:
            raise UserError(f"comparison setting {name!r} is {value!r}; give a number of at least 0")
        tolerances.append(float(value))
    absolute, relative = tolerances

    def near(expected: float, actual: float) -> bool:
        if not (math.isfinite(expected) and math.isfinite(actual)):
            return False
        return abs(expected - actual) <= max(absolute, relative * abs(expected))

    return near


def _same_text(expected: str, actual: str) -> bool:
    return expected == actual


def _text_matcher(mode: str, near: Callable[[float, float], bool] | None, ordered: bool, case: bool) -> Matcher:
    def pieces(text: str) -> list[Any]:
        if not case:
            text = text.casefold()
        if mode == "lines":
            # "\n" only: the other characters that `splitlines` cuts at are text.
            lines: list[Any] = [line.rstrip() for line in text.split("\n")]
            while lines and not lines[-1]:
                lines.pop()
        elif ordered:
            return text.split()
        else:
            lines = [words for words in (line.split() for line in text.split("\n")) if words]
        return lines if ordered else sorted(lines)

    def same(expected: Any, actual: Any) -> bool:
        if isinstance(expected, list):
            return len(expected) == len(actual) and all(map(same, expected, actual))
        return expected == actual or (near is not None and _near_words(expected, actual, near))

    def matches(expected: str, actual: str) -> bool:
        return same(pieces(expected), pieces(actual))

    return matches


def _near_words(expected: str, actual: str, near: Callable[[float, float], bool]) -> bool:
    if not (_NUMBER.fullmatch(expected) and _NUMBER.fullmatch(actual)):
        return False
    if _INTEGER.fullmatch(expected) and _INTEGER.fullmatch(actual):
        return False  # two integers that differ as text; `007` for `7` is not the same answer either
    return near(float(expected), float(actual))


def _value_matcher(near: Callable[[float, float], bool] | None, ordered: bool) -> Matcher:
    def same(expected: Any, actual: Any) -> bool:
        if type(expected) is not type(actual):
            numbers = {type(expected), type(actual)} == {int, float}
            return numbers and near is not None and _near_values(expected, actual, near)
        if isinstance(expected, list):
            return len(expected) == len(actual) and all(map(same, expected, actual))
        if isinstance(expected, dict):
            return expected.keys() == actual.keys() and all(same(expected[key], actual[key]) for key in expected)
        if isinstance(expected, float) and near is not None:
            return expected == actual or _near_values(expected, actual, near)
        return bool(expected == actual)

    def matches(expected: Any, actual: Any) -> bool:
        if not ordered and isinstance(expected, list) and isinstance(actual, list):
            expected, actual = sorted(expected, key=_sort_key), sorted(actual, key=_sort_key)
        return same(expected, actual)

    return matches


def _near_values(expected: float, actual: float, near: Callable[[float, float], bool]) -> bool:
    try:
        return near(float(expected), float(actual))
    except OverflowError:  # an integer beyond the floats
        return False


def _sort_key(value: Any) -> tuple[bool, float, str]:
    """Numbers by size, so that equal up to a tolerance means next to each other; then everything by its JSON."""
    number = isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) < 1e300
    return (not number, float(value) if number else 0.0, json.dumps(value, sort_keys=True))


def normal(value: Any) -> Any:
    """A value as it comes back from JSON: tuples are lists, keys are text. TypeError or ValueError if it is none."""
    return parse(json.dumps(value))


def parse(text: str | bytes) -> Any:
    """Reads JSON; ValueError for what is not JSON, for keys given twice and for nesting without end."""
    try:
        return json.loads(text, object_pairs_hook=_unique)
    except RecursionError:
        raise ValueError("JSON nested too deeply") from None


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        raise ValueError("a key is given twice")
    return result
