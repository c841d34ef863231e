"""Operations that read a number; they follow one that makes a number."""

from __future__ import annotations

from o1coder_jax.problems.curriculum.operations import CORRECT, Operation, Variant, part
from o1coder_jax.problems.curriculum.values import Kind

_NUMBER = ((Kind.NUMBER, Kind.NUMBER),)
_LIST = ((Kind.NUMBER, Kind.LIST),)
_TEXT = ((Kind.NUMBER, Kind.TEXT),)

NUMBER_OPERATIONS = (
    Operation(
        "number_add",
        _NUMBER,
        (1, 3, 5),
        ("add {k} to it", "raise it by {k}", "it plus {k}"),
        part(CORRECT, "a + {k}"),
        (part("wrong_sign", "a - {k}"), part("off_by_one", "a + {k+1}")),
    ),
    Operation(
        "number_multiply",
        _NUMBER,
        (2, 3, 5),
        ("multiply it by {k}", "it times {k}", "take {k} times it"),
        part(CORRECT, "a * {k}"),
        (part("wrong_operation", "a + {k}"), part("off_by_one", "a * {k+1}")),
    ),
    Operation(
        "number_square",
        _NUMBER,
        (None,),
        ("square it", "it times itself", "the square of it"),
        part(CORRECT, "a * a"),
        (part("wrong_operation", "a + a"), part("off_by_one", "a * (a + 1)")),
    ),
    Operation(
        "number_remainder",
        _NUMBER,
        (9, 10, 13),
        ("take it mod {k}", "it mod {k}", "the rest of it by {k}"),
        part(CORRECT, "a % {k}"),
        (part("sign_ignored", "abs(a) % {k}"), part("wrong_operation", "a // {k}")),
    ),
    Operation(
        "number_digits",
        _LIST,
        (None,),
        ("list digits of it", "take digits, without sign", "list its digits"),
        Variant(CORRECT, "digits of abs", "[int(c) for c in str(abs(a))]"),
        (
            Variant("wrong_sign", "digits", "[int(c) for c in str(a)]"),
            Variant("wrong_end", "digits of abs reversed", "[int(c) for c in str(abs(a))[::-1]]"),
        ),
    ),
    Operation(
        "divide",
        _LIST,
        (3, 4, 5),
        ("list it by {k} and mod {k}", "take it by {k} and mod {k}", "it by {k}, then the rest"),
        part(CORRECT, "[a // {k}, a % {k}]"),
        (part("swapped_order", "[a % {k}, a // {k}]"), part("off_by_one", "[a // {k}, a % {k+1}]")),
    ),
    Operation(
        "binary",
        _TEXT,
        (None,),
        ("write it binary, without sign", "take it binary", "binary of it"),
        Variant(CORRECT, "binary from 2", "bin(abs(a))[2:]"),
        (
            Variant("prefix_kept", "binary", "bin(abs(a))"),
            Variant("off_by_one", "binary from 1", "bin(abs(a))[1:]"),
        ),
    ),
)
