"""Judges a file of programs.

    python -m sandbox.judge SUBMISSIONS.jsonl -o VERDICTS.jsonl      (`-` for standard input or output)

A submission is one JSON line: {"id", "code", "tests": [{"input", "output"}, ...]} (or "asserts": [TEXT, ...] in place
of "tests") and, where wanted, "fn_name", "setup", "compare" and "limits" ({"cpu_seconds", "wall_seconds", "memory_mb",
"output_mb"}, any of them). Verdicts come in the same order:
 {"id", "verdict", "compiled", "passed", "total", "pass_rate", "tests": [{"verdict", ...}, ...]}.
A line that is no submission is reported on stderr with its number, gets no verdict, and the rest goes on; the command
then leaves with status 2.
"""

from __future__ import annotations

import argparse
import collections
import concurrent.futures
import contextlib
import dataclasses
import json
import sys
from collections.abc import Iterable, Iterator
from typing import Any

from o1coder_jax.errors import USER_ERROR_EXIT_STATUS, UserError, run_command
from o1coder_jax.records import Judgement, TestCase, to_line, write_jsonl
from sandbox.limits import Limits
from sandbox.pool import Pool, SandboxConfig, Submission

_WINDOW = 256  # submissions under way at once, so that a file of any length can be judged
_REQUIRED = ("id", "code")
_PAIR = {"input", "output"}
_TYPES: dict[str, tuple[type, ...]] = {
    "id": (str,),
    "code": (str,),
    "fn_name": (str, type(None)),
    "setup": (str, type(None)),
    "compare": (dict, type(None)),
}
_OPTIONAL = ("tests", "asserts", "setup", "fn_name", "compare", "limits")


def parse_submission(row: Any, limits: Limits) -> Submission:
    """A submission from its JSON value; `UserError` says what is wrong with it."""
    if not isinstance(row, dict):
        raise UserError("not a JSON object; give id, code and tests")
    for name in _REQUIRED:
        if name not in row:
            raise UserError(f"the field {name!r} is missing; add it")
    unknown = sorted(set(row) - {*_REQUIRED, *_OPTIONAL})
    if unknown:
        raise UserError(f"the field {unknown[0]!r} is unknown; remove it")
    tests, asserts = row.get("tests") or [], row.get("asserts") or []
    if not tests and not asserts:
        raise UserError("there are neither tests nor asserts, so nothing can be said of it; give at least one")
    if not isinstance(tests, list) or not all(isinstance(test, dict) and set(test) >= _PAIR for test in tests):
        raise UserError('"tests" is not a list of objects with input and output; mend it')
    if not isinstance(asserts, list) or not all(isinstance(text, str) for text in asserts):
        raise UserError('"asserts" is not a list of texts; mend it')
    for name, kind in _TYPES.items():
        if name in row and not isinstance(row[name], kind):
            raise UserError(f"the field {name!r} is of the wrong type ({type(row[name]).__name__}); mend it")
    return Submission(
        id=row["id"],
        code=row["code"],
        tests=tuple(TestCase(test["input"], test["output"]) for test in tests),
        fn_name=row.get("fn_name"),
        asserts=tuple(asserts),
        setup=row.get("setup") or "",
        compare=row.get("compare") or {},
        limits=_parse_limits(row.get("limits"), limits),
    )


def _parse_limits(row: Any, limits: Limits) -> Limits:
    if row is None:
        return limits
    names = [field.name for field in dataclasses.fields(Limits)]
    if not isinstance(row, dict) or not set(row) <= set(names):
        raise UserError(f'"limits" may hold {", ".join(names)} and nothing else; mend it')
    return dataclasses.replace(limits, **row)


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


class Reading:
    """Submissions from lines; counts the lines that are none and reports each."""

    def __init__(self, name: str, lines: Iterable[str], pool: Pool):
        self._name, self._lines, self._pool = name, lines, pool
        self.invalid = 0

    def judged(self) -> Iterator[dict[str, Any]]:
        """Verdict lines in the order of the submissions, with a bounded number of these under way."""
        window: collections.deque[tuple[Submission, concurrent.futures.Future[Judgement]]] = collections.deque()
        for number, line in enumerate(self._lines, 1):
            if not line.strip():
                continue
            try:
                submission = parse_submission(_parse_line(line), self._pool.config.limits)
                window.append((submission, self._pool.submit(submission)))
            except UserError as error:
                self.invalid += 1
                print(f"error: {self._name}, line {number}: {error}", file=sys.stderr)
            if len(window) >= _WINDOW:
                yield _finished(*window.popleft())
        while window:
            yield _finished(*window.popleft())


def _finished(submission: Submission, future: concurrent.futures.Future[Judgement]) -> dict[str, Any]:
    return verdict_row(submission, future.result())


def _parse_line(line: str) -> Any:
    try:
        return json.loads(line)
    except (ValueError, RecursionError) as error:
        raise UserError(f"not JSON ({error}); mend or remove the line") from error


@contextlib.contextmanager
def _opened(path: str) -> Iterator[Iterable[str]]:
    if path == "-":
        yield sys.stdin
        return
    try:
        file = open(path, encoding="utf-8")
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}; give the path of a JSONL file") from error
    with file:
        yield file


def _arguments() -> argparse.Namespace:
    default = SandboxConfig()
    parser = argparse.ArgumentParser(
        prog="python -m sandbox.judge", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("submissions", help="a JSONL file, or - for standard input")
    parser.add_argument("-o", "--output", default="-", help="where verdicts go; - (the default) is standard output")
    parser.add_argument("--workers", type=int, default=default.workers)
    parser.add_argument("--isolation", default=default.isolation, choices=("auto", "full", "reduced", "trusted"))
    for field in dataclasses.fields(Limits):
        flag = "--" + field.name.replace("_", "-")
        kind = int if isinstance(field.default, int) else float
        parser.add_argument(flag, type=kind, default=field.default, help=f"limit of one test ({field.default})")
    return parser.parse_args()


def main() -> int:
    """The command; status 2 when a line was no submission."""
    arguments = _arguments()
    limits = {field.name: getattr(arguments, field.name) for field in dataclasses.fields(Limits)}
    config = SandboxConfig(workers=arguments.workers, isolation=arguments.isolation, **limits)
    with _opened(arguments.submissions) as lines, Pool(config) as pool:
        print(f"sandbox isolation: {pool.isolation}", file=sys.stderr)
        reading = Reading(arguments.submissions, lines, pool)
        if arguments.output == "-":
            for row in reading.judged():
                sys.stdout.write(to_line(row))
        else:
            write_jsonl(arguments.output, reading.judged())
        if pool.infra_errors:
            print(f"{pool.infra_errors} submissions could not be checked (infra_error)", file=sys.stderr)
    return USER_ERROR_EXIT_STATUS if reading.invalid else 0


if __name__ == "__main__":
    run_command(main)
