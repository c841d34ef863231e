"""The program under test, in its own process: everything here runs beside hostile code.

A script reports how it ended as one note, `KIND` and text. A called function reports a line for each test,
`KIND INDEX CPU_MICROSECONDS JSON`. Nothing in a report is believed beyond "this is what the program claims":
the expected values are in another process. Names used after the program has run are bound before it runs,
since it may replace what it finds in modules.
Standard library only.
"""

from __future__ import annotations

import _io
import atexit
import json
import os
import sys
import time
import types
from collections.abc import Callable
from typing import Any, TypeVar

from sandbox.source import FILE_NAME

# Kinds of a note.
EXCEPTION = b"E"
MEMORY = b"M"
# Further kinds of a line of the call form.
COMPILED, NOT_COMPILED = b"C", b"B"  # the payload of the second is a verdict and a detail
READY = b"R"  # the module was loaded and the entry point is there
VALUE = b"V"
EXIT = b"X"  # SystemExit; the payload is its status
TOO_LARGE = b"T"  # the value could not be written down

Found = TypeVar("Found")

LOADING = -1  # the index of lines about compiling and loading
EXIT_FAILED = 1
_DETAIL_CHARACTERS = 300
# Names of other modules that each child needs, looked up once for all.
_leave, _write, _modules, _run_exit_functions = os._exit, os.write, sys.modules, atexit._run_exitfuncs
_SOLUTION_MODULES = "bisect collections functools heapq itertools math operator random re string typing".split()


def fresh_module(name: str) -> dict[str, Any]:
    """The namespace of a new module, registered so that dataclasses and pickle find it."""
    module = types.ModuleType(name)
    module.__dict__["__builtins__"] = __builtins__
    sys.modules[name] = module
    return module.__dict__


def describe(error: BaseException, file_name: str = FILE_NAME) -> str:
    """`Type: message (line n)`, cut; the message is the program's own code, so anything may happen in it."""
    try:
        text = f"{type(error).__name__}: {error}"
        trace, line = error.__traceback__, 0
        while trace is not None:
            if trace.tb_frame.f_code.co_filename == file_name:
                line = trace.tb_lineno
            trace = trace.tb_next
        return text[:_DETAIL_CHARACTERS] + (f" (line {line})" if line else "")
    except BaseException:  # noqa: BLE001 - a hostile __str__
        return "an exception that cannot be printed"


def exit_status(error: SystemExit) -> int:
    """As the interpreter does it: None is 0, an integer is itself, anything else is 1."""
    if error.code is None:
        return 0
    return error.code & 0xFF if isinstance(error.code, int) else EXIT_FAILED


def _flush(stream: Any) -> None:
    if stream is not None and not getattr(stream, "closed", False):
        stream.flush()


def _finish(namespace: dict[str, Any]) -> None:
    """What an interpreter does before it ends: waits for threads, runs exit functions, flushes files."""
    threading = _modules.get("threading")
    if threading is not None:
        threading._shutdown()
    _run_exit_functions()
    flush_files(namespace)


def flush_files(namespace: dict[str, Any]) -> None:
    # `_io._IOBase` is the class below `io.IOBase`, which asks its list of virtual subclasses and is slow for that.
    for value in list(namespace.values()):
        if isinstance(value, _io._IOBase) and not value.closed and value.writable():
            value.flush()
    _flush(sys.stdout)
    if sys.__stdout__ is not sys.stdout:
        _flush(sys.__stdout__)


def run_script(code: types.CodeType, namespace: dict[str, Any], report: int) -> None:
    """Runs a program in the namespace of a fresh `__main__`, on descriptors 0 and 1; never returns."""
    leave, write, tell = _leave, _write, describe
    status = EXIT_FAILED
    try:
        try:
            exec(code, namespace)
            status = 0
        except SystemExit as error:
            status = exit_status(error)
        _finish(namespace)
    except MemoryError:
        status = EXIT_FAILED
        write(report, MEMORY)
    except BaseException as error:  # noqa: BLE001 - whatever it is, it is the program's
        status = EXIT_FAILED
        write(report, EXCEPTION + tell(error).encode("utf-8", "replace"))
    finally:
        leave(status)


def solution_names() -> dict[str, Any]:
    """What the judges that ask for a `class Solution` have imported for it."""
    names: dict[str, Any] = {}
    for name in ("bisect", "collections", "functools", "heapq", "itertools", "typing"):
        module = sys.modules[name]
        public = getattr(module, "__all__", None) or [key for key in vars(module) if not key.startswith("_")]
        names.update({key: getattr(module, key) for key in public})
    names.update({name: sys.modules[name] for name in _SOLUTION_MODULES})
    return names


def find_entry(namespace: dict[str, Any], name: str) -> Callable[..., Any]:
    """A function of the module, or a method of its `Solution`, which is made anew for each call."""
    entry = namespace.get(name)
    if callable(entry):
        return entry  # type: ignore[no-any-return]
    solution = namespace.get("Solution")
    if isinstance(solution, type) and callable(getattr(solution, name, None)):
        return lambda *arguments: getattr(solution(), name)(*arguments)
    raise NameError(f"no function {name!r} and no method Solution.{name}")


def plain(value: Any) -> Any:
    """numpy's scalars and arrays as the values of Python that they stand for, for the JSON encoder."""
    numpy = sys.modules.get("numpy")
    if numpy is not None and isinstance(value, (numpy.generic, numpy.ndarray)):
        return value.tolist()
    raise TypeError(f"Object of type {type(value).__name__} is not JSON serializable")


class Reporter:
    """Writes the lines of the call form; what it needs is bound when it is made. `clock` gives nanoseconds."""

    def __init__(self, report: int, limit: int, clock: Callable[[], int] = time.process_time_ns):
        self._report, self._limit = report, limit
        self._write, self._clock, self._encode = os.write, clock, json.JSONEncoder(default=plain).encode
        self._since = 0

    def begin(self) -> None:
        self._since = self._clock()

    def line(self, kind: bytes, index: int, payload: bytes) -> None:
        spent = (self._clock() - self._since) // 1000
        data = b"%b %d %d %b\n" % (kind, index, spent, payload)
        while data:
            data = data[self._write(self._report, data) :]

    def text(self, kind: bytes, index: int, text: str) -> None:
        self.line(kind, index, self._encode(text).encode())

    def value(self, index: int, value: Any) -> None:
        """Writes a result; one that is no JSON value is the program's error, one past the limit is said to be."""
        try:
            payload = self._encode(value).encode() if not self._long(value) else None
        except MemoryError:
            payload = None
        if payload is None or len(payload) > self._limit:
            self.text(TOO_LARGE, index, "the returned value is larger than the output limit")
        else:
            self.line(VALUE, index, payload)

    def _long(self, value: Any) -> bool:
        return isinstance(value, (str, list, tuple, dict)) and len(value) > self._limit


def run_calls(
    code: types.CodeType, name: str, indices: list[int], read: Callable[[int], bytes], lines: Reporter
) -> None:
    """Loads a program, then calls its function for each index on the arguments that `read` gives; never returns.

    An exception ends its own test only; a lack of memory ends the process.
    """
    leave, decode, tell = os._exit, json.loads, describe
    status = EXIT_FAILED
    try:
        entry = load(code, lambda namespace: find_entry(namespace, name), lines)
        if entry is None:
            return
        for index in indices:
            arguments = decode(read(index))
            lines.begin()
            try:
                lines.value(index, entry(*arguments))
            except SystemExit as error:
                lines.text(EXIT, index, str(exit_status(error)))
            except MemoryError:
                lines.line(MEMORY, index, b'""')
                return
            except BaseException as error:  # noqa: BLE001 - whatever it is, it is the program's
                lines.text(EXCEPTION, index, tell(error))
        status = 0
    finally:
        leave(status)


def load(code: types.CodeType, find: Callable[[dict[str, Any]], Found], lines: Reporter) -> Found | None:
    """Runs a program as a module and gives what `find` finds in it; None, with a line that says why, if that fails."""
    tell = describe
    lines.begin()
    try:
        # Not `__main__`: what a program does when it is run as a script is no part of the call form.
        namespace = fresh_module("program")
        if "Solution" in code.co_names:
            namespace.update(solution_names())
        exec(code, namespace)
        found = find(namespace)
    except SystemExit as error:
        lines.text(EXIT, LOADING, str(exit_status(error)))
    except MemoryError:
        lines.line(MEMORY, LOADING, b'""')
    except BaseException as error:  # noqa: BLE001 - whatever it is, it is the program's
        lines.text(EXCEPTION, LOADING, tell(error))
    else:
        lines.text(READY, LOADING, "")
        return found
    return None
