"""From source text to code: compilation, and the imports that can be made before the program is let loose.

Runs in a process that has limits but has run no foreign code. Standard library only.
"""

from __future__ import annotations

import contextlib
import os
import resource
import types
from collections.abc import Callable, Iterator

FILE_NAME = "<program>"

# Why a program did not compile; the values are those of `records.Verdict`.
_BAD_SYNTAX, _FAILED, _MEMORY = "compile_error", "runtime_error", "memory_limit"

# Modules that programs use and that can be imported for them beforehand. All are pure computation.
PRELOADABLE = frozenset(
    """abc argparse array ast base64 binascii bisect calendar cmath collections contextlib copy csv dataclasses
    datetime decimal difflib enum fractions functools gc hashlib heapq html inspect io itertools json keyword locale
    logging math numbers operator pickle platform pprint queue random re secrets signal statistics string struct sys
    textwrap threading time timeit tokenize traceback types typing unicodedata unittest uuid warnings weakref zlib
    zoneinfo""".split()
)


class CompileFailure(Exception):
    """The program cannot be run; `verdict` says as what that counts."""

    def __init__(self, verdict: str, detail: str):
        super().__init__(detail)
        self.verdict = verdict


def compile_program(data: bytes, memory_bytes: int, file_name: str = FILE_NAME) -> types.CodeType:
    """Compiles UTF-8 text, or raises `CompileFailure`.

    Source that is beyond the compiler (a NUL, nesting without end) is a runtime error, as it is with a plain
    interpreter on other versions of Python; a wrong syntax is a compile error.
    """
    try:
        source = data.decode("utf-8", "surrogatepass")
        if "\0" in source:
            raise CompileFailure(_FAILED, "ValueError: the source contains a NUL")
        return compile(source, file_name, "exec", dont_inherit=True)
    except SyntaxError as error:
        deep = "too many" in str(error.msg) or "too deeply" in str(error.msg)
        detail = f"{type(error).__name__}: {error.msg} (line {error.lineno})"
        raise CompileFailure(_FAILED if deep else _BAD_SYNTAX, detail) from None
    except MemoryError:
        # The parser says this of nesting beyond its own stack, too, and then little memory has been used.
        deep = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 < memory_bytes // 2
        raise CompileFailure(_FAILED if deep else _MEMORY, "MemoryError while compiling") from None
    except RecursionError as error:
        raise CompileFailure(_FAILED, f"RecursionError: {error}") from None
    except (ValueError, OverflowError) as error:
        raise CompileFailure(_BAD_SYNTAX, f"{type(error).__name__}: {error}") from None


@contextlib.contextmanager
def without_fork_hooks() -> Iterator[None]:
    """Modules imported inside do not get to run code in each child.

    `random` would take a new seed there, `threading` would walk its lists, of which a process without threads has no
    need: together they cost more than the fork.
    """
    register = os.register_at_fork

    def ignore(**hooks: Callable[[], object] | None) -> None:
        pass

    os.register_at_fork = ignore  # type: ignore[assignment]
    try:
        yield
    finally:
        os.register_at_fork = register


def preload(code: types.CodeType) -> None:
    """Imports what the program will: once for all its runs, and while files can still be opened.

    Names that only look like modules cost little.
    """
    found: set[str] = set()
    stack = [code]
    while stack:
        block = stack.pop()
        found.update(PRELOADABLE.intersection(block.co_names))
        stack.extend(constant for constant in block.co_consts if isinstance(constant, types.CodeType))
    with without_fork_hooks():
        for name in sorted(found):
            # A module that this interpreter was built without fails again, and visibly, in the program.
            with contextlib.suppress(ImportError):
                __import__(name)
