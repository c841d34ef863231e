"""The program's process in the assert form: loads the program, then does what the tests ask of it.

It has the code and what the tests pass to it; neither the tests nor any expected value is ever here. Everything runs
beside hostile code: nothing that it says is believed beyond "this is the value". Standard library only.
"""

from __future__ import annotations

import operator
import os
import re
import types
from collections.abc import Callable
from typing import Any

from sandbox import codec, kinds, link, program


class Callback:
    """A function of the tests that the program was given as an argument."""

    def __init__(self, number: int, call: Callable[..., Any]):
        self._number, self._call = number, call

    def __call__(self, *arguments: Any, **keywords: Any) -> Any:
        return self._call(self._number, arguments, keywords)


class Server:
    """Answers the tests about one program; bound before the program is loaded."""

    def __init__(self, line: link.Link):
        self._link, self._tell = line, program.describe
        self._objects: list[Any] = []
        self._numbers: dict[int, int] = {}
        self._callbacks: dict[int, Callback] = {}
        self._readers = {"h": lambda number: self._objects[number], "k": self._callback}
        self._operations: dict[str, Callable[..., Any]] = {
            "call": lambda function, /, *arguments, **keywords: function(*arguments, **keywords),
            "getattr": getattr,
            "setattr": setattr,
            "getitem": operator.getitem,
            "setitem": operator.setitem,
            "len": len,
            "iter": iter,
            "next": next,
            "str": str,
            "isinstance": isinstance,
        }

    def serve(self, namespace: dict[str, Any]) -> None:
        """Answers until the tests are done; `link.Gone` then."""
        self._operations["name"] = lambda name: _named(namespace, name)
        self._link.send(link.READY)
        while True:
            self._answer(self._link.receive())

    def _answer(self, question: bytes) -> None:
        name, _, body = question.partition(b"\n")
        self._link.send(self._done(self._operations[name.decode()], body))

    def _done(self, operation: Callable[..., Any], body: bytes) -> bytes:
        """The answer after an operation."""
        reader = codec.Reader(self._readers)
        keywords, arguments = reader.value(codec.loads(body))
        kind, result, text = link.VALUE, None, []
        try:
            result = operation(*arguments, **keywords)
        except link.Gone:
            raise
        except BaseException as error:  # noqa: BLE001 - whatever it is, it is the program's
            kind, result, text = link.RAISED, error, [self._tell(error)]
        try:
            return kind + self._packed(reader, body, (keywords, arguments), result, text)
        except Exception as error:  # noqa: BLE001 - a value that cannot be written
            plain = codec.Writer(self._foreign).node(TypeError(f"the value cannot be read by the tests: {error}"))
            return link.RAISED + codec.dumps([None, plain, self._tell(error)])

    def _packed(self, reader: codec.Reader, body: bytes, given: Any, result: Any, text: list[str]) -> bytes:
        writer = codec.Writer(self._foreign, reader.table)
        mutable = [value for value in reader.table[link.FIRST_GIVEN :] if kinds.is_mutable(value)]
        contents = None
        if mutable and codec.dumps(codec.Writer(self._foreign).node(given)) != body:
            contents = [writer.contents(value) for value in mutable]
        return codec.dumps([contents, writer.node(result), *text])

    def _foreign(self, value: Any, node: Callable[[Any], codec.Node]) -> codec.Node:
        if type(value) is Callback:
            return ["k", value._number]
        number = self._numbers.get(id(value))
        if number is None:
            number = self._numbers[id(value)] = len(self._objects)
            self._objects.append(value)
        if isinstance(value, type) and issubclass(value, BaseException):
            # Its name and its base let the tests catch it.
            base = next((base for base in value.__bases__ if issubclass(base, BaseException)), Exception)
            return ["E", number, value.__name__, node(base)]
        return ["m" if type(value) is re.Match else "h", number]

    def _callback(self, number: int) -> Callback:
        return self._callbacks.setdefault(number, Callback(number, self._call_back))

    def _call_back(self, number: int, arguments: tuple[Any, ...], keywords: dict[str, Any]) -> Any:
        node = codec.Writer(self._foreign).node((keywords, arguments))
        self._link.send(link.CALLBACK + codec.dumps([number, node]))
        while (data := self._link.receive())[:1] not in (link.VALUE, link.RAISED):
            self._answer(data)  # the function itself asks something of the program
        value = codec.Reader(self._readers).value(codec.loads(data[1:]))
        if data[:1] == link.RAISED:
            raise value
        return value


def _named(namespace: dict[str, Any], name: str) -> Any:
    return namespace[name] if name in namespace else program.find_entry(namespace, name)


def run(code: types.CodeType, name: str, lines: program.Reporter, line: link.Link) -> None:
    """Loads a program and serves the tests; never returns. `name` is its entry point, if it has a known one."""
    leave = os._exit
    status = program.EXIT_FAILED
    try:
        server = Server(line)

        def find(namespace: dict[str, Any]) -> dict[str, Any]:
            if name:
                program.find_entry(namespace, name)
            return namespace

        namespace = program.load(code, find, lines)
        if namespace is not None:
            server.serve(namespace)
    except link.Gone:
        status = 0
    finally:
        leave(status)
