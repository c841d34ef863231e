"""The audit: each leniency of the published comparison by hand, and the command on a file."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from o1coder_jax.errors import run_command
from sandbox import audit, differences, published

# Expected, printed, and why it is taken although it is not the same.
LENIENT_TEXTS = [
    ("5", "55", "a set of characters"),
    ("1 2", "2211", "a set of characters"),
    ("Y E S N O", "YESNO", "cut into words otherwise"),
    ("1\n2\n3", "3 1 2", "reordered"),
    ("1\n1\n2", "1\n2", "a set of words"),
    ("7\n7", "7", "a prefix"),
    ("1\n2\n", "12", "cut into words otherwise"),
    ("5.0004", "5", "rounded"),
    ("3.00001\n4", "34", "rounded"),  # characters against lines
]
STRICT_TEXTS = [
    ("0.500000", "0.5"),
    ("1 2\n3 4", "3 4\n1 2"),
    ("12 34", "34 12"),
    ("1 2 3", "1 2"),
    ("a  b", "a b"),
    ("ab\ncd", "ab \ncd"),
    ("nan\n1", "1"),
    ("", "0"),
    ("10", "1_0"),
]
LENIENT_VALUES = [
    ([5], 5, "wrapped in a list"),
    ([5], 5.0, "wrapped in a list, another type"),
    ([1, 2], 1, "the first of a list"),
    (1, True, "another type"),
    ([1.0, 2], [1, 2], "another type"),
    ([{"1": 2}, {"1": 3}], [{"1": 2}], "the first of several objects"),
    ({"1": 2}, [{"1": 2}], "an object in a list"),
]
STRICT_VALUES = [([1, 2], [1]), (0.3, 0.1 + 0.2), ([1, 2], [2, 1]), ([], 0), ("ab", "a"), (float("nan"), float("nan"))]


@pytest.mark.parametrize(("expected", "actual", "reason"), LENIENT_TEXTS)
def test_what_is_taken_of_texts(expected: str, actual: str, reason: str) -> None:
    assert published.accepts_text(expected, actual)
    assert differences.why_only_published({}, expected, actual, call_form=False) == reason


@pytest.mark.parametrize(("expected", "actual"), STRICT_TEXTS)
def test_what_is_not_taken_of_texts(expected: str, actual: str) -> None:
    assert not published.accepts_text(expected, actual)
    assert published.accepts_text(expected, f" {expected}\n\n")


@pytest.mark.parametrize(("expected", "actual", "reason"), LENIENT_VALUES)
def test_what_is_taken_of_values(expected: Any, actual: Any, reason: str) -> None:
    assert published.accepts_value(expected, actual)
    assert differences.why_only_published({}, expected, actual, call_form=True) == reason


@pytest.mark.parametrize(("expected", "actual"), STRICT_VALUES)
def test_what_is_not_taken_of_values(expected: Any, actual: Any) -> None:
    assert not published.accepts_value(expected, actual)


def test_objects_after_the_first_make_a_right_value_wrong() -> None:
    value = [{"1": 2}, {"1": 3}]
    assert not published.accepts_value(value, value)
    assert differences.why_only_ours({}, value, value, call_form=True) == "objects after the first"
    assert published.accepts_value([{"a": 2}, {"a": 3}], [{"a": 2}, {"a": 3}])


def script(name: str, printed: str, expected: str | None, **compare: Any) -> dict[str, Any]:
    tests = [{"input": "", "output": expected}]
    return {"id": name, "code": f"print({printed!r})", "tests": tests, "compare": compare}


def function(name: str, returned: str, *expected: Any, **compare: Any) -> dict[str, Any]:
    tests = [{"input": [], "output": value} for value in expected]
    return {"id": name, "code": f"def f(): return {returned}", "fn_name": "f", "tests": tests, "compare": compare}


CHECKER = "def check(input, output, expected): return output.strip() == 'b'"
ROWS: list[Any] = [
    script("same", "1 2", "1 2\n"),
    script("characters", "55", "5"),
    script("tolerance", "0.5", "0.500000", mode="float"),
    script("any order", "12 1\n34 2", "34 2\n12 1", mode="unordered_lines"),
    script("case", "yes", "YES", case=False),
    script("white space", "1  2", "1 2"),
    script("checker takes", "b", "a", mode="checker", checker=CHECKER),
    script("checker rejects", "a", "a", mode="checker", checker=CHECKER),
    script("checker alone", "b", None, mode="checker", checker=CHECKER),
    script("no checker", "b", "b", mode="checker", checker="("),
    script("exact", "a", "a", mode="exact"),
    script("wrong", "1", "2"),
    {**script("raises", "1", "1"), "code": "print(1); raise ValueError"},
    {**script("no syntax", "1", "1"), "code": "("},
    function("wrapped", "5", [5], 5, 6),
    function("order", "[2, 1]", [1, 2], ordered=False),
    function("none", "None", [None], None),
    {"id": "asserts", "code": "", "asserts": ["assert True"]},
    "junk",
]
# Test of each submission on which the two differ: who accepts, and why.
DIFFERENCES = {
    ("characters", 0): (True, "a set of characters"),
    ("tolerance", 0): (False, "within the tolerance"),
    ("any order", 0): (False, "any order"),
    ("case", 0): (False, "case"),
    ("white space", 0): (False, "white space"),
    ("checker takes", 0): (False, "taken by the checker"),
    ("checker rejects", 0): (True, "rejected by the checker"),
    ("checker alone", 0): (False, "taken by the checker"),
    ("exact", 0): (True, "white space"),
    ("wrapped", 0): (True, "wrapped in a list"),
    ("order", 0): (False, "any order"),
    ("none", 0): (True, "wrapped in a list"),
}


def run_audit(monkeypatch: pytest.MonkeyPatch, folder: Path, *output: str) -> int:
    source = folder / "submissions.jsonl"
    source.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in ROWS))
    command = ["audit", str(source), *output, "--isolation", "trusted", "--workers", "1"]
    monkeypatch.setattr(sys, "argv", command)
    with pytest.raises(SystemExit) as left:
        run_command(audit.main)
    return int(str(left.value.code))


def test_differences_as_json_lines(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    target = tmp_path / "differences.jsonl"
    assert run_audit(monkeypatch, tmp_path, "-o", str(target)) == 2
    rows = [json.loads(line) for line in target.read_text().splitlines()]
    assert {(row["id"], row["test"]): (row["published"], row["reason"]) for row in rows} == DIFFERENCES
    assert rows[0] == {
        "id": "characters",
        "test": 0,
        "ours": "wrong_answer",
        "published": True,
        "reason": "a set of characters",
        "expected": '"5"',
        "actual": '"55\\n"',
    }
    out, err = capsys.readouterr()
    table = {line[:32].strip(): line[32:].split(None, 2) for line in out.splitlines()}
    assert table["both accept"][:2] == ["3", "1"]
    assert table["only ours accepts"] == [
        "7",
        "7",
        "any order 2, taken by the checker 2, within the tolerance 1, case 1, white space 1",
    ]
    assert table["only the published one accepts"][:2] == ["5", "4"]
    assert table["neither accepts"][:2] == ["4", "4"]
    assert table["could not be checked"][:2] == ["1", "1"]
    assert table["all"] == ["20", "17"]
    assert [line.partition("line ")[2][:4] for line in err.splitlines()[1:]] == ["18: ", "19: "]


def test_differences_as_text(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_audit(monkeypatch, tmp_path) == 2
    lines = capsys.readouterr().out.splitlines()
    first = 'characters, test 0: only the published one accepts (a set of characters): expected "5", got "55\\n"'
    assert lines[0] == first
    assert sum(", test " in line for line in lines) == len(DIFFERENCES)


def test_a_difference_is_one_line_of_ascii() -> None:
    assert (
        audit.Difference("\ud800\né", 0, "accepted", False, "case", "1", "2")
        .line()
        .startswith(r"\ud800\n\u00e9, test 0")
    )


def test_json_lines_on_standard_output_stand_alone() -> None:
    command = [sys.executable, "-m", "sandbox.audit", "-", "-o", "-", "--isolation", "trusted"]
    line = json.dumps(script("characters", "55", "5")) + "\n"
    done = subprocess.run(command, input=line, capture_output=True, text=True, timeout=60)
    assert (done.returncode, json.loads(done.stdout)["id"]) == (0, "characters")
    assert "only the published one accepts" in done.stderr
