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


def _first_seen(name: str, rest: str) -> Variant:
    return Variant(name, f"keep x not in {rest}", f"[x for i, x in enumerate(a) if x not in {rest}]")


def _prefixes(name: str, expression: str) -> Variant:
    return Variant(name, f"each {expression}", f"[{expression} for i in range(len(a))]")


def _pairs(name: str, expression: str) -> Variant:
    return Variant(name, f"pairs {expression}", f"[{expression} for x, y in zip(a, a[1:])]")


def _rising(name: str, condition: str) -> Variant:
    return Variant(name, f"keep {condition}", f"[y for x, y in zip(a, a[1:]) if {condition}]")


def _count(name: str, condition: str) -> Variant:
    return Variant(name, f"count {condition}", f"sum({condition} for x in a)")


def _joined(name: str, expression: str) -> Variant:
    return Variant(name, f"text {expression}", f"''.join({expression} for x in a)")


ELEMENTS = (
    Operation(
        "keep_above",
        _LIST,
        (0, 3, 5),
        ("keep numbers above {k}", "only numbers over {k} stay", "drop numbers up to {k}"),
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
        ("keep numbers below {k}", "only numbers under {k} stay", "drop numbers from {k} up"),
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
        ("keep multiples of {k}", "only multiples of {k} stay", "drop what {k} does not divide"),
        keep(CORRECT, "x % {k} == 0"),
        (keep("wrong_end", "x % {k} != 0"), keep("off_by_one", "x % {k+1} == 0")),
    ),
    Operation(
        "add",
        _LIST,
        (1, 2, 4),
        ("add {k} to each", "raise each by {k}", "each grows by {k}"),
        each(CORRECT, "x + {k}"),
        (each("wrong_sign", "x - {k}"), each("off_by_one", "x + {k+1}")),
    ),
    Operation(
        "multiply",
        _LIST,
        (2, 3, 5),
        ("multiply each by {k}", "each times {k}", "scale each by {k}"),
        each(CORRECT, "x * {k}"),
        (each("wrong_operation", "x + {k}"), each("off_by_one", "x * {k+1}")),
    ),
    Operation(
        "square",
        _LIST,
        (None,),
        ("square each", "each times itself", "replace each by its square"),
        each(CORRECT, "x * x"),
        (each("wrong_operation", "x + x"), each("sign_kept", "x * abs(x)")),
    ),
    Operation(
        "magnitude",
        _LIST,
        (None,),
        ("make each positive", "absolute value of each", "drop the minus signs"),
        each(CORRECT, "abs(x)"),
        (each("wrong_sign", "-x"), keep("negatives_dropped", "x >= 0")),
    ),
    Operation(
        "cap",
        _LIST,
        (4, 7, 9),
        ("cap each at {k}", "lower each above {k} to {k}", "limit each to at most {k}"),
        each(CORRECT, "min(x, {k})"),
        (each("wrong_end", "max(x, {k})"), keep("dropped", "x <= {k}"), each("off_by_one", "min(x, {k-1})")),
    ),
    Operation(
        "remainder",
        _LIST,
        (3, 4, 7),
        ("take each modulo {k}", "each mod {k}", "remainders by {k}"),
        each(CORRECT, "x % {k}"),
        (each("sign_ignored", "abs(x) % {k}"), each("wrong_operation", "x // {k}")),
    ),
    Operation(
        "add_place",
        _LIST,
        (None,),
        ("add its index to each", "each plus its index", "raise each by its index"),
        _placed(CORRECT, "x + i"),
        (_placed("off_by_one", "x + i + 1"), _placed("wrong_operation", "x * i")),
    ),
)

ORDER = (
    Operation(
        "reverse",
        _SAME,
        (None,),
        ("reverse it", "turn it around", "put it back to front"),
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
        ("sort up", "sort, smallest first", "put in rising order"),
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
        ("sort down", "sort, largest first", "put in falling order"),
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
        ("drop repeats", "keep only first copies", "each number once, in order"),
        _first_seen(CORRECT, "a[:i]"),
        (_first_seen("wrong_end", "a[i + 1:]"), _first_seen("neighbours_only", "a[:i][-1:]")),
    ),
    Operation(
        "take",
        _SAME,
        (2, 3, 4),
        ("keep the first {k}", "take {k} from the front", "only the first {k} stay"),
        Variant(CORRECT, "first {k}", "a[:{k}]"),
        (Variant("off_by_one", "first {k+1}", "a[:{k+1}]"), Variant("wrong_end", "last {k}", "a[-{k}:]")),
    ),
    Operation(
        "skip",
        _SAME,
        (1, 2, 3),
        ("skip the first {k}", "drop {k} from the front", "cut off the first {k}"),
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
        ("keep the last {k}", "take {k} from the end", "only the last {k} stay"),
        Variant(CORRECT, "last {k}", "a[-{k}:]"),
        (Variant("off_by_one", "last {k+1}", "a[-{k+1}:]"), Variant("wrong_end", "first {k}", "a[:{k}]")),
    ),
    Operation(
        "skip_last",
        _SAME,
        (1, 2, 3),
        ("skip the last {k}", "drop {k} from the end", "cut off the last {k}"),
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
        ("keep each {k}th from the first", "step {k} from the first", "from the first on, one in {k}"),
        Variant(CORRECT, "step {k} from 0", "a[::{k}]"),
        (Variant("off_by_one", "step {k} from {k-1}", "a[{k-1}::{k}]"), Variant("wrong_end", "step -{k}", "a[::-{k}]")),
    ),
    Operation(
        "rotate",
        _SAME,
        (1, 2, 3),
        ("rotate left by {k}", "move the first {k} to the end", "shift left by {k}, wrap around"),
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
        ("append its reverse", "mirror it", "add its reverse at the end"),
        Variant(CORRECT, "a + reverse", "a + a[::-1]"),
        (Variant("swapped_order", "reverse + a", "a[::-1] + a"), part("not_reversed", "a + a")),
    ),
)

NEIGHBOURS = (
    Operation(
        "running_sums",
        _LIST,
        (None,),
        ("take running sums", "sum up to each", "replace each by the sum so far"),
        _prefixes(CORRECT, "sum(a[:i + 1])"),
        (_prefixes("off_by_one", "sum(a[:i])"), _prefixes("wrong_end", "sum(a[i:])")),
    ),
    Operation(
        "differences",
        _LIST,
        (None,),
        ("take differences", "each next minus this", "steps between neighbours"),
        _pairs(CORRECT, "y - x"),
        (_pairs("wrong_sign", "x - y"), _pairs("sign_ignored", "abs(y - x)")),
    ),
    Operation(
        "rises",
        _LIST,
        (None,),
        ("keep those above the one before", "only rises stay", "keep what tops its left neighbour"),
        _rising(CORRECT, "y > x"),
        (_rising("wrong_comparison", "y >= x"), _rising("wrong_end", "y < x")),
    ),
)

TO_NUMBER = (
    Operation(
        "sum",
        _NUMBER,
        (None,),
        ("take the sum", "add them up", "the total"),
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
        ("take the largest, or 0", "the maximum, or 0", "the biggest, 0 if none"),
        Variant(CORRECT, "max or 0", "max(a, default=0)"),
        (
            Variant("forgotten_empty", "max", "max(a)"),
            Variant("wrong_end", "min or 0", "min(a, default=0)"),
            Variant("wrong_start", "max with 0", "max(a + [0])"),
        ),
    ),
    Operation(
        "minimum",
        _NUMBER,
        (None,),
        ("take the smallest, or 0", "the minimum, or 0", "the least, 0 if none"),
        Variant(CORRECT, "min or 0", "min(a, default=0)"),
        (
            Variant("forgotten_empty", "min", "min(a)"),
            Variant("wrong_end", "max or 0", "max(a, default=0)"),
            Variant("wrong_start", "min with 0", "min(a + [0])"),
        ),
    ),
    Operation(
        "length",
        _LENGTH,
        (None,),
        ("take the length", "count them", "how many there are"),
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
        ("count different ones", "how many different ones", "the number of kinds"),
        Variant(CORRECT, "length of set", "len(set(a))"),
        (Variant("duplicates_kept", "length", "len(a)"), Variant("off_by_one", "length of set - 1", "len(set(a)) - 1")),
    ),
    Operation(
        "count_above",
        _NUMBER,
        (0, 2, 4),
        ("count numbers above {k}", "how many are over {k}", "the count of those over {k}"),
        _count(CORRECT, "x > {k}"),
        (_count("wrong_comparison", "x >= {k}"), _count("wrong_end", "x < {k}")),
    ),
    Operation(
        "first",
        _NUMBER,
        (None,),
        ("take the first, or 0", "the front one, or 0", "the first, 0 if none"),
        Variant(CORRECT, "first or 0", "a[0] if a else 0"),
        (Variant("forgotten_empty", "first", "a[0]"), Variant("wrong_end", "last or 0", "a[-1] if a else 0")),
    ),
    Operation(
        "last",
        _NUMBER,
        (None,),
        ("take the last, or 0", "the end one, or 0", "the last, 0 if none"),
        Variant(CORRECT, "last or 0", "a[-1] if a else 0"),
        (Variant("forgotten_empty", "last", "a[-1]"), Variant("wrong_end", "first or 0", "a[0] if a else 0")),
    ),
    Operation(
        "alternating",
        _NUMBER,
        (None,),
        ("take the alternating sum", "first minus second plus third ...", "add and subtract in turn"),
        Variant(CORRECT, "even places - odd places", "sum(a[::2]) - sum(a[1::2])"),
        (
            Variant("wrong_sign", "odd places - even places", "sum(a[1::2]) - sum(a[::2])"),
            Variant("half_forgotten", "sum of even places", "sum(a[::2])"),
        ),
    ),
)

TO_TEXT = (
    Operation(
        "join",
        _TEXT,
        ("-", "+", ":"),
        ("join with {k}", "write with {k} between", "glue with {k}"),
        Variant(CORRECT, "join '{k}'", "'{k}'.join(map(str, a))"),
        (
            Variant("off_by_one", "text str(x) + '{k}'", "''.join(str(x) + '{k}' for x in a)"),
            Variant("separator_forgotten", "join ''", "''.join(map(str, a))"),
        ),
    ),
    Operation(
        "letters",
        _TEXT,
        (None,),
        ("letter of each, 0 is a, 26 wraps", "turn to letters, a for 0, mod 26", "spell: 0 is a, up to z, wrap"),
        _joined(CORRECT, "chr(x % 26 + 97)"),
        (_joined("off_by_one", "chr(x % 26 + 96)"), _joined("wrong_case", "chr(x % 26 + 65)")),
    ),
    Operation(
        "signs",
        _TEXT,
        (None,),
        ("write - if negative, else +", "signs as text, + for 0", "+ or - for each, 0 is +"),
        _joined(CORRECT, "'+-'[x < 0]"),
        (_joined("wrong_comparison", "'+-'[x <= 0]"), _joined("wrong_sign", "'-+'[x < 0]")),
    ),
)

LIST_OPERATIONS = ELEMENTS + ORDER + NEIGHBOURS + TO_NUMBER + TO_TEXT
