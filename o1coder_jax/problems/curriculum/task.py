"""A problem's composition, to and from `Problem.meta`, and its reference run in this process."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

from o1coder_jax.errors import UserError
from o1coder_jax.problems.curriculum.behaviour import Clause, Composition, codes_of, kinds_of, run
from o1coder_jax.problems.curriculum.catalogue import operation
from o1coder_jax.problems.curriculum.values import Kind, Value, to_stdin, to_stdout
from o1coder_jax.records import Form, Problem, TestCase

SOURCE = "curriculum"
FIRST, LATER = "first", "later"
CONTEXTS = (FIRST, LATER)


@dataclasses.dataclass(frozen=True, slots=True)
class Task:
    """What the curriculum knows of a problem. `kinds` are those before, between and after the clauses."""

    form: Form
    kinds: tuple[Kind, ...]
    composition: Composition

    def contexts(self) -> list[str]:
        """Where each clause stands, which the statement shows: `first` or `later`."""
        return [FIRST if index == 0 else LATER for index in range(len(self.composition))]

    def to_meta(self) -> dict[str, Any]:
        """JSON values from which `task_of` makes the task again."""
        clauses = [
            {"operation": clause.operation, "value": clause.value, "context": context}
            for clause, context in zip(self.composition, self.contexts(), strict=True)
        ]
        kinds = {"input": str(self.kinds[0]), "output": str(self.kinds[-1])}
        return {"operations": len(clauses), **kinds, "clauses": clauses}

    def case(self, value: Value, output: Value) -> TestCase:
        """A test in the problem's form."""
        if self.form is Form.STDIN:
            return TestCase(to_stdin(value), to_stdout(output))
        return TestCase([value], output)

    def outputs(self, values: Sequence[Value]) -> list[Value]:
        """The reference's outputs; it never raises on values of its input's kind."""
        return run(codes_of(self.composition), values)


def task_of(problem: Problem) -> Task:
    """Reads `problem.meta`; `UserError` if the problem is not one of the curriculum's."""
    try:
        clauses = [(clause["operation"], clause["value"]) for clause in problem.meta["clauses"]]
        kind = Kind(problem.meta["input"])
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(
            f"problem {problem.id!r}: no composition in its meta ({error!r}); only problems of source "
            f"{SOURCE!r} have a teacher, build them with the curriculum"
        ) from error
    for name, value in clauses:
        if value not in operation(name).values:
            raise UserError(f"problem {problem.id!r}: {name} has no parameter {value!r}; make the problems anew")
    kinds = kinds_of([name for name, _ in clauses], kind)
    if kinds is None:
        raise UserError(f"problem {problem.id!r}: its operations do not fit together; make the problems anew")
    return Task(problem.form, tuple(kinds), tuple(Clause(name, value) for name, value in clauses))


def read_inputs(problem: Problem, case_inputs: Sequence[Any]) -> list[Value]:
    """Tests' inputs as values; `UserError` for one that the problem cannot read."""
    kind = task_of(problem).kinds[0]
    return [_read_input(problem, kind, case_input) for case_input in case_inputs]


def _read_input(problem: Problem, kind: Kind, case_input: Any) -> Value:
    value: Value | None
    if problem.form is Form.CALL and isinstance(case_input, list) and len(case_input) == 1:
        value = case_input[0]
    elif problem.form is Form.STDIN and isinstance(case_input, str):
        value = _from_stdin(kind, case_input)
    else:
        value = None
    if isinstance(value, list) and kind is Kind.LIST and all(type(item) is int for item in value):
        return value
    if isinstance(value, str) and kind is Kind.TEXT:
        return value
    raise UserError(f"problem {problem.id!r}: {case_input!r} is not an input of a {kind}; mend the test")


def _from_stdin(kind: Kind, text: str) -> Value | None:
    line = text.split("\n", 1)[0]
    if kind is Kind.TEXT:
        return line
    try:
        return [int(word) for word in line.split()]
    except ValueError:
        return None


def reference_outputs(problem: Problem, inputs: Sequence[Any]) -> list[Any]:
    """Expected outputs of test inputs, in the problem's form (text, or JSON values).

    Runs this package's own expressions in this process, not the text in `problem.solutions`.
    """
    outputs = task_of(problem).outputs(read_inputs(problem, inputs))
    if problem.form is Form.CALL:
        return outputs
    return [to_stdout(output) for output in outputs]
