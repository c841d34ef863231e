"""Comparison of outputs: what matches, and what must not."""

from __future__ import annotations

import time
from typing import Any

import pytest

from o1coder_jax.errors import UserError
from sandbox import compare

NAN = float("nan")
INFINITY = float("inf")

TEXT_MATCHES = [
    ({}, "1 2\n", "1\n2"),
    ({}, "", " \n"),
    ({"mode": "lines"}, "a b\n c\n", "a b  \r\n c\n\n\n"),
    ({"mode": "exact"}, "a\n", "a\n"),
    ({"mode": "float"}, "0.5", "0.500000"),
    ({"mode": "float"}, "1", "1.0000001"),
    ({"mode": "float", "abs_tol": 0.1, "rel_tol": 0}, "2.0", "2.05"),
    ({"mode": "float"}, "1e3", "1000.0"),
    ({"case": False}, "Yes", "YES"),
    ({"mode": "unordered_lines"}, "1 2\n3 4\n", "3 4\n\n1  2\n"),
    ({"mode": "unordered_lines", "case": False}, "b\na", "A\nb"),
]
TEXT_DIFFERS = [
    ({}, "1 2 3", "1 2"),  # a prefix
    ({}, "1 2", "1 2 3"),
    ({}, "1 2\n3", "3\n1 2"),  # lines in another order
    ({}, "1 2", "2211"),  # the same characters
    ({}, "YES", "Y E S"),
    ({}, "10", "1_0"),
    ({}, "\nYES", ""),  # empty against a blank first line
    ({}, "nan", "0"),
    ({}, "0.5", "0.50"),
    ({}, "Yes", "YES"),
    ({"mode": "lines"}, "\na", "a"),
    ({"mode": "lines"}, "a b", "a  b"),
    ({"mode": "lines"}, " a", "a"),
    ({"mode": "exact"}, "a\n", "a"),
    ({"mode": "float"}, "10", "1_0"),
    ({"mode": "float"}, "10.0", "1_0.0"),
    ({"mode": "float"}, "1.0", "nan"),
    ({"mode": "float"}, "1.0", "1e999"),
    ({"mode": "float"}, "1e999", "1.0"),
    ({"mode": "float"}, "3.0", "٣.0"),  # digits that are not ASCII
    ({"mode": "float"}, "1000000007", "1000000008"),  # integers have no tolerance
    ({"mode": "float"}, "1.0 2.0", "1.0"),
    ({"mode": "float", "abs_tol": 0, "rel_tol": 0}, "1.0", "1.00001"),
    ({"mode": "unordered_lines"}, "1 2\n3", "2 1\n3"),  # words keep their order
    ({"mode": "unordered_lines"}, "1\n1\n2", "1\n2\n2"),
    ({"mode": "unordered_lines"}, "1\n2", "1"),
    ({"mode": "unordered_lines"}, "1\n2", "1 2"),
    ({"mode": "unordered_lines"}, "1 2", "12"),
    ({"mode": "unordered_lines"}, "\nYES", ""),
]
VALUE_MATCHES = [
    ({}, 1, 1),
    ({}, [1, [2]], [1, [2]]),
    ({}, {"1": 2}, {"1": 2}),
    ({}, INFINITY, INFINITY),
    ({"mode": "float"}, 2, 2.0),
    ({"mode": "float"}, [0.3], [0.1 + 0.2]),
    ({"ordered": False}, [2, 1, [3]], [[3], 1, 2]),
    ({"mode": "float", "ordered": False}, [0.3, 2.0], [2.0, 0.1 + 0.2]),
]
VALUE_DIFFERS = [
    ({}, 1, True),
    ({}, True, 1),
    ({}, 1, 1.0),
    ({}, 0, None),
    ({}, "1", 1),
    ({}, [1, 2], [1]),
    ({}, [1], [1, 2]),
    ({}, [1, 2], [2, 1]),
    ({}, {"a": 1}, {"a": 1, "b": 2}),
    ({}, {"a": 1}, {"b": 1}),
    ({}, NAN, NAN),
    ({"mode": "float"}, NAN, NAN),
    ({"mode": "float"}, 1, True),
    ({"mode": "float"}, 10**400, 1.0),
    ({"mode": "float"}, 1.0, INFINITY),
    ({"mode": "float"}, 1000000007, 1000000008),
    ({"ordered": False}, [1, 1, 2], [1, 2, 2]),
    ({"ordered": False}, [[1, 2]], [[2, 1]]),
]
WRONG_SETTINGS = [
    ({"mode": "sets"}, False),
    ({"mode": "tokens"}, True),
    ({"tolerance": 1}, False),
    ({"mode": "tokens", "abs_tol": 1}, False),
    ({"mode": "exact", "case": False}, False),
    ({"case": "no"}, False),
    ({"mode": "float", "abs_tol": -1}, False),
    ({"mode": "float", "rel_tol": NAN}, True),
    ({"mode": "float", "abs_tol": 10**400}, False),
    ({"mode": "float", "abs": 1}, False),
    ({"mode": "unordered_lines", "rel_tol": 1}, False),
    ({"mode": "unordered_lines"}, True),
    ({"ordered": False}, False),
    ({"mode": ["tokens"]}, False),
    ({"mode": "checker"}, False),
    ({"mode": "checker", "checker": 1}, True),
    ({"mode": "checker", "checker": "", "case": False}, False),
]


def matches(settings: dict[str, Any], call_form: bool, expected: Any, actual: Any) -> bool:
    matcher = compare.matcher(settings, call_form=call_form)
    assert matcher is not None
    return matcher(expected, actual)


@pytest.mark.parametrize(("settings", "expected", "actual"), TEXT_MATCHES)
def test_text_matches(settings: dict[str, Any], expected: str, actual: str) -> None:
    assert matches(settings, False, expected, actual)


@pytest.mark.parametrize(("settings", "expected", "actual"), TEXT_DIFFERS)
def test_text_differs(settings: dict[str, Any], expected: str, actual: str) -> None:
    assert not matches(settings, False, expected, actual)


@pytest.mark.parametrize(("settings", "expected", "actual"), VALUE_MATCHES)
def test_value_matches(settings: dict[str, Any], expected: Any, actual: Any) -> None:
    assert matches(settings, True, expected, actual)


@pytest.mark.parametrize(("settings", "expected", "actual"), VALUE_DIFFERS)
def test_value_differs(settings: dict[str, Any], expected: Any, actual: Any) -> None:
    assert not matches(settings, True, expected, actual)


@pytest.mark.parametrize(("settings", "call_form"), WRONG_SETTINGS)
def test_wrong_settings_are_said(settings: dict[str, Any], call_form: bool) -> None:
    with pytest.raises(UserError, match="comparison"):
        compare.matcher(settings, call_form=call_form)


def test_normal_turns_tuples_and_keys() -> None:
    assert compare.normal((1, {2: (None,)})) == [1, {"2": [None]}]


# What is never right, whatever the mode: a prefix, another order, the same characters, digits that are none, NaN.
NEVER = [
    ("1 2 3\n4", "1 2 3"),
    ("1 2\n3 4", "1 2\n4 3"),
    ("1 2", "2211"),
    ("10", "1_0"),
    ("\nYES", ""),
    ("nan", "nan ?"),
]


@pytest.mark.parametrize("mode", ["tokens", "lines", "unordered_lines", "exact", "float"])
@pytest.mark.parametrize(("expected", "actual"), NEVER)
def test_no_mode_accepts(mode: str, expected: str, actual: str) -> None:
    assert not matches({"mode": mode}, False, expected, actual)
    assert matches({"mode": mode}, False, expected, expected)


@pytest.mark.parametrize("mode", ["tokens", "lines", "unordered_lines", "exact", "float"])
def test_large_outputs_take_little_time(mode: str) -> None:
    words = "".join(f"{i % 1000} {i % 7}\n" for i in range(1_300_000))  # 8 MB
    start = time.process_time()
    assert matches({"mode": mode}, False, words, words)
    assert not matches({"mode": mode}, False, words, words[:-2] + "8\n")
    long = "1" * (8 << 20)
    assert not matches({"mode": mode}, False, long, long[1:] + "2")
    assert time.process_time() - start < 20  # 1 to 4 s each; anything quadratic takes hours


@pytest.mark.parametrize("settings", [{}, {"mode": "float"}, {"ordered": False}])
def test_depth_needs_no_stack(settings: dict[str, Any]) -> None:
    def nested(value: float) -> list[Any]:
        inner: list[Any] = [value]
        for _ in range(450):
            inner = [inner]
        return inner

    assert matches(settings, True, nested(1.5), nested(1.5))
    assert not matches(settings, True, nested(1.5), nested(2.5))


@pytest.mark.parametrize("text", ['{"a": 1, "a": 2}', "[" * 100_000, "[" * 502 + "]" * 502, "1 2", ""])
def test_parse_refuses(text: str) -> None:
    with pytest.raises(ValueError):
        compare.parse(text)
