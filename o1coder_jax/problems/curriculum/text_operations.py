"""Operations that read a text of letters, digits and a few signs (never blanks)."""

from __future__ import annotations

from o1coder_jax.problems.curriculum.operations import CORRECT, Operation, Variant, keep_letters, part
from o1coder_jax.problems.curriculum.values import Kind

_TEXT = ((Kind.TEXT, Kind.TEXT),)
_NUMBER = ((Kind.TEXT, Kind.NUMBER),)
_LIST = ((Kind.TEXT, Kind.LIST),)


def _letters(name: str, expression: str) -> Variant:
    return Variant(name, f"letters {expression}", f"''.join({expression} for c in a)")


def _kept(name: str, condition: str) -> Variant:
    return Variant(name, f"keep {condition}", f"''.join(c for i, c in enumerate(a) if {condition})")


def _count(name: str, condition: str) -> Variant:
    return Variant(name, f"count {condition}", f"sum({condition} for c in a)")


def _numbers(name: str, expression: str) -> Variant:
    return Variant(name, f"numbers {expression}", f"[{expression} for c in a]")


def _places(name: str, expression: str, vowels: str) -> Variant:
    condition = f"c in '{vowels}'"
    code = f"[{expression} for i, c in enumerate(a) if {condition}]"
    return Variant(name, f"numbers {expression} if {condition}", code)


TO_TEXT = (
    Operation(
        "upper",
        _TEXT,
        (None,),
        ("make it upper case", "all upper case", "write it upper"),
        Variant(CORRECT, "upper", "a.upper()"),
        (
            Variant("swapped", "swapcase", "a.swapcase()"),
            Variant("wrong_end", "lower", "a.lower()"),
        ),
    ),
    Operation(
        "lower",
        _TEXT,
        (None,),
        ("make it lower case", "all lower case", "write it lower"),
        Variant(CORRECT, "lower", "a.lower()"),
        (
            Variant("swapped", "swapcase", "a.swapcase()"),
            Variant("wrong_end", "upper", "a.upper()"),
        ),
    ),
    Operation(
        "only_letters",
        _TEXT,
        (None,),
        ("keep letters", "only letters stay", "drop all but letters"),
        keep_letters(CORRECT, "c.isalpha()"),
        (
            keep_letters("case_ignored", "c.islower()"),
            keep_letters("digits_kept", "c.isalnum()"),
        ),
    ),
    Operation(
        "only_digits",
        _TEXT,
        (None,),
        ("keep digits", "only digits stay", "drop all but digits"),
        keep_letters(CORRECT, "c.isdigit()"),
        (
            keep_letters("wrong_end", "c.isalpha()"),
            keep_letters("letters_kept", "c.isalnum()"),
        ),
    ),
    Operation(
        "drop_vowels",
        _TEXT,
        (None,),
        ("drop vowels, any case", "drop all vowels", "keep all but vowels"),
        keep_letters(CORRECT, "c not in 'aeiouAEIOU'"),
        (keep_letters("case_ignored", "c not in 'aeiou'"), keep_letters("wrong_end", "c in 'aeiouAEIOU'")),
    ),
    Operation(
        "sort_letters",
        _TEXT,
        (None,),
        ("sort characters", "order characters", "sort all characters"),
        Variant(CORRECT, "sort letters", "''.join(sorted(a))"),
        (
            Variant("duplicates_dropped", "sort letters of set", "''.join(sorted(set(a)))"),
            Variant("wrong_end", "sort letters down", "''.join(sorted(a)[::-1])"),
        ),
    ),
    Operation(
        "unique_letters",
        _TEXT,
        (None,),
        ("drop repeated characters", "each character once", "keep first characters of a kind"),
        _kept(CORRECT, "c not in a[:i]"),
        (_kept("wrong_end", "c not in a[i + 1:]"), _kept("neighbours_only", "c not in a[i - 1:i]")),
    ),
    Operation(
        "repeat_each",
        _TEXT,
        (2, 3),
        ("write each character {k} times", "each character {k} times", "repeat each character {k} times"),
        _letters(CORRECT, "c * {k}"),
        (part("whole_repeated", "a * {k}"), _letters("off_by_one", "c * {k+1}")),
    ),
    Operation(
        "remove",
        _TEXT,
        ("a", "b", "e"),
        ("drop each '{k}'", "drop all '{k}'", "keep all but '{k}'"),
        keep_letters(CORRECT, "c != '{k}'"),
        (
            keep_letters("wrong_end", "c == '{k}'"),
            keep_letters("case_ignored", "c.lower() != '{k}'"),
        ),
    ),
)

TO_NUMBER = (
    Operation(
        "digit_sum",
        _NUMBER,
        (None,),
        ("add up digits", "take the sum of digits", "the sum of all digits"),
        Variant(CORRECT, "sum int(c) if c.isdigit()", "sum(int(c) for c in a if c.isdigit())"),
        (Variant("letters_forgotten", "sum int(c)", "sum(int(c) for c in a)"), _count("counted", "c.isdigit()")),
    ),
    Operation(
        "count_letters",
        _NUMBER,
        (None,),
        ("count letters", "how many letters", "count all letters"),
        _count(CORRECT, "c.isalpha()"),
        (_count("case_ignored", "c.islower()"), _count("wrong_end", "c.isdigit()")),
    ),
)

TO_LIST = (
    Operation(
        "digits",
        _LIST,
        (None,),
        ("list digits", "take the list of digits", "list all digits"),
        Variant(CORRECT, "numbers int(c) if c.isdigit()", "[int(c) for c in a if c.isdigit()]"),
        (
            _numbers("letters_forgotten", "int(c)"),
            Variant("counted", "numbers c.isdigit()", "[int(c.isdigit()) for c in a]"),
        ),
    ),
    Operation(
        "places",
        _LIST,
        (None,),
        ("list places of vowels, any case", "places of vowels, from 0", "list all places of vowels"),
        _places(CORRECT, "i", "aeiouAEIOU"),
        (_places("off_by_one", "i + 1", "aeiouAEIOU"), _places("case_ignored", "i", "aeiou")),
    ),
    Operation(
        "codes",
        _LIST,
        (None,),
        ("list codes", "code of each character", "take the list of codes"),
        _numbers(CORRECT, "ord(c)"),
        (_numbers("case_ignored", "ord(c.lower())"), _numbers("wrong_start", "ord(c) - 97")),
    ),
)

TEXT_OPERATIONS = TO_TEXT + TO_NUMBER + TO_LIST
