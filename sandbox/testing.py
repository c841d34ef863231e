"""The tests' process in the assert form: runs setup and tests, for which the program is a line to another process.

A test may be written by a model, so this process is jailed as the program's is. It reports one line for each test.
Standard library only.
"""

from __future__ import annotations

import _ast
import _symtable
import builtins
import importlib
import os
import random
import sys
import types
from collections.abc import Callable, Iterable
from typing import Any

from sandbox import link, program, proxies, source

# Kinds of a line, besides those of `program`.
PASSED = b"P"
ASSERTION = b"A"  # the test says that the program is wrong
TEST_ERROR = b"W"  # the test fails in another way, as on a value of the wrong type
RAISED = b"F"  # the program raised it and the test did not expect it
UNREADABLE = b"G"
TOO_LARGE = program.TOO_LARGE
NOT_COMPILED = program.NOT_COMPILED

EXIT_PROGRAM_GONE = 3
FILE_NAME = "<test>"
_CHECK = "check"
_ONLY_AST = _ast.PyCF_ONLY_AST
_USED, _MADE = 16, 2  # USE and DEF_LOCAL of CPython's symbol table

Compiled = tuple[str, types.CodeType, bool] | str
"""A test's text, its code and whether `check` is to be called; or why it cannot be run."""


class _Names(dict[str, Any]):
    """The built-in names, and behind them those of the program, looked up whenever they are used."""

    def __init__(self, questions: proxies.Questions, texts: tuple[str, ...]):
        super().__init__(vars(builtins))
        self._questions, self._texts = questions, texts

    def __missing__(self, name: str) -> Any:
        # A standard module is the test's own affair: what it says must not come from the program.
        if name in sys.stdlib_module_names and is_used_as_module(name, self._texts):
            return importlib.import_module(name)
        return self._questions.named(name)


def is_used_as_module(name: str, texts: Iterable[str]) -> bool:
    """In texts, which compile, the name stands nowhere but before a dot."""
    bare = dotted = 0
    nodes: list[Any] = [compile(text, FILE_NAME, "exec", _ONLY_AST, dont_inherit=True) for text in texts]
    for node in nodes:
        bare += type(node) is _ast.Name and node.id == name
        dotted += type(node) is _ast.Attribute and type(node.value) is _ast.Name and node.value.id == name
        for field in node._fields:
            value = getattr(node, field, None)
            parts = value if isinstance(value, list) else [value]
            nodes += [part for part in parts if isinstance(part, _ast.AST)]
    return bare == dotted


def needs_check(text: str) -> bool:
    """The text, which compiles, is HumanEval's: it defines `check` and leaves the call to the judge."""
    top = _symtable.symtable(text, FILE_NAME, "exec")
    tables = [top]
    for table in tables:
        if table.symbols.get(_CHECK, 0) & _USED:
            return False
        tables += table.children
    return bool(top.symbols.get(_CHECK, 0) & _MADE)


class Tests:
    """Runs the tests of one program."""

    def __init__(self, line: link.Link, lines: program.Reporter, setup: types.CodeType, setup_text: str, fn_name: str):
        self._questions, self._lines, self._fn_name = proxies.Questions(line), lines, fn_name
        self._setup, self._setup_text = setup, setup_text
        self._leave = os._exit

    def compiled(self, texts: dict[int, bytes], memory_bytes: int) -> dict[int, Compiled]:
        """The tests that can be compiled; the others are reported when it is their turn."""
        found: dict[int, Compiled] = {}
        for index, text in texts.items():
            try:
                found[index] = _compiled(text, self._fn_name, memory_bytes)
            except source.CompileFailure as failure:
                found[index] = str(failure)
        return found

    def run_all(self, tests: dict[int, Compiled], confine: Callable[[], None]) -> None:
        """Confines the process and runs the tests in their order, once the program is there."""
        confine()
        try:
            self._questions.await_program()
        except BaseException:  # noqa: BLE001 - whatever it says, it is not there
            self._leave(EXIT_PROGRAM_GONE)
        self._lines.text(program.READY, program.LOADING, "")
        for index, test in tests.items():
            if isinstance(test, str):
                self._lines.begin()
                self._lines.text(program.NOT_COMPILED, index, test)
            else:
                self._run(index, *test)

    def _run(self, index: int, text: str, code: types.CodeType, calls_check: bool) -> None:
        """Runs one test and reports it; leaves when the program is gone."""
        random.seed(0)
        self._lines.begin()
        try:
            self._execute(text, code, calls_check)
            kind, detail = PASSED, ""
        except BaseException as error:  # noqa: BLE001 - a test may raise anything
            kind, detail = _failure(error)
        broken = self._questions.broken
        if isinstance(broken, link.Gone):
            self._leave(EXIT_PROGRAM_GONE)
        if isinstance(broken, link.TooLarge):
            kind, detail = TOO_LARGE, "the value is larger than the output limit"
        elif broken is not None:
            kind, detail = UNREADABLE, f"what the program's process says cannot be read: {broken}"
        self._lines.text(kind, index, detail)
        if broken is not None:
            self._leave(0)

    def _execute(self, text: str, code: types.CodeType, calls_check: bool) -> None:
        """Setup and test, in a fresh module."""
        namespace = program.fresh_module("__main__")
        namespace["__builtins__"] = _Names(self._questions, (self._setup_text, text))
        exec(self._setup, namespace)
        if self._fn_name:  # over a stub of it in the setup
            namespace[self._fn_name] = self._questions.named(self._fn_name)
        exec(code, namespace)
        if calls_check:
            namespace[_CHECK](namespace[self._fn_name])


def _compiled(data: bytes, fn_name: str, memory_bytes: int) -> tuple[str, types.CodeType, bool]:
    """A test's text, its code, and whether `check` is to be called; `source.CompileFailure` if it cannot be run."""
    code = source.compile_program(data, memory_bytes, FILE_NAME)
    source.preload(code)
    text = data.decode("utf-8", "surrogatepass")
    calls_check = needs_check(text)
    if calls_check and not fn_name:
        detail = "it defines check(candidate) and does not call it; give fn_name"
        raise source.CompileFailure("runtime_error", detail)
    return text, code, calls_check


def _failure(error: BaseException) -> tuple[bytes, str]:
    said = proxies.said_by_program(error)
    if isinstance(error, MemoryError):
        return program.MEMORY, said if said is not None else "the test ran out of memory"
    if said is not None:
        if isinstance(error, SystemExit):
            return program.EXIT, str(program.exit_status(error))
        return RAISED, said
    text = program.describe(error, FILE_NAME)
    return ASSERTION if isinstance(error, AssertionError) else TEST_ERROR, text
