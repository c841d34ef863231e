"""One answer under two comparisons: which of them takes it, and what is the matter where they differ."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from sandbox import compare, published


def accepts(expected: Any, actual: Any, *, call_form: bool) -> bool:
    """Whether the published comparison takes the answer."""
    return published.accepts_value(expected, actual) if call_form else published.accepts_text(expected, actual)


def why_only_published(settings: dict[str, Any], expected: Any, actual: Any, *, call_form: bool) -> str:
    """A few words on an answer that ours rejects and the published comparison takes."""
    if settings.get("mode") == "checker":
        return "rejected by the checker"
    return _why_value(expected, actual) if call_form else _why_text(expected, actual)


def why_only_ours(settings: dict[str, Any], expected: Any, actual: Any, *, call_form: bool) -> str:
    """A few words on an answer that ours takes and the published comparison rejects."""
    if settings.get("mode") == "checker":
        return "taken by the checker"
    if call_form:
        if compare.same_value(expected, actual):
            return "objects after the first"
        return "any order" if settings.get("ordered") is False else "within the tolerance"
    if expected.split() == actual.split():
        return "white space"
    if settings.get("case") is False and expected.casefold().split() == actual.casefold().split():
        return "case"
    return "any order" if settings.get("mode") == "unordered_lines" else "within the tolerance"


def _why_text(expected: str, actual: str) -> str:
    words, given = expected.split(), actual.split()
    reasons: dict[str, Callable[[], bool]] = {
        "white space": lambda: words == given,
        "a prefix": lambda: words[: len(given)] == given,
        "reordered": lambda: sorted(words) == sorted(given),
        "a set of words": lambda: set(words) == set(given),
        "cut into words otherwise": lambda: "".join(words) == "".join(given),
        "a set of characters": lambda: set("".join(words)) == set("".join(given)),
    }
    return next((reason for reason, holds in reasons.items() if holds()), "rounded")


def _why_value(expected: Any, actual: Any) -> str:
    if expected == actual:
        return "another type"
    if isinstance(expected, dict):
        return "an object in a list"
    if actual != expected[0]:
        return "the first of several objects"
    reason = "wrapped in a list" if len(expected) == 1 else "the first of a list"
    return reason if compare.same_value(expected[0], actual) else f"{reason}, another type"
