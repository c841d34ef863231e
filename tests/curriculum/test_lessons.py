"""Worked cases and their traces, and further problems to learn from."""

from __future__ import annotations

import random
import re

import pytest

from o1coder_jax.errors import UserError
from o1coder_jax.problems.curriculum import (
    CurriculumConfig,
    build,
    build_further,
    random_cases,
    reference_outputs,
    traces,
    worked_cases,
)
from o1coder_jax.problems.curriculum.assembly import build_with_groups
from o1coder_jax.problems.curriculum.behaviour import Clause, examine
from o1coder_jax.problems.curriculum.catalogue import OPERATIONS
from o1coder_jax.problems.curriculum.lessons import stages_of
from o1coder_jax.problems.curriculum.task import task_of
from o1coder_jax.problems.curriculum.tracing import MARKS, trace, written
from o1coder_jax.problems.curriculum.values import Kind, Value, edge_inputs
from o1coder_jax.records import Form, Problem
from o1coder_jax.tcg import trivial

SMALL = CurriculumConfig(training=12, selfplay=4, validation=4, heldout=8, tests=4, hidden_tests=10)


@pytest.fixture(scope="module")
def problems() -> list[Problem]:
    return build(SMALL, 3).all


def _traced(value: list[int] | str, *clauses: Clause) -> str:
    [stages] = stages_of(clauses, [value])
    return trace(clauses, stages)


def test_a_line_names_its_clause_and_ends_with_the_value() -> None:
    lines = _traced([4, -1, 7], Clause("keep_above", 3), Clause("reverse"), Clause("add", 1))
    assert lines == "0: !4$-1%7\n1 keep_above 3: !4($-1.%7)=(4)7\n2 reverse: )7!7(4$4\n3 add 1: !7+1(8$4+1)5"


@pytest.mark.parametrize(
    ("value", "clause", "line"),
    [
        ([3, 1, 2], Clause("reverse"), "%2(2$1)1!3{3"),
        ([3, 1, 2], Clause("take", 2), "!3(3$1)1"),
        ([3, 1, 2], Clause("running_sums"), "!3+0(3$1+3)4%2+4{6"),
        ([3, 1, 2], Clause("sort_up"), "!3:$1>%2>{$1:!3<%2<(%2:!3<$1>)=(1)2{3"),
        ([3, 1, 2], Clause("sort_down"), "!3:$1>%2>($1:!3<%2<{%2:!3<$1>)=(3)2{1"),
        ([1, 1], Clause("sort_down"), "!1:$1~($1:!1~)=(1)1"),
        ([3, 1, 3, 2], Clause("unique"), "!3:($1:!3<)%3:!3~.&2:!3<$1>%3<{=(3)1{2"),
        ([3, 1, 2], Clause("rises"), "!3:%2>($1:!3<.%2:$1>)=(3)2"),
        ([3, 1, 2], Clause("sum"), "!3+0:3$1+3:4%2+4:6=6"),
        ([3, 1, 2], Clause("add_place"), "!3+0(3$1+1)2%2+2{4"),
        ([3, 1, 2], Clause("differences"), "!3:2(1$1:3)-2%2:1{1"),
        ([3, 1, 2], Clause("minimum"), "!3:3$1:1%2:1=1"),
        ([3, 1, 2], Clause("count_above", 2), "!3($1.%2.=1"),
        ([3, 1, 3], Clause("distinct"), "!3:($1:!3<)%3:!3~.=2"),
        ([3, 1, 2], Clause("last"), "2"),
        ([12, -3], Clause("join", "-"), "!12(1)2{-$-3}-[3"),
        ("a7b5", Clause("digit_sum"), "!a+0:0$7+0:7%b+7:7&5+7:12=12"),
        ("aB1", Clause("count_letters"), "!a($B)%1.=2"),
        ("xaE", Clause("places"), "!x.$a(%E)=(1)2"),
        ("a1", Clause("repeat_each", 2), "!a(a)a$1{1}1"),
        ("b0a", Clause("sort_letters"), "!b:$0>%a>{$0:!b<%a<(%a:!b<$0>)=(0)a{b"),
    ],
)
def test_what_becomes_of_an_element_stands_behind_it(value: list[int] | str, clause: Clause, line: str) -> None:
    assert _traced(value, clause).split(": ")[-1] == line


@pytest.mark.parametrize("name", sorted(OPERATIONS))
def test_every_operation_has_a_line_that_ends_with_its_value(name: str) -> None:
    operation = OPERATIONS[name]
    for kind, _ in operation.signatures:
        inputs: list[Value] = (
            [3, -12, 0] if kind is Kind.NUMBER else [*edge_inputs(kind), [] if kind is Kind.LIST else ""]
        )
        clause = Clause(name, operation.values[-1])
        for stages in stages_of((clause,), inputs):
            line = trace((clause,), stages).split("\n")[1]
            steps = line.rpartition(": ")[2]
            assert ": " not in steps and _read(steps) == written(stages[1], 1)


def _read(steps: str) -> str:
    """The value that a line ends with: what stands behind "=", or else the elements with new marks."""
    if "=" in steps or not any(sign in steps for sign in MARKS[1]):
        return steps.rpartition("=")[2]
    return "".join(re.findall(f"[{re.escape(MARKS[1])}][^{re.escape(''.join(MARKS))}]+", steps))


def test_traces_end_with_the_outputs(problems: list[Problem]) -> None:
    for problem in problems:
        cases = worked_cases(problem, 3, random.Random(0))
        outputs = reference_outputs(problem, [case.input for case in cases])
        assert [case.output for case in cases] == outputs
        for text, value in zip(traces(problem, [c.input for c in cases]), cases, strict=True):
            assert len(text.split("\n")) == 1 + len(task_of(problem).composition)
            if problem.form is Form.CALL and isinstance(value.output, int):
                assert text.rpartition(": ")[2].rpartition("=")[2] == str(value.output)


def test_worked_cases_are_short_different_and_seldom_trivial(problems: list[Problem]) -> None:
    drawn = [(problem, case) for problem in problems for case in worked_cases(problem, 4, random.Random(1))]
    assert len({(problem.id, str(case.input)) for problem, case in drawn}) == len(drawn) == 4 * len(problems)
    assert sum(trivial(case.input, problem.form) for problem, case in drawn) <= 0.2 * len(drawn)
    assert sum(len(str(case.input)) for _, case in drawn) / len(drawn) < 10


def test_worked_cases_find_the_mistake_that_shows_on_the_empty_input_alone() -> None:
    assert [] in [case.input[0] for case in worked_cases(task("list", ("maximum", None)), 4, random.Random(0))]


def task(kind: str, *clauses: tuple[str, int | str | None]) -> Problem:
    """A problem of the curriculum as far as cases for it need one."""
    named = [{"operation": operation, "value": value} for operation, value in clauses]
    return Problem("p", "", Form.CALL, (), meta={"input": kind, "clauses": named})


def test_worked_cases_try_what_a_program_names_and_what_lies_beside_it() -> None:
    """8 and the letter e are in no short input unless the program names them; the same for digits in a text."""
    for one, wanted in (
        (task("list", ("keep_below", 8), ("length", None)), 8),
        (task("text", ("remove", "e"), ("length", None)), "e"),
        (task("text", ("digits", None), ("keep_below", 5)), "5"),
    ):
        rng = random.Random(0)
        cases = [case for _ in range(12) for case in worked_cases(one, 2, rng)]
        holding = sum(wanted in case.input[0] for case in cases)
        assert holding > 2, (wanted, [case.input for case in cases])
    rng = random.Random(0)
    unnamed = [case for _ in range(12) for case in worked_cases(task("list", ("length", None)), 2, rng)]
    assert not any(8 in case.input[0] for case in unnamed)


def test_random_cases_have_true_outputs(problems: list[Problem]) -> None:
    for problem in problems:
        cases = random_cases(problem, 8, random.Random(2))
        assert len({str(case.input) for case in cases}) == 8
        assert [case.output for case in cases] == reference_outputs(problem, [case.input for case in cases])


def test_problems_of_a_file_have_no_traces() -> None:
    with pytest.raises(UserError, match="no composition in its meta"):
        traces(Problem("p", "s", Form.STDIN, ()), ["1\n"])


def test_further_problems_compute_nothing_that_another_part_does() -> None:
    further = build_further(SMALL, 3, 20)
    parts, parting = build_with_groups(SMALL, 3)
    assert len(further) == 20 and not {one.id for one in further} & {one.id for one in parts.all}
    known = {_behaviour(one) for one in parts.all}
    own = [_behaviour(one) for one in further]
    assert len(set(own)) == len(own) and not known & set(own)
    for one in further:
        task = task_of(one)
        behaviour = examine(task.kinds[0], task.composition)
        assert behaviour is not None and parting.parts_of([behaviour]) <= {"training"}


def _behaviour(problem: Problem) -> bytes:
    task = task_of(problem)
    behaviour = examine(task.kinds[0], task.composition)
    assert behaviour is not None
    return behaviour.signature


def test_more_further_problems_than_there_are_is_refused() -> None:
    config = CurriculumConfig(
        training=2, selfplay=0, validation=0, heldout=0, min_operations=1, max_operations=1, hidden_tests=10
    )
    with pytest.raises(UserError, match="further problems cannot be made with 1 to 1 operations"):
        build_further(config, 0, 2000)
