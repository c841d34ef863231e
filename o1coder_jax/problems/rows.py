"""Reads data-set rows from JSON files, JSONL files and APPS problem folders, each with its place.

Only the reading: what a row means is said in `taco.py`. Differences from plain `json.load`:

* an integer past Python's limit for text (4,300 digits) becomes a `HugeInteger` instead of failing the file;
* `NaN` and `Infinity` are read as floats, as Python writes them;
* every row knows its file and its number, so that an error can name the place.
"""

from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from o1coder_jax.errors import UserError

MAX_INTEGER_DIGITS = sys.int_info.default_max_str_digits
LINE_SUFFIXES = (".jsonl", ".ndjson")
FILE_SUFFIXES = (".json", *LINE_SUFFIXES)
APPS_QUESTION = "question.txt"


@dataclasses.dataclass(frozen=True, slots=True)
class HugeInteger:
    """Stands for an integer that Python refuses to read from text; `digits` is its length."""

    digits: int


@dataclasses.dataclass(frozen=True, slots=True)
class Row:
    """One row and its place.

    Attributes:
      values: the row's fields.
      id: unique within the path that was read.
      where: the place in words (`train.json, row 8`); it names no folder, so that records do not depend on one.
      source: the place in short, for provenance (`taco:train.json#8`).
    """

    values: dict[str, Any]
    id: str
    where: str
    source: str


def parse_json(text: str) -> Any:
    """Parses JSON, oversized integers included; raises `ValueError` for text that is not JSON or is too deep."""
    try:
        return json.loads(text, parse_int=_integer)
    except RecursionError as error:
        raise ValueError("nested too deeply") from error


def _integer(text: str) -> int | HugeInteger:
    digits = len(text.lstrip("-"))
    return int(text) if digits <= MAX_INTEGER_DIGITS else HugeInteger(digits)


def read_rows(path: str | Path) -> Iterator[Row]:
    """Yields the rows of a JSON or JSONL file, an APPS problem folder, or a folder of either, in order of name.

    Raises:
      UserError: nothing there, nothing in it, not JSON, or a row that is not an object with a `question`.
    """
    path = Path(path)
    if path.is_dir():
        yield from _folder_rows(path)
    else:
        yield from _file_rows(path)


def _folder_rows(folder: Path) -> Iterator[Row]:
    if (folder / APPS_QUESTION).is_file():
        yield _apps_row(folder)
        return
    entries = sorted(folder.iterdir())
    problems = [entry for entry in entries if (entry / APPS_QUESTION).is_file()]
    files = [entry for entry in entries if entry.is_file() and entry.suffix in FILE_SUFFIXES]
    if not problems and not files:
        raise UserError(
            f"{folder}: holds no .json or .jsonl file and no APPS problem folder (one with a {APPS_QUESTION}); "
            "give the path of the file or folder that holds the problems"
        )
    for problem in problems:
        yield _apps_row(problem)
    for file in files:
        yield from _file_rows(file)


def _apps_row(folder: Path) -> Row:
    """An APPS problem folder as a row. The fields stay JSON text, as in the APPS rows of one file."""

    def text(name: str) -> str | None:
        return _read_text(folder / name) if (folder / name).is_file() else None

    metadata_text = text("metadata.json") or "{}"
    try:
        metadata = parse_json(metadata_text)
    except ValueError as error:
        raise UserError(f"{folder / 'metadata.json'}: not JSON ({error}); mend or remove the file") from error
    if not isinstance(metadata, dict):
        raise UserError(f"{folder / 'metadata.json'}: not a JSON object; mend or remove the file")
    values = {
        **metadata,
        "question": text(APPS_QUESTION),
        "input_output": text("input_output.json"),
        "solutions": text("solutions.json"),
        "starter_code": text("starter_code.py"),
    }
    return Row(values, id=folder.name, where=folder.name, source=f"apps:{folder.name}")


def _file_rows(file: Path) -> Iterator[Row]:
    text = _read_text(file)
    if not text.strip():
        raise UserError(f"{file}: empty; give a file with at least one problem")
    rows = _line_values(file, text) if _is_lines(file, text) else _document_values(file, text)
    count = 0
    for index, (place, value) in enumerate(rows):
        values = _checked(value, f"{file}, {place}")
        yield Row(values, f"{file.name}#{index}", f"{file.name}, {place}", f"taco:{file.name}#{index}")
        count += 1
    if not count:
        raise UserError(f"{file}: holds no rows; give a file with at least one problem")


def _is_lines(file: Path, text: str) -> bool:
    """True for JSONL. Data sets also ship it as `.json`: then the first line is an object of its own."""
    if file.suffix in LINE_SUFFIXES:
        return True
    first_line, _, rest = text.lstrip().partition("\n")
    if not first_line.startswith("{") or not rest.strip():
        return False
    try:
        parse_json(first_line)
    except ValueError:
        return False
    return True


def _line_values(file: Path, text: str) -> Iterator[tuple[str, Any]]:
    # Not str.splitlines: JSON strings may hold raw U+2028 and the like, which it takes for line ends.
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        try:
            yield f"line {number}", parse_json(line)
        except ValueError as error:
            raise UserError(f"{file}, line {number}: not JSON ({error}); mend or remove the line") from error


def _document_values(file: Path, text: str) -> Iterator[tuple[str, Any]]:
    try:
        document = parse_json(text)
    except ValueError as error:
        raise UserError(f"{file}: not JSON ({error}); mend the file, or name it .jsonl if it is lines") from error
    for index, value in enumerate(document if isinstance(document, list) else [document]):
        yield f"row {index}", value


def _checked(value: Any, where: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise UserError(f"{where}: not a JSON object but a {type(value).__name__}; mend or remove the row")
    if not isinstance(value.get("question"), str):
        raise UserError(f"{where}: no `question` text; each row needs one (fields: {', '.join(value) or 'none'})")
    return value


def _read_text(file: Path) -> str:
    """The file's text; a byte order mark is dropped."""
    try:
        # newline="": JSON lines end in \n, and a lone \r inside a value is the loader's business.
        with file.open(encoding="utf-8-sig", newline="") as stream:
            return stream.read()
    except UnicodeDecodeError as error:
        raise UserError(f"{file}: not UTF-8 text ({error.reason} at byte {error.start}); convert it") from error
    except OSError as error:
        raise UserError(f"cannot read {file}: {error.strerror}; give the path of a problem file or folder") from error
