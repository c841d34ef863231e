"""Comparison of what a program gave with what was expected. Runs outside the program's process.

For the stdin form `compare` is {"mode": MODE, ...} with

  tokens           (default) the same words in the same order; only white space may differ
  lines            the same lines; white space at their ends and empty lines at the end may differ
  unordered_lines  the same lines, each as often, in any order; white space and empty lines may differ
  exact            the same text
  float            as tokens, but numbers may differ by max(abs_tol, rel_tol * |expected|); two integers must be equal
  checker          what a program decides, see below

and, except for `exact` and `checker`, "case": false to ignore case. For the call form the modes are

  exact            (default) the same JSON value: True is not 1, 1 is not 1.0, tuples are lists, keys are text
  float            as exact, but numbers that are not both integers may differ as above
  checker          what a program decides

with "ordered": false to ignore the order of the outermost list, for the first two. `abs_tol` and `rel_tol` are 1e-6
unless given. NaN equals nothing. Text is compared as text: never as sets, never by the shorter of two.

{"mode": "checker", "checker": TEXT} is for problems with many right answers. TEXT is a Python program that defines
`check(input, output, expected)`: what the test gave the program, what the program gave, and the test's expected output,
which may be None. In the stdin form they are text, in the call form JSON values (`input` is the list of arguments).
Only `True` accepts. An exception in `check` rejects. A checker that does not compile, has no `check` or exceeds the
limits of a test says nothing of the program, so the verdict is `infra_error`. It runs after the program has ended, as
confined as the program, in processes of its own.
"""

from __future__ import annotations

import json
import math
import re
import sys
from collections.abc import Callable
from typing import Any

from o1coder_jax.errors import UserError

Matcher = Callable[[Any, Any], bool]
"""matches(expected, actual): both text, or both JSON values as `normal` gives them."""

# ASCII digits only, no `1_0`, no `inf`, no `nan`.
_NUMBER = re.compile(r"[+-]?(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][+-]?[0-9]+)?")
_INTEGER = re.compile(r"[+-]?[0-9]+")
_DEFAULT_TOLERANCE = 1e-6
_LARGEST = sys.float_info.max
_MAX_DEPTH = 500  # of JSON values: what every reader and writer of them can go through

_SETTINGS_OF_TEXT = {
    "tokens": {"case"},
    "lines": {"case"},
    "unordered_lines": {"case"},
    "exact": set(),
    "float": {"case", "abs_tol", "rel_tol"},
    "checker": {"checker"},
}
_SETTINGS_OF_VALUES = {
    "exact": {"ordered"},
    "float": {"ordered", "abs_tol", "rel_tol"},
    "checker": {"checker"},
}


def matcher(compare: dict[str, Any], *, call_form: bool) -> Matcher | None:
    """The comparison that a problem asks for, None where a checker decides; `UserError` when there is none such."""
    form, settings = ("call", _SETTINGS_OF_VALUES) if call_form else ("stdin", _SETTINGS_OF_TEXT)
    mode = compare.get("mode", next(iter(settings)))
    if not isinstance(mode, str) or mode not in settings:
        raise UserError(f"comparison mode {mode!r} is unknown in the {form} form; use one of {', '.join(settings)}")
    unknown = sorted(set(compare) - settings[mode] - {"mode"})
    if unknown:
        raise UserError(f"comparison setting {unknown[0]!r} is unknown in mode {mode!r}; remove it")
    if mode == "checker":
        if not isinstance(compare.get("checker"), str):
            raise UserError("comparison mode 'checker' needs \"checker\": the text of a program that defines check")
        return None
    near = _near(compare) if mode == "float" else None
    if call_form:
        return _value_matcher(near, _flag(compare, "ordered"))
    if mode == "exact":
        return _same_text
    return _text_matcher(_PIECES[mode], near, _flag(compare, "case"))


def _flag(compare: dict[str, Any], name: str) -> bool:
    value = compare.get(name, True)
    if not isinstance(value, bool):
        raise UserError(f"comparison setting {name!r} is {value!r}; give true or false")
    return value


def _near(compare: dict[str, Any]) -> Callable[[float, float], bool]:
    """near(expected, actual) within max(abs_tol, rel_tol * |expected|), for finite numbers."""
    tolerances = []
    for name in ("abs_tol", "rel_tol"):
        value = compare.get(name, _DEFAULT_TOLERANCE)
        number = isinstance(value, (int, float)) and not isinstance(value, bool)
        if not number or not 0 <= value <= _LARGEST:  # NaN is neither; an integer may be beyond the floats
            raise UserError(f"comparison setting {name!r} is {value!r:.40}; give a number of at least 0")
        tolerances.append(float(value))
    absolute, relative = tolerances

    def near(expected: float, actual: float) -> bool:
        if not (math.isfinite(expected) and math.isfinite(actual)):
            return False
        return abs(expected - actual) <= max(absolute, relative * abs(expected))

    return near


def _same_text(expected: str, actual: str) -> bool:
    return expected == actual


def _lines(text: str) -> list[str]:
    # "\n" only: the other characters that `splitlines` cuts at are text.
    lines = [line.rstrip() for line in text.split("\n")]
    while lines and not lines[-1]:
        lines.pop()
    return lines


def _sorted_lines(text: str) -> list[str]:
    return sorted(line for line in (" ".join(line.split()) for line in text.split("\n")) if line)


# What a text is cut into before it is compared, piece by piece.
_PIECES: dict[str, Callable[[str], list[str]]] = {
    "tokens": str.split,
    "float": str.split,
    "lines": _lines,
    "unordered_lines": _sorted_lines,
}


def _text_matcher(
    pieces: Callable[[str], list[str]], near: Callable[[float, float], bool] | None, case: bool
) -> Matcher:
    def matches(expected: str, actual: str) -> bool:
        if not case:
            expected, actual = expected.casefold(), actual.casefold()
        wanted, given = pieces(expected), pieces(actual)
        if near is None or len(wanted) != len(given):
            return wanted == given
        return all(one == other or _near_words(one, other, near) for one, other in zip(wanted, given, strict=True))

    return matches


def _near_words(expected: str, actual: str, near: Callable[[float, float], bool]) -> bool:
    if not (_NUMBER.fullmatch(expected) and _NUMBER.fullmatch(actual)):
        return False
    if _INTEGER.fullmatch(expected) and _INTEGER.fullmatch(actual):
        return False  # two integers that differ as text; `007` for `7` is not the same answer either
    return near(float(expected), float(actual))


def _value_matcher(near: Callable[[float, float], bool] | None, ordered: bool) -> Matcher:
    def matches(expected: Any, actual: Any) -> bool:
        if not ordered and isinstance(expected, list) and isinstance(actual, list):
            expected, actual = sorted(expected, key=_sort_key), sorted(actual, key=_sort_key)
        return same_value(expected, actual, near)

    return matches


def same_value(expected: Any, actual: Any, near: Callable[[float, float], bool] | None = None) -> bool:
    """Whether two JSON values are the same, or near where they hold numbers; without recursion, at any depth."""
    stack = [(expected, actual)]
    while stack:
        wanted, given = stack.pop()
        kind = type(wanted)
        if kind is not type(given):
            numbers = {kind, type(given)} == {int, float}
            if not numbers or near is None or not _near_values(wanted, given, near):
                return False
        elif kind is list:
            if len(wanted) != len(given):
                return False
            stack.extend(zip(wanted, given, strict=True))
        elif kind is dict:
            if wanted.keys() != given.keys():
                return False
            stack.extend((wanted[key], given[key]) for key in wanted)
        elif wanted != given and (kind is not float or near is None or not _near_values(wanted, given, near)):
            return False
    return True


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
    try:
        text = json.dumps(value)
    except RecursionError:
        raise ValueError("JSON nested too deeply") from None
    return parse(text)


def parse(text: str | bytes, constant: Callable[[str], float] | None = None) -> Any:
    """Reads JSON; ValueError for what is not JSON, for keys given twice and for nesting beyond 500 levels.

    `constant` reads NaN and the infinities, which JSON itself does not have.
    """
    try:
        value = json.loads(text, object_pairs_hook=unique_keys, parse_constant=constant)
    except RecursionError:
        raise ValueError("JSON nested too deeply") from None
    opened = text.count("[") + text.count("{") if isinstance(text, str) else text.count(b"[") + text.count(b"{")
    if opened > _MAX_DEPTH and _too_deep(value):
        raise ValueError("JSON nested too deeply")
    return value


def _too_deep(value: Any) -> bool:
    level = [value]
    for _ in range(_MAX_DEPTH + 1):
        level = [
            inner
            for outer in level
            if isinstance(outer, (list, dict))
            for inner in (outer.values() if isinstance(outer, dict) else outer)
        ]
    return bool(level)


def unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A hook for `json.loads`: ValueError for an object that gives a key twice."""
    result = dict(pairs)
    if len(result) != len(pairs):
        raise ValueError("a key is given twice")
    return result
