"""Reading rows: files, lines, folders, and what is said when they are broken."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from o1coder_jax.errors import UserError
from o1coder_jax.problems import taco
from o1coder_jax.problems.rows import HugeInteger, parse_json, read_rows

ROW = {
    "question": "Print twice the number.",
    "input_output": {"inputs": ["1\n"], "outputs": ["2\n"]},
    "solutions": ["print(2 * int(input()))"],
}


def save(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


def apps_folder(path: Path, **files: str) -> Path:
    path.mkdir()
    names = {"question": "question.txt", "starter_code": "starter_code.py"}
    for name, text in files.items():
        save(path / names.get(name, f"{name}.json"), text)
    return path


def test_json_list(tmp_path: Path) -> None:
    rows = list(read_rows(save(tmp_path / "a.json", json.dumps([ROW, ROW]))))
    assert [row.id for row in rows] == ["a.json#0", "a.json#1"]
    assert [row.source for row in rows] == ["taco:a.json#0", "taco:a.json#1"]


def test_jsonl_ids_count_rows_and_places_count_lines(tmp_path: Path) -> None:
    path = save(tmp_path / "a.jsonl", f"{json.dumps(ROW)}\n\n{json.dumps(ROW)}\n")
    rows = list(read_rows(path))
    assert [row.id for row in rows] == ["a.jsonl#0", "a.jsonl#1"]
    assert rows[1].where == "a.jsonl, line 3"


def test_lines_in_a_file_named_json(tmp_path: Path) -> None:
    assert len(list(read_rows(save(tmp_path / "a.json", f"{json.dumps(ROW)}\n{json.dumps(ROW)}\n")))) == 2


@pytest.mark.parametrize("indent", [None, 2])
def test_one_object_in_a_json_file(tmp_path: Path, indent: int | None) -> None:
    assert len(list(read_rows(save(tmp_path / "a.json", json.dumps(ROW, indent=indent))))) == 1


def test_byte_order_mark(tmp_path: Path) -> None:
    assert len(list(read_rows(save(tmp_path / "a.json", "\ufeff" + json.dumps([ROW]))))) == 1


def test_line_separator_inside_a_json_line(tmp_path: Path) -> None:
    row = ROW | {"question": "before\u2028after"}
    rows = list(read_rows(save(tmp_path / "a.jsonl", json.dumps(row, ensure_ascii=False) + "\n")))
    assert rows[0].values["question"] == "before\u2028after"


def test_infinity_and_nan_are_floats() -> None:
    low, nan = parse_json("[-Infinity, NaN]")
    assert low == -math.inf and math.isnan(nan)


def test_oversized_integer_does_not_fail_the_file() -> None:
    assert parse_json("[1, -" + "9" * 5000 + "]") == [1, HugeInteger(5000)]


def test_largest_readable_integer_is_read() -> None:
    assert parse_json("9" * 4300) == 10**4300 - 1


def test_apps_problem_folder(tmp_path: Path) -> None:
    folder = apps_folder(
        tmp_path / "0007",
        question="Return twice n.",
        input_output='{"fn_name": "twice", "inputs": [[3]], "outputs": [6]}',
        solutions='["class Solution:\\n    def twice(self, n):\\n        return 2 * n"]',
        metadata='{"difficulty": "introductory", "url": "https://example.org/7"}',
        starter_code="class Solution:\n    def twice(self, n: int) -> int:\n        ",
    )
    problems, rejected = taco.load(folder)
    assert not rejected
    assert (problems[0].id, problems[0].difficulty, problems[0].fn_name) == ("0007", "introductory", "twice")
    assert problems[0].source == "apps:0007"
    assert problems[0].meta["url"] == "https://example.org/7"


def test_folder_of_apps_problems_in_order(tmp_path: Path) -> None:
    for name in ("0002", "0001"):
        apps_folder(
            tmp_path / name, question="Q", input_output='{"inputs": ["1"], "outputs": ["2"]}', solutions='["x"]'
        )
    assert [problem.id for problem in taco.load(tmp_path)[0]] == ["0001", "0002"]


def test_apps_problem_without_solutions_is_set_aside(tmp_path: Path) -> None:
    apps_folder(tmp_path / "0001", question="Q", input_output='{"inputs": ["1"], "outputs": ["2"]}')
    problems, rejected = taco.load(tmp_path)
    assert not problems
    assert (rejected[0].id, rejected[0].reason) == ("0001", "no reference solution")


def test_apps_problem_without_tests_is_set_aside(tmp_path: Path) -> None:
    apps_folder(tmp_path / "0001", question="Q", solutions='["x"]')
    assert [row.reason for row in taco.load(tmp_path)[1]] == ["no tests"]


def test_folder_of_files(tmp_path: Path) -> None:
    save(tmp_path / "b.jsonl", json.dumps(ROW))
    save(tmp_path / "a.json", json.dumps([ROW]))
    save(tmp_path / "notes.txt", "not read")
    assert [row.id for row in read_rows(tmp_path)] == ["a.json#0", "b.jsonl#0"]


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.json", "", "a.json: empty"),
        ("a.jsonl", " \n\n", "a.jsonl: empty"),
        ("a.json", "[]", "a.json: holds no rows"),
        ("a.json", "[{]", "a.json: not JSON"),
        ("a.json", "7", "a.json, row 0: not a JSON object but a int"),
        ("a.json", json.dumps([ROW, "text"]), "a.json, row 1: not a JSON object but a str"),
        ("a.json", json.dumps([ROW, {"prompt": "?"}]), "a.json, row 1: no `question` text"),
        ("a.json", json.dumps([{"question": None}]), "a.json, row 0: no `question` text"),
        ("a.jsonl", f"{json.dumps(ROW)}\n[1]\n", "a.jsonl, line 2: not a JSON object but a list"),
        ("a.jsonl", f"{json.dumps(ROW)}\n\n{{}}\n", "a.jsonl, line 3: no `question` text"),
        ("a.jsonl", f"{json.dumps(ROW)}\n{json.dumps(ROW)[:30]}\n", "a.jsonl, line 2: not JSON"),
        ("a.jsonl", "[" * 200_000, "a.jsonl, line 1: not JSON"),
    ],
)
def test_broken_file_names_its_place(tmp_path: Path, name: str, text: str, message: str) -> None:
    with pytest.raises(UserError) as caught:
        list(read_rows(save(tmp_path / name, text)))
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"none\.json: No such file"):
        list(read_rows(tmp_path / "none.json"))


def test_file_that_is_not_utf8(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_bytes(b'["\xff"]')
    with pytest.raises(UserError, match=r"a\.json: not UTF-8 text"):
        list(read_rows(tmp_path / "a.json"))


def test_folder_without_problems(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"holds no \.json or \.jsonl file"):
        list(read_rows(tmp_path))


def test_apps_metadata_that_is_not_json(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"metadata\.json: not JSON"):
        list(read_rows(apps_folder(tmp_path / "1", question="Q", metadata="{")))
