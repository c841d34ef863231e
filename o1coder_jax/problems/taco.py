"""Problems from TACO and APPS rows, with the corners that real rows have.

A row is an object with `question`, `input_output` (an object `{"inputs": [...], "outputs": [...], "fn_name"?}`, or
that as JSON text), `solutions` (a list of programs, or that as JSON text), and perhaps `starter_code`,
`difficulty`, `name`, `url`. With a `fn_name` the problem has the call form, otherwise the stdin form.

What is mended here: CRLF; a missing final newline on stdin; stdin and outputs given as lists of lines; blanks
around `fn_name`; a single argument that is not in a list; a statement that does not name its function; repeated
tests and solutions. What is left to the gold filter (`train/gold.py`), which can run programs: wrong tests, and
whether an expected value is wrapped in a list of one.

Rows that cannot become problems come back as `Rejected`, never dropped in silence; single tests that cannot be
used are dropped and counted in `meta["unusable_tests"]`.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from o1coder_jax.errors import UserError
from o1coder_jax.problems.rows import HugeInteger, Row, parse_json, read_rows
from o1coder_jax.problems.selection import Rejected
from o1coder_jax.records import Form, Problem, TestCase, content_hash

MAX_DEPTH = 100  # of nested lists in arguments and values; what is deeper cannot be written as JSON everywhere
_META_FIELDS = ("name", "url", "source", "tags", "skill_types", "time_limit", "memory_limit")


class _Unusable(Exception):
    """Why a row cannot become a problem, or a pair cannot become a test."""


def load(path: str | os.PathLike[str]) -> tuple[list[Problem], list[Rejected]]:
    """Reads a JSON or JSONL file, an APPS problem folder, or a folder of either.

    Raises:
      UserError: a missing, empty or broken file, or a row that is not an object with a `question`.
    """
    problems, rejected = [], []
    for row in read_rows(Path(path)):
        try:
            problems.append(_problem(row))
        except _Unusable as error:
            rejected.append(Rejected(row.id, row.where, str(error)))
    return problems, rejected


def problem_of(row: Row) -> Problem:
    """The problem of one row; `UserError` says what is wrong with it."""
    try:
        return _problem(row)
    except _Unusable as error:
        raise UserError(f"{row.where}: {error}; mend or remove the row") from error


def _problem(row: Row) -> Problem:
    values = row.values
    statement = _clean_text(values["question"]).strip()
    if not statement:
        raise _Unusable("empty statement")
    pairs = _input_output(values.get("input_output"))
    fn_name = _function_name(pairs.get("fn_name"))
    tests, unusable, repeated = _tests(pairs, fn_name)
    solutions = _solutions(values.get("solutions"))
    if fn_name is not None:
        statement = _name_function(statement, fn_name, values.get("starter_code"), tests[0])
    meta: dict[str, Any] = {"where": row.where}
    meta |= {name: values[name] for name in _META_FIELDS if values.get(name) and not _defect(values[name])}
    meta |= {"repeated_tests": repeated} if repeated else {}
    meta |= {"unusable_tests": unusable} if unusable else {}
    return Problem(
        id=row.id,
        statement=statement,
        form=Form.STDIN if fn_name is None else Form.CALL,
        tests=tests,
        solutions=solutions,
        fn_name=fn_name,
        difficulty=str(values.get("difficulty") or ""),
        source=row.source,
        meta=meta,
    )


def _embedded(value: Any, name: str) -> Any:
    """A field that may be JSON text; blank text counts as absent."""
    if not isinstance(value, str):
        return value
    if not value.strip():
        return None
    try:
        return parse_json(value)
    except ValueError as error:
        raise _Unusable(f"{name}: not JSON ({error})") from error


def _input_output(field: Any) -> dict[str, Any]:
    pairs = _embedded(field, "input_output")
    if pairs is None or pairs == {}:
        raise _Unusable("no tests")
    if not isinstance(pairs, dict):
        raise _Unusable(f"input_output: not an object but a {type(pairs).__name__}")
    return pairs


def _function_name(field: Any) -> str | None:
    if field is None or field == "":
        return None
    name = field.strip() if isinstance(field, str) else ""
    if not name.isidentifier():
        raise _Unusable(f"fn_name: {field!r:.60} is not the name of a function")
    return name


def _tests(pairs: dict[str, Any], fn_name: str | None) -> tuple[tuple[TestCase, ...], list[str], int]:
    """Returns the tests, the reasons for those that cannot be used, and the number of repeated ones."""
    inputs, outputs = pairs.get("inputs"), pairs.get("outputs")
    if not inputs and not outputs:
        raise _Unusable("no tests")
    if not isinstance(inputs, list) or not isinstance(outputs, list):
        raise _Unusable("inputs and outputs are not both lists")
    if len(inputs) != len(outputs):
        raise _Unusable(f"{len(inputs)} inputs but {len(outputs)} outputs")
    tests: dict[str, TestCase] = {}
    unusable = []
    for number, (given, expected) in enumerate(zip(inputs, outputs, strict=True), 1):
        try:
            test = _stdin_test(given, expected) if fn_name is None else _call_test(given, expected)
            tests.setdefault(content_hash(test.input, test.output), test)
        except _Unusable as error:
            unusable.append(f"test {number}: {error}")
    if not tests:
        raise _Unusable(f"no usable tests ({unusable[0]})")
    return tuple(tests.values()), unusable, len(inputs) - len(unusable) - len(tests)


def _stdin_test(given: Any, expected: Any) -> TestCase:
    text = _lines(given, "input")
    # Many data sets strip the last newline, which some programs need.
    return TestCase(text if text.endswith("\n") else text + "\n", _lines(expected, "output"))


def _lines(value: Any, what: str) -> str:
    """Text as it is; a list of lines joined; a bare number as text."""
    items = value if isinstance(value, list) else [value]
    if any(isinstance(item, bool) or not isinstance(item, str | int | float) for item in items):
        raise _Unusable(f"{what} is neither text nor a list of lines")
    _refuse_defects(value, what)
    lines = [_with_newlines(str(item)) for item in items]
    return "\n".join(line.removesuffix("\n") for line in lines) if isinstance(value, list) else lines[0]


def _call_test(given: Any, expected: Any) -> TestCase:
    if given is None:
        raise _Unusable("input is null, not a list of arguments")
    _refuse_defects(given, "input")
    _refuse_defects(expected, "output")
    return TestCase(given if isinstance(given, list) else [given], expected)


def _refuse_defects(value: Any, what: str) -> None:
    if defect := _defect(value):
        raise _Unusable(f"{what} holds {defect}")


def _defect(value: Any) -> str | None:
    """What in a JSON value cannot be stored or compared. No recursion: rows may be nested deeply."""
    stack = [(value, 0)]
    while stack:
        item, depth = stack.pop()
        if depth > MAX_DEPTH:
            return f"more than {MAX_DEPTH} levels of lists"
        if isinstance(item, dict):
            stack += [(part, depth + 1) for pair in item.items() for part in pair]
        elif isinstance(item, list):
            stack += [(part, depth + 1) for part in item]
        elif isinstance(item, HugeInteger):
            return f"an integer of {item.digits} digits"
        elif isinstance(item, float) and math.isnan(item):
            return "NaN, which equals nothing"
        elif isinstance(item, str) and _clean_surrogates(item) != item:
            return "half a surrogate pair, which is not text"
    return None


def _solutions(field: Any) -> tuple[str, ...]:
    programs = _embedded(field, "solutions")
    if programs is not None and not isinstance(programs, list):
        raise _Unusable(f"solutions: not a list but a {type(programs).__name__}")
    texts = [_clean_text(program) for program in programs or () if isinstance(program, str) and program.strip()]
    if not texts:
        raise _Unusable("no reference solution")
    return tuple(dict.fromkeys(texts))


def _name_function(statement: str, fn_name: str, starter_code: Any, test: TestCase) -> str:
    """The statement, with the function's head appended if it does not name the function."""
    if _names(statement, fn_name):
        return statement
    starter = _clean_text(starter_code).strip() if isinstance(starter_code, str) else ""
    if _names(starter, fn_name):
        return f"{statement}\n\n{starter}"
    arguments: Sequence[Any] = test.input
    count = f"{len(arguments)} argument" + ("s" if len(arguments) != 1 else "")
    return f"{statement}\n\nWrite the function `{fn_name}`; it takes {count}."


def _names(text: str, fn_name: str) -> bool:
    return re.search(rf"(?<!\w){re.escape(fn_name)}(?!\w)", text) is not None


def _clean_text(text: str) -> str:
    return _with_newlines(_clean_surrogates(text))


def _clean_surrogates(text: str) -> str:
    return text if text.isascii() else text.encode("utf-8", "replace").decode("utf-8")


def _with_newlines(text: str) -> str:
    return text.replace("\r\n", "\n").replace("\r", "\n")
