"""Rows with corners: each is mended or set aside with its reason."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest

from o1coder_jax.problems import taco
from o1coder_jax.problems.selection import Rejected
from o1coder_jax.records import Form, Problem, TestCase, read_problems, write_jsonl

DOUBLE = "print(2 * int(input()))"


def stdin_row(**changes: Any) -> dict[str, Any]:
    return {
        "question": "Read a number and print twice its value.",
        "input_output": {"inputs": ["1\n", "4\n"], "outputs": ["2\n", "8\n"]},
        "solutions": [DOUBLE],
        "starter_code": "",
        "difficulty": "EASY",
        "name": "twice",
        "url": None,
        **changes,
    }


def call_row(inputs: Any = ([3, 4],), outputs: Any = ([7],), fn_name: Any = "add", **changes: Any) -> dict[str, Any]:
    return {
        "question": "Write `add`, which sums two numbers.",
        "input_output": {"fn_name": fn_name, "inputs": list(inputs), "outputs": list(outputs)},
        "solutions": ["def add(a, b):\n\treturn a + b"],
        "starter_code": "def add(a, b):\n\t",
        **changes,
    }


def load(tmp_path: Path, *rows: dict[str, Any]) -> tuple[list[Problem], list[Rejected]]:
    path = tmp_path / "rows.json"
    path.write_text(json.dumps(rows))
    return taco.load(path)


def one(tmp_path: Path, row: dict[str, Any]) -> Problem:
    problems, rejected = load(tmp_path, row)
    assert not rejected
    return problems[0]


def reason(tmp_path: Path, row: dict[str, Any]) -> str:
    problems, rejected = load(tmp_path, row)
    assert not problems
    return rejected[0].reason


def test_stdin_row(tmp_path: Path) -> None:
    problem = one(tmp_path, stdin_row())
    assert problem.form is Form.STDIN and problem.fn_name is None
    assert problem.tests == (TestCase("1\n", "2\n"), TestCase("4\n", "8\n"))
    assert (problem.solutions, problem.difficulty, problem.meta["name"]) == ((DOUBLE,), "EASY", "twice")


def test_call_row(tmp_path: Path) -> None:
    problem = one(tmp_path, call_row())
    assert problem.form is Form.CALL and problem.fn_name == "add"
    assert problem.tests == (TestCase([3, 4], [7]),)


def test_input_output_and_solutions_as_json_text(tmp_path: Path) -> None:
    row = stdin_row()
    text = row | {"input_output": json.dumps(row["input_output"]), "solutions": json.dumps(row["solutions"])}
    assert one(tmp_path, text) == one(tmp_path, row)


def test_missing_final_newline_on_stdin_is_added(tmp_path: Path) -> None:
    row = stdin_row(input_output={"inputs": ["1\n2"], "outputs": ["3"]})
    assert one(tmp_path, row).tests == (TestCase("1\n2\n", "3"),)


def test_final_newline_on_stdin_is_not_doubled(tmp_path: Path) -> None:
    assert one(tmp_path, stdin_row()).tests[0].input == "1\n"


def test_lists_of_lines_become_text(tmp_path: Path) -> None:
    row = stdin_row(input_output={"inputs": [["2", "1 2", "3 4"]], "outputs": [["3", "7"]]})
    assert one(tmp_path, row).tests == (TestCase("2\n1 2\n3 4\n", "3\n7"),)


def test_lines_that_end_in_newlines_are_not_spread(tmp_path: Path) -> None:
    row = stdin_row(input_output={"inputs": [["2\n", "5\n"]], "outputs": [["1\n", "2\n"]]})
    assert one(tmp_path, row).tests == (TestCase("2\n5\n", "1\n2"),)


def test_bare_numbers_on_stdin_become_text(tmp_path: Path) -> None:
    row = stdin_row(input_output={"inputs": [4], "outputs": [[8]]})
    assert one(tmp_path, row).tests == (TestCase("4\n", "8"),)


def test_carriage_returns_are_dropped_everywhere(tmp_path: Path) -> None:
    row = stdin_row(
        question="Read\r\nand print.",
        input_output={"inputs": ["1\r\n2\r\n"], "outputs": ["3\r\n"]},
        solutions=["a = input()\r\nprint(a)"],
    )
    problem = one(tmp_path, row)
    assert (problem.statement, problem.solutions) == ("Read\nand print.", ("a = input()\nprint(a)",))
    assert problem.tests == (TestCase("1\n2\n", "3\n"),)


def test_carriage_returns_in_arguments_stay(tmp_path: Path) -> None:
    row = call_row(inputs=[["a\r\n", "b"]], outputs=["a\r\nb"])
    assert one(tmp_path, row).tests == (TestCase(["a\r\n", "b"], "a\r\nb"),)


def test_blank_after_fn_name(tmp_path: Path) -> None:
    assert one(tmp_path, call_row(fn_name="add ")).fn_name == "add"


@pytest.mark.parametrize("fn_name", ["", None])
def test_absent_fn_name_means_stdin(tmp_path: Path, fn_name: str | None) -> None:
    assert one(tmp_path, call_row(inputs=["1\n"], outputs=["2"], fn_name=fn_name)).form is Form.STDIN


@pytest.mark.parametrize("fn_name", ["a b", "f(", 3, "  "])
def test_fn_name_that_is_no_name(tmp_path: Path, fn_name: Any) -> None:
    assert "is not the name of a function" in reason(tmp_path, call_row(fn_name=fn_name))


def test_argument_that_is_not_in_a_list(tmp_path: Path) -> None:
    assert one(tmp_path, call_row(inputs=["arr[ ] = {1, 2}"], outputs=["2 1"])).tests[0].input == ["arr[ ] = {1, 2}"]


def test_expected_value_in_a_list_is_left_to_the_gold_filter(tmp_path: Path) -> None:
    assert one(tmp_path, call_row(outputs=[[7]])).tests[0].output == [7]


def test_statement_that_names_the_function_is_left_alone(tmp_path: Path) -> None:
    assert one(tmp_path, call_row()).statement == "Write `add`, which sums two numbers."


def test_statement_without_the_name_gets_the_starter_code(tmp_path: Path) -> None:
    assert one(tmp_path, call_row(question="Sum two numbers.")).statement == "Sum two numbers.\n\ndef add(a, b):"


def test_name_inside_another_word_does_not_count(tmp_path: Path) -> None:
    assert one(tmp_path, call_row(question="What is the address?")).statement.endswith("def add(a, b):")


def test_statement_without_the_name_and_without_starter_code(tmp_path: Path) -> None:
    statement = one(tmp_path, call_row(question="Sum.", starter_code=None)).statement
    assert statement == "Sum.\n\nWrite the function `add`; it takes 2 arguments."


def test_infinity_survives_the_way_through_a_file(tmp_path: Path) -> None:
    problem = one(tmp_path, call_row(inputs=[[-math.inf, 0]], outputs=[-math.inf]))
    write_jsonl(tmp_path / "out.jsonl", [problem])
    assert read_problems(tmp_path / "out.jsonl") == [problem]
    assert problem.tests[0].output == -math.inf


def test_nan_makes_a_test_unusable(tmp_path: Path) -> None:
    problem = one(tmp_path, call_row(inputs=[[1, 2], [3, 4]], outputs=[math.nan, 7]))
    assert problem.tests == (TestCase([3, 4], 7),)
    assert problem.meta["unusable_tests"] == ["test 1: output holds NaN, which equals nothing"]


def test_oversized_integer_makes_a_test_unusable(tmp_path: Path) -> None:
    row = json.dumps([call_row(inputs=[[1, 2], [3, 4]], outputs=[3, 7777])])
    path = tmp_path / "rows.json"
    path.write_text(row.replace("7777", "7" * 5000))
    problem = taco.load(path)[0][0]
    assert problem.tests == (TestCase([1, 2], 3),)
    assert problem.meta["unusable_tests"] == ["test 2: output holds an integer of 5000 digits"]


def test_half_a_surrogate_makes_a_test_unusable(tmp_path: Path) -> None:
    problem = one(tmp_path, stdin_row(input_output={"inputs": ["\ud800", "1"], "outputs": ["1", "2"]}))
    assert [test.output for test in problem.tests] == ["2"]


def test_half_a_surrogate_in_a_statement_can_be_written(tmp_path: Path) -> None:
    problem = one(tmp_path, stdin_row(question="An odd \ud83d sign."))
    assert write_jsonl(tmp_path / "out.jsonl", [problem]) == 1


def test_deep_nesting_makes_a_test_unusable(tmp_path: Path) -> None:
    deep: list[Any] = []
    for _ in range(500):
        deep = [deep]
    problem = one(tmp_path, call_row(inputs=[[1, 2], [3, 4]], outputs=[deep, 7]))
    assert problem.meta["unusable_tests"] == ["test 1: output holds more than 100 levels of lists"]


def test_null_input_is_unusable(tmp_path: Path) -> None:
    assert one(tmp_path, call_row(inputs=[None, [1, 2]], outputs=[0, 3])).tests == (TestCase([1, 2], 3),)


def test_null_output_of_a_call_is_a_value(tmp_path: Path) -> None:
    assert one(tmp_path, call_row(outputs=[None])).tests == (TestCase([3, 4], None),)


def test_stdin_input_that_is_nested_is_set_aside(tmp_path: Path) -> None:
    row = stdin_row(input_output={"inputs": [[[1, 2]]], "outputs": ["3"]})
    assert reason(tmp_path, row) == "no usable tests (test 1: input is neither text nor a list of lines)"


def test_repeated_tests_are_dropped_and_counted(tmp_path: Path) -> None:
    problem = one(tmp_path, stdin_row(input_output={"inputs": ["1", "1\n", "2"], "outputs": ["2", "2", "4"]}))
    assert (len(problem.tests), problem.meta["repeated_tests"]) == (2, 1)


def test_true_and_one_are_different_tests(tmp_path: Path) -> None:
    assert len(one(tmp_path, call_row(inputs=[[1, 0], [True, 0]], outputs=[1, 1])).tests) == 2


def test_repeated_and_empty_solutions_are_dropped(tmp_path: Path) -> None:
    assert one(tmp_path, stdin_row(solutions=[DOUBLE, " ", None, DOUBLE + "\r\n", DOUBLE])).solutions == (
        DOUBLE,
        DOUBLE + "\n",
    )


@pytest.mark.parametrize("tests", [None, "", "null", {}, "{}", {"inputs": [], "outputs": []}, {"inputs": None}])
def test_no_tests(tmp_path: Path, tests: Any) -> None:
    assert reason(tmp_path, stdin_row(input_output=tests)) == "no tests"


@pytest.mark.parametrize("solutions", [[], "[]", None, "", [""]])
def test_no_solutions(tmp_path: Path, solutions: Any) -> None:
    assert reason(tmp_path, stdin_row(solutions=solutions)) == "no reference solution"


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"question": " \n"}, "empty statement"),
        ({"input_output": "{'inputs': []}"}, "input_output: not JSON"),
        ({"input_output": [1]}, "input_output: not an object but a list"),
        ({"input_output": {"inputs": ["1", "2"], "outputs": ["1"]}}, "2 inputs but 1 outputs"),
        ({"input_output": {"inputs": "12", "outputs": ["1", "2"]}}, "inputs and outputs are not both lists"),
        ({"solutions": "print(1)"}, "solutions: not JSON"),
        ({"solutions": {"a": "print(1)"}}, "solutions: not a list but a dict"),
    ],
)
def test_row_that_cannot_be_used_says_why(tmp_path: Path, changes: dict[str, Any], expected: str) -> None:
    assert reason(tmp_path, stdin_row(**changes)).startswith(expected)


def test_every_row_is_accounted_for(tmp_path: Path) -> None:
    problems, rejected = load(tmp_path, stdin_row(), stdin_row(solutions=[]), call_row())
    assert [problem.id for problem in problems] == ["rows.json#0", "rows.json#2"]
    assert [(row.id, row.where) for row in rejected] == [("rows.json#1", "rows.json, row 1")]


def test_rejected_is_written_as_json(tmp_path: Path) -> None:
    rejected = load(tmp_path, stdin_row(solutions=[]))[1][0]
    assert json.loads(json.dumps(rejected.to_json()))["reason"] == "no reference solution"
