"""Operations that read a list of integers; those on ends and order serve texts as well."""

from __future__ import annotations

from o1coder_jax.problems.curriculum.operations import CORRECT, Operation, Variant, each, keep, part
from o1coder_jax.problems.curriculum.values import Kind

_LIST = ((Kind.LIST, Kind.LIST),)
_SAME = ((Kind.LIST, Kind.LIST), (Kind.TEXT, Kind.TEXT))
_NUMBER = ((Kind.LIST, Kind.NUMBER),)
_LENGTH = ((Kind.LIST, Kind.NUMBER), (Kind.TEXT, Kind.NUMBER))
_TEXT = ((Kind.LIST, Kind.TEXT),)


def _placed(name: str, expression: str) -> Variant:
    return Variant(name, f"each {expression}", f"[{expression} for i, x in enumerate(a)]")


def _kept(name: str, condition: str) -> Variant:
    return Variant(name, f"keep {condition}", f"[x for i, x in enumerate(a) if {condition}]")


def _count(name: str, condition: str) -> Variant:
    return Variant(name, f"count {condition}", f"sum({condition} for x in a)")


ELEMENTS = (
    Operation(
        "keep_above",
        _LIST,
        (0, 3, 5),
        ("keep numbers above {k}", "only numbers over {k} stay", "drop each up to {k}"),
        keep(CORRECT, "x > {k}"),
        (
            keep("wrong_comparison", "x >= {k}"),
            keep("wrong_end", "x < {k}"),
            keep("sign_ignored", "abs(x) > {k}"),
        ),
    ),
    Operation(
        "keep_below",
        _LIST,
        (3, 5, 8),
        ("keep numbers below {k}", "only numbers under {k} stay", "drop each from {k} up"),
        keep(CORRECT, "x < {k}"),
        (
            keep("wrong_comparison", "x <= {k}"),
            keep("wrong_end", "x > {k}"),
            keep("sign_ignored", "abs(x) < {k}"),
        ),
    ),
    Operation(
        "keep_multiples",
        _LIST,
        (2, 3, 4),
        ("keep multiples of {k}", "only multiples of {k} stay", "drop all but multiples of {k}"),
        keep(CORRECT, "x % {k} == 0"),
        (keep("wrong_end", "x % {k} != 0"), keep("off_by_one", "x % {k+1} == 0")),
    ),
    Operation(
        "add",
        _LIST,
        (1, 2, 4),
        ("add {k} to each", "raise each by {k}", "each plus {k}"),
        each(CORRECT, "x + {k}"),
        (each("wrong_sign", "x - {k}"), each("off_by_one", "x + {k+1}")),
    ),
    Operation(
        "multiply",
        _LIST,
        (2, 3, 5),
        ("multiply each by {k}", "each times {k}", "take {k} times each"),
        each(CORRECT, "x * {k}"),
        (each("wrong_operation", "x + {k}"), each("off_by_one", "x * {k+1}")),
    ),
    Operation(
        "square",
        _LIST,
        (None,),
        ("square each", "each times itself", "the square of each"),
        each(CORRECT, "x * x"),
        (each("wrong_operation", "x + x"), each("sign_kept", "x * abs(x)")),
    ),
    Operation(
        "magnitude",
        _LIST,
        (None,),
        ("drop the sign of each", "size of each", "each without sign"),
        each(CORRECT, "abs(x)"),
        (each("wrong_sign", "-x"), keep("negatives_dropped", "x >= 0")),
    ),
    Operation(
        "cap",
        _LIST,
        (4, 7, 9),
        ("cap each at {k}", "lower each to {k} at most", "each up to {k} at most"),
        each(CORRECT, "min(x, {k})"),
        (each("wrong_end", "max(x, {k})"), keep("dropped", "x <= {k}"), each("off_by_one", "min(x, {k-1})")),
    ),
    Operation(
        "remainder",
        _LIST,
        (3, 4, 7),
        ("take each mod {k}", "each mod {k}", "the rest of each by {k}"),
        each(CORRECT, "x % {k}"),
        (each("sign_ignored", "abs(x) % {k}"), each("wrong_operation", "x // {k}")),
    ),
    Operation(
        "add_place",
        _LIST,
        (None,),
        ("add its place to each", "each plus its place, from 0", "raise each by its place"),
        _placed(CORRECT, "x + i"),
        (_placed("off_by_one", "x + i + 1"), _placed("wrong_operation", "x * i")),
    ),
)

ORDER = (
    Operation(
        "reverse",
        _SAME,
        (None,),
        ("reverse it", "turn it around", "last to first"),
        Variant(CORRECT, "reverse", "a[::-1]"),
        (
            Variant("off_by_one", "reverse without last", "a[-2::-1]"),
            Variant("last_only", "last to front", "a[-1:] + a[:-1]"),
        ),
    ),
    Operation(
        "sort_up",
        _LIST,
        (None,),
        ("sort up", "sort, smallest first", "order up"),
        Variant(CORRECT, "sort", "sorted(a)"),
        (
            Variant("duplicates_dropped", "sort set", "sorted(set(a))"),
            Variant("sign_ignored", "sort by abs", "sorted(a, key=abs)"),
        ),
    ),
    Operation(
        "sort_down",
        _LIST,
        (None,),
        ("sort down", "sort, largest first", "order down"),
        Variant(CORRECT, "sort down", "sorted(a)[::-1]"),
        (
            Variant("wrong_end", "sort", "sorted(a)"),
            Variant("duplicates_dropped", "sort set down", "sorted(set(a))[::-1]"),
        ),
    ),
    Operation(
        "unique",
        _LIST,
        (None,),
        ("drop repeats", "keep first copies", "each number once"),
        _kept(CORRECT, "x not in a[:i]"),
        (
            _kept("wrong_end", "x not in a[i + 1:]"),
            _kept("neighbours_only", "x not in a[i - 1:i]"),
        ),
    ),
    Operation(
        "take",
        _SAME,
        (2, 3, 4),
        ("keep the first {k}", "take the first {k}", "only the first {k} stay"),
        Variant(CORRECT, "first {k}", "a[:{k}]"),
        (Variant("off_by_one", "first {k+1}", "a[:{k+1}]"), Variant("wrong_end", "last {k}", "a[-{k}:]")),
    ),
    Operation(
        "skip",
        _SAME,
        (1, 2, 3),
        ("skip the first {k}", "drop the first {k}", "all but the first {k}"),
        Variant(CORRECT, "without first {k}", "a[{k}:]"),
        (
            Variant("off_by_one", "without first {k+1}", "a[{k+1}:]"),
            Variant("wrong_end", "without last {k}", "a[:-{k}]"),
        ),
    ),
    Operation(
        "take_last",
        _SAME,
        (2, 3, 4),
        ("keep the last {k}", "take the last {k}", "only the last {k} stay"),
        Variant(CORRECT, "last {k}", "a[-{k}:]"),
        (Variant("off_by_one", "last {k+1}", "a[-{k+1}:]"), Variant("wrong_end", "first {k}", "a[:{k}]")),
    ),
    Operation(
        "skip_last",
        _SAME,
        (1, 2, 3),
        ("skip the last {k}", "drop the last {k}", "all but the last {k}"),
        Variant(CORRECT, "without last {k}", "a[:-{k}]"),
        (
            Variant("off_by_one", "without last {k+1}", "a[:-{k+1}]"),
            Variant("wrong_end", "without first {k}", "a[{k}:]"),
        ),
    ),
    Operation(
        "every",
        _SAME,
        (2, 3),
        ("keep one in {k} from the first", "take steps of {k} from the first", "only one in {k} stay, first too"),
        Variant(CORRECT, "step {k} from 0", "a[::{k}]"),
        (Variant("off_by_one", "step {k} from {k-1}", "a[{k-1}::{k}]"), Variant("wrong_end", "step -{k}", "a[::-{k}]")),
    ),
    Operation(
        "rotate",
        _SAME,
        (1, 2, 3),
        ("rotate left by {k}", "move the first {k} to the end", "turn left by {k}"),
        Variant(CORRECT, "rotate left {k}", "a[{k}:] + a[:{k}]"),
        (
            Variant("wrong_end", "rotate right {k}", "a[-{k}:] + a[:-{k}]"),
            Variant("wrap_forgotten", "without first {k}", "a[{k}:]"),
        ),
    ),
    Operation(
        "mirror",
        _SAME,
        (None,),
        ("add its reverse", "mirror it", "add its reverse to the end"),
        Variant(CORRECT, "a + reverse", "a + a[::-1]"),
        (Variant("swapped_order", "reverse + a", "a[::-1] + a"), part("not_reversed", "a + a")),
    ),
)

NEIGHBOURS = (
    Operation(
        "running_sums",
        _LIST,
        (None,),
        ("take running sums", "each is the sum so far", "add up to each"),
        _placed(CORRECT, "sum(a[:i + 1])"),
        (
            _placed("off_by_one", "sum(a[:i])"),
            _placed("wrong_end", "sum(a[i:])"),
        ),
    ),
    Operation(
        "differences",
        _LIST,
        (None,),
        ("each minus the one before, wrap", "take off the one before, wrap", "steps from the one before, wrap"),
        _placed(CORRECT, "x - a[i - 1]"),
        (
            _placed("wrong_sign", "a[i - 1] - x"),
            _placed("wrong_operation", "x + a[i - 1]"),
        ),
    ),
    Operation(
        "rises",
        _LIST,
        (None,),
        ("keep each above the one before, wrap", "only those above the one before stay, wrap", "keep rises, wrap"),
        _kept(CORRECT, "x > a[i - 1]"),
        (
            _kept("wrong_comparison", "x >= a[i - 1]"),
            _kept("wrong_end", "x < a[i - 1]"),
        ),
    ),
)

TO_NUMBER = (
    Operation(
        "sum",
        _NUMBER,
        (None,),
        ("take the sum", "add them up", "the sum of all"),
        Variant(CORRECT, "sum", "sum(a)"),
        (
            Variant("off_by_one", "sum without first", "sum(a[1:])"),
            Variant("sign_ignored", "sum of abs", "sum(map(abs, a))"),
        ),
    ),
    Operation(
        "maximum",
        _NUMBER,
        (None,),
        ("take the largest, or 0", "the largest, 0 if none", "largest number, or 0"),
        Variant(CORRECT, "max or 0", "max(a) if a else 0"),
        (
            Variant("forgotten_empty", "max", "max(a)"),
            Variant("wrong_end", "min or 0", "min(a) if a else 0"),
        ),
    ),
    Operation(
        "minimum",
        _NUMBER,
        (None,),
        ("take the smallest, or 0", "the smallest, 0 if none", "smallest number, or 0"),
        Variant(CORRECT, "min or 0", "min(a) if a else 0"),
        (
            Variant("forgotten_empty", "min", "min(a)"),
            Variant("wrong_end", "max or 0", "max(a) if a else 0"),
        ),
    ),
    Operation(
        "length",
        _LENGTH,
        (None,),
        ("take the length", "count them", "how many"),
        Variant(CORRECT, "length", "len(a)"),
        (
            Variant("off_by_one", "length - 1", "len(a) - 1"),
            Variant("duplicates_dropped", "length of set", "len(set(a))"),
        ),
    ),
    Operation(
        "distinct",
        _LENGTH,
        (None,),
        ("count different ones", "how many different", "take the different count"),
        Variant(CORRECT, "length of set", "len(set(a))"),
        (Variant("duplicates_kept", "length", "len(a)"), Variant("off_by_one", "length of set - 1", "len(set(a)) - 1")),
    ),
    Operation(
        "count_above",
        _NUMBER,
        (0, 2, 4),
        ("count numbers above {k}", "how many above {k}", "count those over {k}"),
        _count(CORRECT, "x > {k}"),
        (_count("wrong_comparison", "x >= {k}"), _count("wrong_end", "x < {k}")),
    ),
    Operation(
        "first",
        _NUMBER,
        (None,),
        ("take the first, or 0", "the first, 0 if none", "first one, or 0"),
        Variant(CORRECT, "first or 0", "a[0] if a else 0"),
        (Variant("forgotten_empty", "first", "a[0]"), Variant("wrong_end", "last or 0", "a[-1] if a else 0")),
    ),
    Operation(
        "last",
        _NUMBER,
        (None,),
        ("take the last, or 0", "the last, 0 if none", "last one, or 0"),
        Variant(CORRECT, "last or 0", "a[-1] if a else 0"),
        (Variant("forgotten_empty", "last", "a[-1]"), Variant("wrong_end", "first or 0", "a[0] if a else 0")),
    ),
)

TO_TEXT = (
    Operation(
        "join",
        _TEXT,
        ("-", "+", ":"),
        ("join with {k}", "join all with {k}", "write with {k} between"),
        Variant(CORRECT, "join '{k}'", "'{k}'.join(map(str, a))"),
        (
            Variant("off_by_one", "text str(x) + '{k}'", "''.join(str(x) + '{k}' for x in a)"),
            Variant("separator_forgotten", "join ''", "''.join(map(str, a))"),
        ),
    ),
)

LIST_OPERATIONS = ELEMENTS + ORDER + NEIGHBOURS + TO_NUMBER + TO_TEXT
