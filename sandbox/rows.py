"""Submissions and verdicts as JSON lines."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

from o1coder_jax.errors import UserError
from o1coder_jax.records import Judgement, TestCase
from sandbox.compare import parse
from sandbox.limits import Limits
from sandbox.submission import Submission

_REQUIRED = ("id", "code")
_PAIR = {"input", "output"}
_TYPES: dict[str, tuple[type, ...]] = {
    "id": (str,),
    "code": (str,),
    "tests": (list, type(None)),
    "asserts": (list, type(None)),
    "fn_name": (str, type(None)),
    "setup": (str, type(None)),
    "compare": (dict, type(None)),
    "limits": (dict, type(None)),
}


def parse_line(line: bytes) -> Any:
    """The JSON value of a line; `UserError` for anything else, NaN and keys given twice included."""
    try:
        return parse(line.decode("utf-8"), _constant)
    except UnicodeDecodeError as error:
        raise UserError(f"not UTF-8 (byte {error.start}: {error.reason}); mend or remove the line") from error
    except ValueError as error:
        raise UserError(f"not JSON ({error}); mend or remove the line") from error


def _constant(name: str) -> float:
    if name == "NaN":
        raise ValueError("NaN equals nothing, itself included")
    return float(name)


def parse_submission(row: Any, limits: Limits) -> Submission:
    """A submission from its JSON value; `UserError` says what is wrong with it.

    Limits that it asks for itself may be lower than `limits`, not higher.
    """
    if not isinstance(row, dict):
        raise UserError("not a JSON object; give id, code and tests")
    for name in _REQUIRED:
        if name not in row:
            raise UserError(f"the field {name!r} is missing; add it")
    unknown = sorted(set(row) - set(_TYPES))
    if unknown:
        raise UserError(f"the field {unknown[0]!r} is unknown; remove it")
    for name, kinds in _TYPES.items():
        if name in row and not isinstance(row[name], kinds):
            raise UserError(f"the field {name!r} is of the wrong type ({type(row[name]).__name__}); mend it")
    tests, asserts = row.get("tests") or [], row.get("asserts") or []
    if not tests and not asserts:
        raise UserError("there are neither tests nor asserts, so nothing can be said of it; give at least one")
    if not all(isinstance(test, dict) and set(test) == _PAIR for test in tests):
        raise UserError('"tests" is not a list of objects with input and output; mend it')
    if not all(isinstance(text, str) for text in asserts):
        raise UserError('"asserts" is not a list of texts; mend it')
    if row.get("fn_name") == "":
        raise UserError('"fn_name" is empty; give the function\'s name, or null for the stdin form')
    return Submission(
        id=row["id"],
        code=row["code"],
        tests=tuple(TestCase(test["input"], test["output"]) for test in tests),
        fn_name=row.get("fn_name"),
        asserts=tuple(asserts),
        setup=row.get("setup") or "",
        compare=row.get("compare") or {},
        limits=_parse_limits(row.get("limits") or {}, limits),
    )


def _parse_limits(row: dict[str, Any], limits: Limits) -> Limits:
    names = [field.name for field in dataclasses.fields(Limits)]
    if not set(row) <= set(names):
        raise UserError(f'"limits" may hold {", ".join(names)} and nothing else; mend it')
    lowered = dataclasses.replace(limits, **row)
    for name in row:
        if getattr(lowered, name) > getattr(limits, name):
            flag = "--" + name.replace("_", "-")
            most = getattr(limits, name)
            raise UserError(f"the limit {name} is {row[name]}, above the command's own {most}; raise {flag}")
    return lowered


def verdict_row(submission: Submission, judgement: Judgement) -> dict[str, Any]:
    """The JSON value of a verdict line."""
    return {
        "id": submission.id,
        "verdict": str(judgement.verdict),
        "compiled": judgement.compiled,
        "passed": judgement.passed,
        "total": judgement.total,
        "pass_rate": judgement.pass_rate,
        "tests": [{**dataclasses.asdict(test), "verdict": str(test.verdict)} for test in judgement.tests],
    }


def to_bytes(row: Any) -> bytes:
    """One JSON line in ASCII: programs can put into a detail what is no valid text in any encoding."""
    return (json.dumps(row) + "\n").encode("ascii")
