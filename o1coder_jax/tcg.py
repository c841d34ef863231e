"""The test case generator: what it is asked, and how its answer is read.

It reads the statement and, unless it is asked from the question alone, one reference program. It writes test cases,
each an input and the output that it believes the program gives (arXiv 2412.00154, section 3.1):

    STATEMENT
    PROGRAM
    <Step_Begin>in: 1 2 3
    out: 6<Step_End>in: ...<Step_End>in: ...<END>

How a case is written is a `Template`. With `{trace}` in it the values on the way stand before the output; they are
there for the generator's own benefit: they are dropped when its answer is read, and never run.
Inputs and outputs are text for the stdin form and JSON for the call form (the input is the list of arguments).
"""

from __future__ import annotations

import dataclasses
import functools
import json
import random
import re
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from o1coder_jax.errors import UserError
from o1coder_jax.records import Form, Problem, TestCase
from o1coder_jax.steps import END, STEP_BEGIN, STEP_END
from o1coder_jax.vocabulary import Vocabulary

SHUFFLES = 20  # attempts at an order of outputs that matches nowhere
_FIELD = re.compile(r"\{(\w+)\}")
_ORDERS = (["input", "output"], ["input", "trace", "output"])

Part = tuple[str, str]
"""A piece of an answer, and the field of the template that it is a value of; "" where it is none."""


@dataclasses.dataclass(frozen=True)
class Template:
    """How one test case is written.

    Attributes:
      case: text with the fields {input}, {output} and, between them, possibly {trace}.
    """

    case: str = "in: {input}\nout: {output}"

    def __post_init__(self) -> None:
        if self.fields not in _ORDERS:
            raise UserError(
                f"the template {self.case!r} has the fields {', '.join(self.fields) or 'none'}; "
                "write {input}, {trace} if there is to be one, and {output}, once each and in this order"
            )
        if any(not text for text in _FIELD.split(self.case)[2:-1:2]):
            raise UserError(f"the template {self.case!r} has two fields side by side; write some text between them")
        for marker in (STEP_BEGIN, STEP_END, END):
            if marker in self.case:
                raise UserError(f"the template {self.case!r} holds {marker}, which stands between cases; take it out")

    @property
    def fields(self) -> list[str]:
        return _FIELD.findall(self.case)

    @property
    def traced(self) -> bool:
        return "trace" in self.fields

    def parts(self, values: dict[str, str]) -> list[Part]:
        """Pieces of the text of a case."""
        pieces = _FIELD.split(self.case)
        return [(values[piece], piece) if place % 2 else (piece, "") for place, piece in enumerate(pieces)]

    @functools.cached_property
    def pattern(self) -> re.Pattern[str]:
        """Reads a case. An input ends as late as it can, or, before a trace, as early."""
        fields = {"input": "(?P<input>.*?)" if self.traced else "(?P<input>.*)"}
        pieces = _FIELD.split(self.case)
        return re.compile(
            "".join(
                fields.get(piece, f"(?P<{piece}>.*)") if place % 2 else re.escape(piece)
                for place, piece in enumerate(pieces)
            ),
            re.DOTALL,
        )


PLAIN = Template()
TRACED = Template("in: {input}\n# {trace}\nout: {output}")


def render_question(problem: Problem, solution: str) -> str:
    """What the generator is asked about; without a solution the statement alone."""
    return "\n".join(filter(None, (problem.statement.strip(), solution.strip())))


def render_prompt(problem: Problem, solution: str) -> str:
    """What the generator reads, where it needs no examples (see `prompts.py`)."""
    return f"{render_question(problem, solution)}\n{STEP_BEGIN}"


def answer_parts(
    cases: Sequence[TestCase], form: Form, template: Template = PLAIN, traces: Sequence[str] | None = None
) -> Iterator[Part]:
    """Pieces of the answer that consists of these cases."""
    for number, case in enumerate(cases):
        if number:
            yield STEP_END, ""
        values = {"input": _to_text(case.input, form), "trace": "", "output": _to_text(case.output, form)}
        for text, field in template.parts(values):
            if field == "trace":
                yield from _trace_parts(traces[number] if traces is not None else "")
            else:
                yield text, field
    yield END, ""


def _trace_parts(trace: str) -> Iterator[Part]:
    """What each line does, up to its last colon, and the values after it."""
    for number, line in enumerate(trace.split("\n")):
        doing, colon, values = line.rpartition(": ")
        yield "\n" * (number > 0) + doing + colon, ""
        yield values, "trace"


def render_cases(
    cases: Sequence[TestCase], form: Form, template: Template = PLAIN, traces: Sequence[str] | None = None
) -> str:
    """The answer that consists of these cases."""
    return "".join(text for text, _ in answer_parts(cases, form, template, traces))


def encode_parts(vocabulary: Vocabulary, parts: Sequence[Part], *, split: bool) -> list[int]:
    """Token ids of an answer.

    Args:
      split: values are cut alike wherever they stand (`encode_value`), whatever the vocabulary would merge.
    """
    if not split:
        return vocabulary.encode("".join(text for text, _ in parts))
    return [token for tokens, _ in encode_each(vocabulary, parts) for token in tokens]


def encode_each(vocabulary: Vocabulary, parts: Iterable[Part]) -> Iterator[tuple[list[int], str]]:
    """Token ids of each piece by itself, and its field."""
    for text, field in parts:
        yield (vocabulary.encode_value(text) if field else vocabulary.encode(text)), field


def opening_parts(case_input: Any, form: Form, template: Template = PLAIN) -> list[Part]:
    """Pieces of a case up to the end of its input, as a beginning for the generator to go on from."""
    parts = template.parts(dict.fromkeys(("trace", "output"), "") | {"input": _to_text(case_input, form)})
    return parts[:3]


def parse_cases(text: str, form: Form, template: Template = PLAIN) -> tuple[list[TestCase], int]:
    """Reads an answer.

    Returns:
      The cases that could be read, in order, and the number of pieces that could not.
    """
    read = [parse_case(piece, form, template) for piece in text.removesuffix(END).split(STEP_END)]
    cases = [case for case in read if case is not None]
    return cases, len(read) - len(cases)


def parse_case(piece: str, form: Form, template: Template = PLAIN) -> TestCase | None:
    """Reads one case, its trace dropped; None if it cannot be read."""
    match = template.pattern.fullmatch(piece)
    if match is None:
        return None
    try:
        case = TestCase(_from_text(match["input"], form), _from_text(match["output"], form))
    except (ValueError, RecursionError):
        return None
    return None if form is Form.CALL and not isinstance(case.input, list) else case


def distinct(cases: Sequence[TestCase]) -> list[TestCase]:
    """The cases without repetition of an input, in order."""
    first: dict[str, TestCase] = {}
    for case in cases:
        first.setdefault(json.dumps(case.input), case)
    return list(first.values())


def trivial(case_input: Any, form: Form) -> bool:
    """Whether nothing in an input differs from anything else: it is empty, has one element, or equal ones.

    Of the call form all arguments that are lists or texts have to be so. Of the stdin form the words are looked at, or
    the characters of a single word that is no number.
    """
    if form is Form.CALL:
        held = [one for one in case_input if isinstance(one, list | str)]
        return bool(held or not case_input) and all(_uniform(one) for one in held)
    words = str(case_input).split()
    return _uniform(words[0] if len(words) == 1 and not words[0].lstrip("-").isdigit() else words)


def _uniform(elements: Sequence[Any]) -> bool:
    return all(one == elements[0] for one in elements)


def mismatching_order(outputs: Sequence[Any], form: Form, rng: random.Random) -> list[int] | None:
    """An order of outputs in which none is where one was that is written alike; None if `SHUFFLES` draws hold none."""
    outputs = [_to_text(output, form) for output in outputs]
    order = list(range(len(outputs)))
    for _ in range(SHUFFLES):
        rng.shuffle(order)
        if all(outputs[i] != output for i, output in zip(order, outputs, strict=True)):
            return order
    return None


def _to_text(value: Any, form: Form) -> str:
    if form is Form.STDIN:
        return str(value).rstrip("\n")
    return json.dumps(value, ensure_ascii=False)


def _from_text(text: str, form: Form) -> Any:
    if form is Form.STDIN:
        return text + "\n"
    return json.loads(text)
