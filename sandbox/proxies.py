"""The tests' side of the line: objects of the program as handles, and the questions that are asked through them.

Nothing of the program runs in this process. Standard library only.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

from sandbox import codec, kinds, link
from sandbox.kinds import BadData

_LOCAL_NAMES = frozenset(dir(object)) - {"__doc__"}
_SAID = "_said_by_the_program"


class Broken(BaseException):
    """The program's answer is no answer; the tests cannot go on."""


class Handle:
    """An object of the program. It equals only itself; whether it is true is not known, except of a regular match."""

    __slots__ = ("_ask", "_match", "_number")

    def __init__(self, ask: Callable[..., Any], number: int, match: bool):
        object.__setattr__(self, "_ask", ask)
        object.__setattr__(self, "_number", number)
        object.__setattr__(self, "_match", match)

    def __getattribute__(self, name: str) -> Any:
        if name in _LOCAL_NAMES:
            return object.__getattribute__(self, name)
        if name.startswith("__") and name not in ("__name__", "__doc__", "__dict__"):
            raise AttributeError(f"{name} of an object of the program cannot be read")
        return _ask(self, "getattr", self, name)

    def __setattr__(self, name: str, value: Any) -> None:
        _ask(self, "setattr", self, name, value)

    def __call__(self, *arguments: Any, **keywords: Any) -> Any:
        return object.__getattribute__(self, "_ask")("call", (self, *arguments), keywords)

    def __getitem__(self, key: Any) -> Any:
        return _ask(self, "getitem", self, key)

    def __setitem__(self, key: Any, value: Any) -> None:
        _ask(self, "setitem", self, key, value)

    def __len__(self) -> int:
        length = _ask(self, "len", self)
        if type(length) is not int:
            raise TypeError("the length is not an integer")
        return length

    def __iter__(self) -> Any:
        iterator = _ask(self, "iter", self)
        return iterator if type(iterator) is Handle else iter(iterator)

    def __next__(self) -> Any:
        return _ask(self, "next", self)

    def __str__(self) -> str:
        text = _ask(self, "str", self)
        if type(text) is not str:
            raise TypeError("the text is not a string")
        return text

    def __repr__(self) -> str:
        return f"<object {object.__getattribute__(self, '_number')} of the program>"

    def __instancecheck__(self, value: Any) -> bool:
        return type(value) is Handle and _ask(self, "isinstance", value, self) is True

    def __bool__(self) -> bool:
        if object.__getattribute__(self, "_match"):
            return True
        raise TypeError("the program gave an object of its own where the test wants a value")

    def __reduce_ex__(self, protocol: Any) -> Any:
        raise TypeError("an object of the program cannot be copied")


def _ask(handle: Handle, operation: str, *arguments: Any) -> Any:
    return object.__getattribute__(handle, "_ask")(operation, arguments, {})


def said_by_program(error: BaseException) -> str | None:
    """The program's description of an exception that it raised; None for one that the test raised itself."""
    return vars(error).get(_SAID)


def _plain(error: Exception) -> Exception:
    """An exception that can cross: of a built-in class, with text only."""
    kind = next(kind for kind in type(error).__mro__ if kind.__module__ == "builtins")
    return kinds.exception(kind, [str(error)])  # type: ignore[return-value]


def _by_name_only(value: Any, node: Callable[[Any], codec.Node]) -> codec.Node:
    raise TypeError(f"a {type(value).__name__} cannot cross to the program")


class Questions:
    """Asks the program's process and reads what it answers."""

    def __init__(self, line: link.Link):
        self._link = line
        self.broken: BaseException | None = None
        self._handles: dict[int, Handle] = {}
        self._classes: dict[int, type] = {}
        self._functions: list[Callable[..., Any]] = []
        self._readers: dict[str, Callable[..., Any]] = {
            "h": self._handle,
            "m": lambda number: self._handle(number, match=True),
            "k": self._function,
            "E": self._exception_class,
        }

    def await_program(self) -> None:
        """Returns when the program is loaded."""
        with self._watched():
            if self._link.receive() != link.READY:
                raise BadData("it has not said that it is loaded")

    def named(self, name: str) -> Any:
        """What the program has under a name."""
        return self.ask("name", (name,), {})

    def ask(self, operation: str, arguments: tuple[Any, ...], keywords: dict[str, Any]) -> Any:
        """Has an operation done by the program; raises what it raises there."""
        writer = codec.Writer(self._foreign)
        question = operation.encode() + b"\n" + codec.dumps(writer.node((keywords, arguments)))
        with self._watched():
            self._link.send(question)
            data = self._link.receive()
            while data[:1] == link.CALLBACK:
                self._link.send(self._called_back(data[1:]))
                data = self._link.receive()
            raised, result = self._read_answer(data, writer.table)
        if raised:
            raise result
        return result

    @contextlib.contextmanager
    def _watched(self) -> Iterator[None]:
        """Notes when the line is of no more use, since a test might swallow the exception."""
        if self.broken is not None:
            raise self.broken
        try:
            yield
        except (link.Gone, link.TooLarge) as error:
            self.broken = error
            raise
        except BadData as error:
            self.broken = Broken(str(error))
            raise self.broken from None

    def _read_answer(self, data: bytes, table: list[Any]) -> tuple[bool, Any]:
        reader = codec.Reader(self._readers, table)
        answer = codec.loads(data[1:])
        raised = data[:1] == link.RAISED
        if not (raised or data[:1] == link.VALUE) or type(answer) is not list or len(answer) != 2 + raised:
            raise BadData("neither a value nor an exception")
        if answer[0] is not None:
            mutable = [value for value in table[link.FIRST_GIVEN :] if kinds.is_mutable(value)]
            if type(answer[0]) is not list or len(answer[0]) != len(mutable):
                raise BadData("other arguments than were given")
            for value, node in zip(mutable, answer[0], strict=True):
                reader.refill(value, node)
        result = reader.value(answer[1])
        if raised:
            if not isinstance(result, BaseException):
                raise BadData("what was raised is not an exception")
            vars(result)[_SAID] = str(answer[2])
        return raised, result

    def _called_back(self, data: bytes) -> bytes:
        call = codec.loads(data)
        if type(call) is not list or len(call) != 2:
            raise BadData("not a call")
        function = self._function(call[0])
        given = codec.Reader(self._readers).value(call[1])
        if type(given) is not tuple or [type(part) for part in given] != [dict, tuple]:
            raise BadData("not a call's arguments")
        try:
            node = codec.Writer(self._foreign).node(function(*given[1], **given[0]))
        except Exception as error:  # noqa: BLE001 - it goes to the program that called
            return link.RAISED + codec.dumps(codec.Writer(_by_name_only).node(_plain(error)))
        return link.VALUE + codec.dumps(node)

    def _handle(self, number: int, match: bool = False) -> Handle:
        if type(number) is not int:
            raise BadData("an object without a number")
        return self._handles.setdefault(number, Handle(self.ask, number, match))

    def _function(self, number: int) -> Callable[..., Any]:
        if type(number) is not int or not 0 <= number < len(self._functions):
            raise BadData("no such function")
        return self._functions[number]

    def _exception_class(self, number: int, name: str, base: type) -> type:
        """A class that stands for one of the program's exceptions, so that a test can expect it."""
        if type(number) is not int or type(name) is not str or not issubclass(base, BaseException):
            raise BadData("not a class of exceptions")
        known = self._classes.get(number)
        if known is None:
            known = self._classes[number] = type(name, (base,), {})
        return known

    def _foreign(self, value: Any, node: Callable[[Any], codec.Node]) -> codec.Node:
        if type(value) is Handle:
            return ["h", object.__getattribute__(value, "_number")]
        for number, known in self._classes.items():
            if value is known:
                return ["h", number]
        if hasattr(type(value), "__next__"):
            return ["I", *map(node, value)]
        if not callable(value):
            raise TypeError(f"the test passes a {type(value).__name__}, which cannot cross to the program")
        if value not in self._functions:
            self._functions.append(value)
        return ["k", self._functions.index(value)]
