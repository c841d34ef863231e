"""Values as data: what crosses between the two processes of the assert form. No code runs when one is read.

A value is written as JSON. None, bool, int, float and str stand for themselves, everything else is a list that begins
with a tag. Containers are numbered as they appear, and `["r", NUMBER]` is one that was there before, so shared and
cyclic values keep their shape. What is not data is left to the two sides (`foreign`): objects of the program cross as
numbers. An instance of a subclass crosses as the value of its base, read by the base's own methods.
Reading is strict and raises `BadData`: the bytes may come from a hostile process.
Standard library only.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from sandbox import kinds
from sandbox.kinds import PLAIN, BadData

Node = Any
"""A JSON value: a plain value, or a list whose first element is a tag."""

# Longer integers are refused when read: the conversion from decimals takes quadratic time.
_MAX_INTEGER_DIGITS = 50_000
_UNFINISHED = object()

_dumps = json.JSONEncoder(ensure_ascii=False, check_circular=False, separators=(",", ":")).encode
_loads = json.JSONDecoder().decode


def dumps(node: Node) -> bytes:
    # Lone surrogates stay what they are; JSON's own escapes would join pairs of them.
    return _dumps(node).encode("utf-8", "surrogatepass")


def loads(data: bytes) -> Node:
    """Reads JSON; `BadData` when it is none."""
    before = sys.get_int_max_str_digits()
    try:
        sys.set_int_max_str_digits(_MAX_INTEGER_DIGITS)
        return _loads(data.decode("utf-8", "surrogatepass"))
    except (ValueError, RecursionError) as error:
        raise BadData(f"not JSON: {error}") from None
    finally:
        sys.set_int_max_str_digits(before)


class Writer:
    """Writes the values of one message.

    Args:
      foreign: gives the node of a value that is not data, or raises TypeError; it is handed `node`, too.
      known: containers that the reader has under the same numbers already.
    """

    def __init__(self, foreign: Callable[[Any, Callable[[Any], Node]], Node], known: Iterable[Any] = ()):
        self._foreign = foreign
        self.table = list(known)  # also keeps them alive, so that no id is used twice
        self._numbers = {id(value): number for number, value in enumerate(self.table)}

    def node(self, value: Any) -> Node:
        kind = type(value)
        if kind in PLAIN:
            return value
        number = self._numbers.get(id(value))
        if number is not None:
            return ["r", number]
        tag = kinds.tag_of(kind)
        if tag is None:
            name = kinds.NAMES.get(id(value))
            return self._foreign(value, self.node) if name is None else ["n", name]
        if tag in kinds.NUMBERED:
            self._numbers[id(value)] = len(self.table)
            self.table.append(value)
        return self._tagged(tag, value)

    def contents(self, value: Any) -> Node:
        """The node of a container that has a number already."""
        return self._tagged(kinds.tag_of(type(value)) or "", value)

    def _tagged(self, tag: str, value: Any) -> Node:
        if tag in kinds.ITEMS:
            items = kinds.ITEMS[tag](value)
            return [tag, *(items if PLAIN.issuperset(map(type, items)) else map(self.node, items))]
        if tag == "e":
            return [tag, self.node(type(value)), *map(self.node, BaseException.__getattribute__(value, "args"))]
        return kinds.PARTS[tag](value) if tag in kinds.BASES else [tag, *kinds.PARTS[tag](value)]


class Reader:
    """Reads the values of one message.

    Args:
      foreign: for each of the tags that `Writer.foreign` gives, a function of the rest of the node.
      known: containers that the writer has under the same numbers already.
    """

    def __init__(self, foreign: Mapping[str, Callable[..., Any]], known: Sequence[Any] = ()):
        self._foreign = foreign
        self.table = list(known)

    def value(self, node: Node) -> Any:
        """The value of a node; `BadData` when it is none."""
        try:
            return self._value(node)
        except BadData:
            raise
        except (ValueError, TypeError, LookupError, ArithmeticError, AttributeError, RecursionError) as error:
            raise BadData(f"{type(error).__name__}: {error}"[:200]) from None

    def refill(self, value: Any, node: Node) -> None:
        """Gives a container the contents that `Writer.contents` wrote."""
        if not isinstance(node, list) or not node or node[0] != kinds.tag_of(type(value)):
            raise BadData("the contents of another kind of container")
        try:
            kinds.refill(value, node[0], self._items(node[1:]))
        except (ValueError, TypeError, LookupError) as error:
            raise BadData(f"{type(error).__name__}: {error}"[:200]) from None

    def _value(self, node: Node) -> Any:
        if type(node) in PLAIN:
            return node
        if type(node) is not list or not node or type(node[0]) is not str:
            raise BadData("a value has no tag")
        tag, rest = node[0], node[1:]
        if tag == "r":
            return self._known(*rest)
        if tag in kinds.NUMBERED:
            return self._numbered(tag, rest)
        if tag == "n":
            (name,) = rest
            return kinds.NAMED[name]
        if tag in kinds.MAKERS:
            return kinds.MAKERS[tag](*rest)
        if tag == "I":
            return iter(self._items(rest))
        return self._foreign[tag](*map(self._value, rest))

    def _known(self, number: int) -> Any:
        if type(number) is not int or not 0 <= number < len(self.table) or self.table[number] is _UNFINISHED:
            raise BadData("a reference to nothing")
        return self.table[number]

    def _items(self, nodes: list[Node]) -> list[Any]:
        return nodes if PLAIN.issuperset(map(type, nodes)) else [self._value(node) for node in nodes]

    def _numbered(self, tag: str, rest: list[Node]) -> Any:
        number = len(self.table)
        self.table.append(_UNFINISHED)
        if tag in kinds.EMPTY:
            value = self.table[number] = kinds.EMPTY[tag]()
            kinds.refill(value, tag, self._items(rest))
        elif tag == "e":
            kind, *arguments = map(self._value, rest)
            value = self.table[number] = kinds.exception(kind, arguments)
        else:
            value = self.table[number] = kinds.FROZEN[tag](self._items(rest))
        return value
