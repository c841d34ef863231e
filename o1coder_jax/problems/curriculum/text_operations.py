"""Operations that read a text of letters, digits and a few signs (never blanks)."""

from __future__ import annotations

from o1coder_jax.problems.curriculum.operations import CORRECT, Operation, Variant, keep_letters, part
from o1coder_jax.problems.curriculum.values import Kind

_TEXT = ((Kind.TEXT, Kind.TEXT),)
_NUMBER = ((Kind.TEXT, Kind.NUMBER),)
_LIST = ((Kind.TEXT, Kind.LIST),)


def _letters(name: str, expression: str) -> Variant:
    return Variant(name, f"letters {expression}", f"''.join({expression} for c in a)")


def _first_seen(name: str, rest: str) -> Variant:
    return Variant(name, f"keep c not in {rest}", f"''.join(c for i, c in enumerate(a) if c not in {rest})")


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
        ("make it upper case", "all letters large", "use capitals"),
        Variant(CORRECT, "upper", "a.upper()"),
        (Variant("first_only", "capitalize", "a.capitalize()"), Variant("wrong_end", "lower", "a.lower()")),
    ),
    Operation(
        "lower",
        _TEXT,
        (None,),
        ("make it lower case", "all letters small", "use no capitals"),
        Variant(CORRECT, "lower", "a.lower()"),
        (Variant("swapped", "swapcase", "a.swapcase()"), Variant("wrong_end", "upper", "a.upper()")),
    ),
    Operation(
        "only_letters",
        _TEXT,
        (None,),
        ("keep letters only", "only letters stay", "drop all but letters"),
        keep_letters(CORRECT, "c.isalpha()"),
        (keep_letters("case_ignored", "c.islower()"), keep_letters("digits_kept", "c.isalnum()")),
    ),
    Operation(
        "only_digits",
        _TEXT,
        (None,),
        ("keep digits only", "only digits stay", "drop all but digits"),
        keep_letters(CORRECT, "c.isdigit()"),
        (keep_letters("wrong_end", "c.isalpha()"), keep_letters("zero_forgotten", "c > '0' and c.isdigit()")),
    ),
    Operation(
        "drop_vowels",
        _TEXT,
        (None,),
        ("drop vowels of any case", "remove all vowels", "only non-vowels stay"),
        keep_letters(CORRECT, "c not in 'aeiouAEIOU'"),
        (keep_letters("case_ignored", "c not in 'aeiou'"), keep_letters("wrong_end", "c in 'aeiouAEIOU'")),
    ),
    Operation(
        "sort_letters",
        _TEXT,
        (None,),
        ("sort its characters", "put characters in order", "order the characters"),
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
        ("drop repeated characters", "each character once", "keep first copies only"),
        _first_seen(CORRECT, "a[:i]"),
        (_first_seen("wrong_end", "a[i + 1:]"), _first_seen("neighbours_only", "a[:i][-1:]")),
    ),
    Operation(
        "repeat_each",
        _TEXT,
        (2, 3),
        ("write each character {k} times", "each character {k} times", "repeat characters {k} times"),
        _letters(CORRECT, "c * {k}"),
        (part("whole_repeated", "a * {k}"), _letters("off_by_one", "c * {k+1}")),
    ),
    Operation(
        "remove",
        _TEXT,
        ("a", "b", "e"),
        ("remove each '{k}'", "delete every '{k}'", "drop all '{k}'"),
        Variant(CORRECT, "remove '{k}'", "a.replace('{k}', '')"),
        (
            Variant("first_only", "remove '{k}' once", "a.replace('{k}', '', 1)"),
            Variant("ends_only", "strip '{k}'", "a.strip('{k}')"),
        ),
    ),
    Operation(
        "shift",
        _TEXT,
        (1, 2),
        ("shift each character by {k}", "move codes up by {k}", "raise each code by {k}"),
        _letters(CORRECT, "chr(ord(c) + {k})"),
        (_letters("wrong_sign", "chr(ord(c) - {k})"), _letters("off_by_one", "chr(ord(c) + {k+1})")),
    ),
)

TO_NUMBER = (
    Operation(
        "count_small",
        _NUMBER,
        (None,),
        ("count small letters", "how many small letters", "the number of small letters"),
        _count(CORRECT, "c.islower()"),
        (_count("case_ignored", "c.isalpha()"), _count("wrong_end", "c.isupper()")),
    ),
    Operation(
        "digit_sum",
        _NUMBER,
        (None,),
        ("add up its digits", "the sum of digits", "total of the digits"),
        Variant(CORRECT, "sum int(c) if c.isdigit()", "sum(int(c) for c in a if c.isdigit())"),
        (Variant("letters_forgotten", "sum int(c)", "sum(int(c) for c in a)"), _count("counted", "c.isdigit()")),
    ),
    Operation(
        "code_sum",
        _NUMBER,
        (None,),
        ("add up its codes", "the sum of codes", "total of the codes"),
        Variant(CORRECT, "sum codes", "sum(ord(c) for c in a)"),
        (
            Variant("off_by_one", "sum codes without first", "sum(ord(c) for c in a[1:])"),
            Variant("case_ignored", "sum codes of lower", "sum(ord(c) for c in a.lower())"),
        ),
    ),
    Operation(
        "count_vowels",
        _NUMBER,
        (None,),
        ("count vowels of any case", "how many vowels", "the number of vowels"),
        _count(CORRECT, "c in 'aeiouAEIOU'"),
        (_count("case_ignored", "c in 'aeiou'"), _count("wrong_end", "c not in 'aeiouAEIOU'")),
    ),
)

TO_LIST = (
    Operation(
        "digits",
        _LIST,
        (None,),
        ("list its digits", "the digits as a list", "take the list of digits"),
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
        ("list where vowels are, any case", "indices of vowels", "all places of vowels, from 0"),
        _places(CORRECT, "i", "aeiouAEIOU"),
        (_places("off_by_one", "i + 1", "aeiouAEIOU"), _places("case_ignored", "i", "aeiou")),
    ),
    Operation(
        "codes",
        _LIST,
        (None,),
        ("list the codes", "code of each character", "turn characters to codes"),
        _numbers(CORRECT, "ord(c)"),
        (_numbers("case_ignored", "ord(c.lower())"), _numbers("wrong_start", "ord(c) - 97")),
    ),
)

TEXT_OPERATIONS = TO_TEXT + TO_NUMBER + TO_LIST
