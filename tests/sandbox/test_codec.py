"""Values cross as they are, shapes of sharing included, and bytes of a hostile process are refused."""

from __future__ import annotations

import collections
import datetime
import decimal
import enum
import fractions
import math
import random
import sys
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from sandbox import codec
from sandbox.kinds import BadData


@pytest.fixture(autouse=True)
def long_integers() -> Iterator[None]:
    """As in the processes that write values."""
    before = sys.get_int_max_str_digits()
    sys.set_int_max_str_digits(0)
    yield
    sys.set_int_max_str_digits(before)


def no_foreign(value: Any, node: Callable[[Any], codec.Node]) -> codec.Node:
    raise TypeError(type(value).__name__)


def crossed(value: Any) -> Any:
    data = codec.dumps(codec.Writer(no_foreign).node(value))
    return codec.Reader({}).value(codec.loads(data))


def exact(value: Any) -> Any:
    """A form in which values are equal only if their types are, and -0.0 is not 0.0."""
    if isinstance(value, dict):
        return type(value), [(exact(key), exact(held)) for key, held in value.items()]
    if isinstance(value, (set, frozenset)):
        return type(value), sorted(map(repr, map(exact, value)))
    if isinstance(value, (list, tuple, collections.deque)):
        return type(value), [exact(item) for item in value]
    return type(value), repr(value)


SCALARS: list[Any] = [
    None, True, False, 0, 1, -1, 2**63, 10**20_000, 0.0, -0.0, 1.5, 1e308, 5e-324, math.inf, -math.inf, math.nan,
    1j, complex(-0.0, math.nan), "", "a\0b", "é\u2028", "\ud800", "\ud83d\ude00", "\U0001f600", b"", b"\x00\xff",
    range(1, 9, 2), slice(1, None, 2), ..., NotImplemented, int, len, ValueError, type(None),
    decimal.Decimal("1.10"), decimal.Decimal("NaN"), fractions.Fraction(1, 3),
    datetime.date(2020, 2, 29), datetime.datetime(2020, 1, 2, 3, 4, 5, 6), datetime.time(1, 2, 3, 4),
    datetime.timedelta(days=-1, microseconds=1),
    datetime.datetime(2020, 1, 2, tzinfo=datetime.timezone(datetime.timedelta(hours=-5))),
]  # fmt: skip


@pytest.mark.parametrize("value", SCALARS, ids=lambda value: type(value).__name__)
def test_scalar_crosses(value: Any) -> None:
    assert exact(crossed(value)) == exact(value)


@pytest.mark.parametrize(
    "value",
    [
        bytearray(b"ab\xff"),
        collections.OrderedDict([(2, 1), (1, 2)]),
        collections.Counter("abba"),
        collections.defaultdict(list, {1: [2]}),
        collections.deque([1, [2]], 3),
        {(1, frozenset({2})): {3, 4.0}, True: ()},
    ],
    ids=repr,
)
def test_container_crosses(value: Any) -> None:
    assert exact(crossed(value)) == exact(value)


def random_value(rng: random.Random, depth: int) -> Any:
    kinds = [list, tuple, dict, set, frozenset] if depth else []
    kind = rng.choice([None, *kinds])
    size = rng.randrange(4)
    if kind is None:
        return rng.choice(SCALARS[:24])
    if kind is dict:
        return {rng.randrange(9): random_value(rng, depth - 1) for _ in range(size)}
    if kind in (set, frozenset):
        return kind(rng.choice(SCALARS[:12]) for _ in range(size))
    return kind(random_value(rng, depth - 1) for _ in range(size))


@pytest.mark.parametrize("seed", range(50))
def test_random_value_crosses(seed: int) -> None:
    value = random_value(random.Random(seed), 4)
    assert exact(crossed(value)) == exact(value)


def test_sharing_and_cycles_keep_their_shape() -> None:
    inner = [1]
    value: list[Any] = [inner, (inner,), {"a": inner}]
    value.append(value)
    again = crossed(value)
    assert again[3] is again
    assert again[0] is again[1][0] is again[2]["a"]


class Liar(int):
    def __eq__(self, other: object) -> bool:
        return True

    def __index__(self) -> int:
        return 7

    __hash__ = int.__hash__
    __int__ = __pos__ = __index__


class Colour(enum.IntEnum):
    RED = 3


class LyingList(list[int]):
    def __iter__(self) -> Any:
        return iter([9])


Point = collections.namedtuple("Point", "x y")


@pytest.mark.parametrize(
    ("value", "plain"), [(Liar(2), 2), (Colour.RED, 3), (LyingList([1]), [1]), (Point(1, 2), (1, 2))], ids=repr
)
def test_subclass_crosses_as_its_base(value: Any, plain: Any) -> None:
    assert exact(crossed(value)) == exact(plain)


def test_exception_crosses_with_its_arguments() -> None:
    again = crossed(KeyError("a", [1]))
    assert (type(again), again.args) == (KeyError, ("a", [1]))


def test_object_is_not_data() -> None:
    with pytest.raises(TypeError, match="object"):
        crossed([object()])


def test_contents_are_put_back_in_place() -> None:
    ours: list[Any] = [[1], {2: 3}, {4}, bytearray(b"5"), collections.deque([6])]
    writer = codec.Writer(no_foreign)
    reader = codec.Reader({})
    theirs = reader.value(codec.loads(codec.dumps(writer.node(ours))))
    theirs[0].append(theirs)
    theirs[1].clear()
    theirs[2].add(True)
    theirs[3][:] = b"xy"
    theirs[4].appendleft(theirs[0])
    answer = codec.Writer(no_foreign, reader.table)
    contents = [answer.contents(value) for value in reader.table]
    back = codec.Reader({}, writer.table)
    kept = list(ours)
    for value, node in zip(writer.table, contents, strict=True):
        back.refill(value, codec.loads(codec.dumps(node)))
    assert all(now is before for now, before in zip(ours, kept, strict=True))
    assert ours[0][1] is ours
    assert ours[1:4] == [{}, {4, True}, bytearray(b"xy")]
    assert ours[4][0] is ours[0]


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\xff",
        b"{}",
        b"[]",
        b"[1]",
        b'["?"]',
        b'[["["]]',
        b'["r",0]',
        b'["[",["r",1]]',
        b'["(",["r",0]]',
        b'["[",["r",-1]]',
        b'["[",["r",true]]',
        b'["{",1]',
        b'["{",["["],1]',
        b'["s",["["]]',
        b'["B","\xc4\x80"]',
        b'["n","eval"]',
        b'["n","getattr"]',
        b'["n","__import__"]',
        b'["e",["n","int"],1]',
        b'["t","sys",1]',
        b'["t","date",0,0,0]',
        b'["D","x"]',
        b'["F",1,0]',
        b'["R",1.5]',
        b'["q","a"]',
        b'["h",0]',
        b'["[",{"a":1}]',
        b"9" * 60_000,
        b"[" * 100_000,
        b'["[",' * 5_000 + b"1" + b"]" * 5_000,
    ],
    ids=lambda data: repr(data[:20]),
)
def test_hostile_bytes_are_refused(data: bytes) -> None:
    with pytest.raises(BadData):
        codec.Reader({}).value(codec.loads(data))


@pytest.mark.parametrize("seed", range(200))
def test_changed_bytes_are_a_value_or_refused(seed: int) -> None:
    rng = random.Random(seed)
    data = bytearray(codec.dumps(codec.Writer(no_foreign).node([random_value(rng, 3), [SCALARS[24:]]])))
    for _ in range(rng.randrange(1, 4)):
        data[rng.randrange(len(data))] = rng.choice(b'[]",0123rsefhnI{(:\\xe9')
    try:
        codec.Reader({}).value(codec.loads(bytes(data)))
    except BadData:
        return
    except Exception as error:  # noqa: BLE001
        pytest.fail(f"{type(error).__name__} for {bytes(data)!r}")
