"""The test case generator: what it is asked, and how its answer is read.

It reads the statement and one reference program, and writes test cases, each an input and the output that it
believes the program gives (arXiv 2412.00154, section 3.1):

    STATEMENT
    PROGRAM
    <Step_Begin>in: 1 2 3
    out: 6<Step_End>in: ...<Step_End>in: ...<END>

Inputs and outputs are text for the stdin form and JSON for the call form (the input is the list of arguments).
"""

from __future__ import annotations

import json
import random
import re
from collections.abc import Sequence
from typing import Any

from o1coder_jax.records import Form, Problem, TestCase
from o1coder_jax.steps import END, STEP_BEGIN, STEP_END

_CASE = re.compile(r"in: (.*)\nout: (.*)", re.DOTALL)
SHUFFLES = 20  # attempts at an order of outputs that matches nowhere


def render_question(problem: Problem, solution: str) -> str:
    """What the generator is asked about."""
    return f"{problem.statement.strip()}\n{solution.strip()}"


def render_prompt(problem: Problem, solution: str) -> str:
    """What the generator reads, where it needs no examples (see `prompts.py`)."""
    return f"{render_question(problem, solution)}\n{STEP_BEGIN}"


def render_cases(cases: Sequence[TestCase], form: Form) -> str:
    """The answer that consists of these cases."""
    texts = [f"in: {_to_text(case.input, form)}\nout: {_to_text(case.output, form)}" for case in cases]
    return STEP_END.join(texts) + END


def parse_cases(text: str, form: Form) -> tuple[list[TestCase], int]:
    """Reads an answer.

    Returns:
      The cases that could be read, in order, and the number of pieces that could not.
    """
    cases, malformed = [], 0
    for piece in text.removesuffix(END).split(STEP_END):
        match = _CASE.fullmatch(piece)
        try:
            if match is None:
                raise ValueError(piece)
            case = TestCase(_from_text(match[1], form), _from_text(match[2], form))
            if form is Form.CALL and not isinstance(case.input, list):
                raise ValueError(piece)
            cases.append(case)
        except (ValueError, RecursionError):
            malformed += 1
    return cases, malformed


def distinct(cases: Sequence[TestCase]) -> list[TestCase]:
    """The cases without repetition of an input, in order."""
    first: dict[str, TestCase] = {}
    for case in cases:
        first.setdefault(json.dumps(case.input), case)
    return list(first.values())


def mismatched(cases: Sequence[TestCase], rng: random.Random) -> list[TestCase] | None:
    """The same inputs with the outputs in an order in which no pair matches: DPO's rejected answer.

    Returns:
      None when there is no such order among a few drawn (outputs that are equal, a single case).
    """
    outputs = [case.output for case in cases]
    for _ in range(SHUFFLES):
        rng.shuffle(outputs)
        if all(case.output != output for case, output in zip(cases, outputs, strict=True)):
            return [TestCase(case.input, output) for case, output in zip(cases, outputs, strict=True)]
    return None


def _to_text(value: Any, form: Form) -> str:
    if form is Form.STDIN:
        return str(value).rstrip("\n")
    return json.dumps(value, ensure_ascii=False)


def _from_text(text: str, form: Form) -> Any:
    if form is Form.STDIN:
        return text + "\n"
    return json.loads(text)
