"""The kinds of data that cross between the two processes of the assert form: the tag of each, its parts, its making.

Standard library only.
"""

from __future__ import annotations

import builtins
import collections
import sys
from collections.abc import Callable
from typing import Any

PLAIN = frozenset({type(None), bool, int, float, str})
# Built-in classes and functions that cross by their names; those that reach out or run text are left out.
_FUNCTIONS = """
    abs all any ascii bin callable chr divmod format hash hex isinstance issubclass iter len max min next oct ord pow
    repr round sorted sum
""".split()
NAMED: dict[str, Any] = {"NoneType": type(None)} | {
    name: value for name, value in vars(builtins).items() if isinstance(value, type) or name in _FUNCTIONS
}
NAMES = {id(value): name for name, value in NAMED.items()}


class BadData(ValueError):
    """What was read is not what `codec.Writer` writes."""


def is_mutable(value: Any) -> bool:
    """One of the containers whose contents are carried back after a call."""
    return isinstance(value, _MUTABLE)


def tag_of(kind: type) -> str | None:
    """The tag of a class or of the nearest of its bases that has one; None for what is not data."""
    return _TAGS.get(kind) or _tag_of_base(kind)


def _tag_of_base(kind: type) -> str | None:
    """For classes that are not known themselves; the modules that define some are loaded if there is such a value."""
    base: Any
    for base in type.__dict__["__mro__"].__get__(kind):
        if base in _TAGS:
            return _TAGS[base]
        if base is BaseException:
            return "e"
        tag = _LATE.get((base.__module__, base.__qualname__))
        if tag is not None and getattr(sys.modules.get(base.__module__), base.__qualname__, None) is base:
            return tag
    return None


def refill(value: Any, tag: str, items: list[Any]) -> None:
    """Puts the items that `ITEMS` gives in place of a container's own."""
    if tag == "[":
        list.__setitem__(value, slice(None), items)
    elif tag == "B":
        (text,) = items
        bytearray.__setitem__(value, slice(None), text.encode("latin-1"))
    elif tag == "s":
        set.clear(value)
        set.update(value, items)
    elif tag == "q":
        length, *items = items
        if value.maxlen != length:
            if value or value.maxlen is not None:
                raise BadData("a deque of another length")
            collections.deque.__init__(value, (), length)
        collections.deque.clear(value)
        collections.deque.extend(value, items)
    else:
        if tag == "d":
            value.default_factory, *items = items
        elif len(items) % 2:
            raise BadData("a key without a value")
        value.clear()
        for key, held in zip(items[::2], items[1::2], strict=True):
            dict.__setitem__(value, key, held) if tag != "O" else value.__setitem__(key, held)


def exception(kind: Any, arguments: list[Any]) -> BaseException:
    """An exception of a class that is built in, or that has no code of its own."""
    if not isinstance(kind, type) or not issubclass(kind, BaseException):
        raise BadData("not an exception")
    try:
        return kind(*arguments)
    except (TypeError, ValueError):  # one that wants arguments of other types
        return kind.__new__(kind)


def _pairs(value: dict[Any, Any]) -> list[Any]:
    return [part for pair in dict.items(value) for part in pair]


def _decimal(text: str) -> Any:
    import decimal

    return decimal.Decimal(text)


def _fraction(numerator: int, denominator: int) -> Any:
    import fractions

    return fractions.Fraction(numerator, denominator)


def _time_parts(value: Any) -> list[Any]:
    """The name of a class of `datetime`, and the arguments of its constructor."""
    import datetime

    for kind, names in _TIME_FIELDS.items():
        if isinstance(value, getattr(datetime, kind)):
            parts = [getattr(value, name) for name in names]
            zone = getattr(value, "tzinfo", None)
            if zone is not None:
                parts.append(
                    zone.utcoffset(value if kind == "datetime" else None) // datetime.timedelta(microseconds=1)
                )
            return [kind, *parts]
    raise TypeError("not a time")


def _time(kind: str, *parts: int) -> Any:
    import datetime

    count = len(_TIME_FIELDS[kind])
    zone = ()
    if len(parts) > count:
        (offset,) = parts[count:]
        zone = (datetime.timezone(datetime.timedelta(microseconds=offset)),)  # type: ignore[assignment]
    return getattr(datetime, kind)(*parts[:count], *zone)


def _text(value: bytes | bytearray) -> list[str]:
    return [bytes(value).decode("latin-1")]


_TIME_FIELDS = {  # a datetime is a date, so it comes first
    "datetime": ("year", "month", "day", "hour", "minute", "second", "microsecond"),
    "date": ("year", "month", "day"),
    "time": ("hour", "minute", "second", "microsecond"),
    "timedelta": ("days", "seconds", "microseconds"),
}
BASES = {"int", "float", "str"}  # tags of subclasses of these; what is written has none
_TAGS: dict[type, str] = {
    int: "int",
    float: "float",
    str: "str",
    complex: "c",
    bytes: "b",
    bytearray: "B",
    list: "[",
    tuple: "(",
    dict: "{",
    set: "s",
    frozenset: "f",
    range: "R",
    slice: "S",
    type(...): ".",
    type(NotImplemented): "N",
    collections.OrderedDict: "O",
    collections.Counter: "C",
    collections.defaultdict: "d",
    collections.deque: "q",
}
_LATE = {("decimal", "Decimal"): "D", ("fractions", "Fraction"): "F"} | {
    ("datetime", name): "t" for name in _TIME_FIELDS
}
NUMBERED = frozenset("[({sfBOCdqe")
_MUTABLE = (list, dict, set, bytearray, collections.deque)
ITEMS: dict[str, Callable[[Any], list[Any]]] = {
    "[": lambda value: list(list.__iter__(value)),
    "(": lambda value: list(tuple.__iter__(value)),
    "s": lambda value: list(set.__iter__(value)),
    "f": lambda value: list(frozenset.__iter__(value)),
    "{": _pairs,
    "O": lambda value: [part for pair in collections.OrderedDict.items(value) for part in pair],
    "C": _pairs,
    "d": lambda value: [value.default_factory, *_pairs(value)],
    "q": lambda value: [value.maxlen, *collections.deque.__iter__(value)],
    "B": _text,
}
PARTS: dict[str, Callable[[Any], Any]] = {
    "int": int.__pos__,
    "float": float.__pos__,
    "str": str.__str__,
    "c": lambda value: [complex.__pos__(value).real, complex.__pos__(value).imag],
    "b": lambda value: _text(bytes.__getitem__(value, slice(None))),
    "R": lambda value: [value.start, value.stop, value.step],
    "S": lambda value: [value.start, value.stop, value.step],
    ".": lambda value: [],
    "N": lambda value: [],
    "D": lambda value: [str(value)],
    "F": lambda value: [int(value.numerator), int(value.denominator)],
    "t": _time_parts,
}
EMPTY: dict[str, Callable[[], Any]] = {
    "[": list,
    "{": dict,
    "s": set,
    "B": bytearray,
    "O": collections.OrderedDict,
    "C": collections.Counter,
    "d": collections.defaultdict,
    "q": collections.deque,
}
FROZEN: dict[str, Callable[[list[Any]], Any]] = {"(": tuple, "f": frozenset}
MAKERS: dict[str, Callable[..., Any]] = {
    "c": complex,
    "b": lambda text: text.encode("latin-1"),
    "R": range,
    "S": slice,
    ".": lambda: ...,
    "N": lambda: NotImplemented,
    "D": _decimal,
    "F": _fraction,
    "t": _time,
}
