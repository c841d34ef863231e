"""Test cases as text: written, read back, and mismatched on purpose."""

from __future__ import annotations

import random

import pytest

from o1coder_jax import tcg
from o1coder_jax.errors import UserError
from o1coder_jax.records import Form, Problem, TestCase
from o1coder_jax.steps import END, STEP_BEGIN, STEP_END

STDIN = [TestCase("3\n1 2 3\n", "6\n"), TestCase("\n", "\n"), TestCase("a: b\nout\n", "in: x\n日本\n")]
CALL = [
    TestCase([1, [2, -3]], 6),
    TestCase([], None),
    TestCase(["two\nlines", '"quoted" é\n'], {"a": [True, None, 1.5]}),
    TestCase([[]], ""),
]


@pytest.mark.parametrize(("cases", "form"), [(STDIN, Form.STDIN), (CALL, Form.CALL)])
def test_cases_are_read_as_written(cases, form):
    assert tcg.parse_cases(tcg.render_cases(cases, form), form) == (cases, 0)


@pytest.mark.parametrize(("cases", "form"), [(STDIN, Form.STDIN), (CALL, Form.CALL)])
def test_single_case_is_read_as_written(cases, form):
    for case in cases:
        assert tcg.parse_cases(tcg.render_cases([case], form), form) == ([case], 0)


def test_text_gets_one_newline_at_its_end():
    cases = [TestCase("1 2", "3"), TestCase("4 5\n\n", "9\n\n")]
    read, _ = tcg.parse_cases(tcg.render_cases(cases, Form.STDIN), Form.STDIN)
    assert read == [TestCase("1 2\n", "3\n"), TestCase("4 5\n", "9\n")]


@pytest.mark.parametrize(
    ("piece", "form"),
    [
        ("", Form.STDIN),
        ("1 2 3", Form.STDIN),
        ("in: 1", Form.STDIN),
        ("out: 1\nin: 2", Form.STDIN),
        ("in: [1]\nout: ", Form.CALL),
        ("in: [1\nout: 2", Form.CALL),
        ("in: 1\nout: 2", Form.CALL),
        ('in: {"a": 1}\nout: 2', Form.CALL),
        ("in: " + "[" * 100_000 + "\nout: 2", Form.CALL),
        ("in: [" + "9" * 5000 + "]\nout: 2", Form.CALL),
        ("in: [__import__('os')]\nout: 2", Form.CALL),
    ],
)
def test_malformed_piece_is_counted_and_left_out(piece, form):
    good = tcg.render_cases([CALL[0] if form is Form.CALL else STDIN[0]], form)
    cases, malformed = tcg.parse_cases(piece + STEP_END + good, form)
    assert (len(cases), malformed) == (1, 1)


def test_answer_without_its_end_is_read_as_far_as_it_goes():
    text = tcg.render_cases(STDIN, Form.STDIN)
    cases, malformed = tcg.parse_cases(text[: text.index("out:", 30)], Form.STDIN)
    assert (cases, malformed) == (STDIN[:1], 1)


def test_prompt_holds_statement_and_program():
    problem = Problem("p", " Add. \n", Form.STDIN, ())
    assert tcg.render_prompt(problem, "print(1)\n") == f"Add.\nprint(1)\n{STEP_BEGIN}"


def test_rendered_answer_ends_with_the_marker():
    assert tcg.render_cases(STDIN, Form.STDIN).endswith(END)


def test_repeated_inputs_are_dropped():
    cases = [TestCase([1], 1), TestCase([2], 2), TestCase([1], 3), TestCase([True], 4)]
    assert tcg.distinct(cases) == [cases[0], cases[1], cases[3]]


@pytest.mark.parametrize("seed", range(20))
def test_a_mismatching_order_never_matches(seed):
    rng = random.Random(seed)
    outputs = [rng.randrange(3) for _ in range(rng.randrange(2, 6))]
    order = tcg.mismatching_order(outputs, Form.CALL, rng)
    if order is not None:
        assert sorted(order) == list(range(len(outputs)))
        assert all(outputs[i] != output for i, output in zip(order, outputs, strict=True))


def test_three_different_outputs_can_always_be_mismatched():
    assert all(tcg.mismatching_order([0, 1, 2], Form.CALL, random.Random(seed)) for seed in range(50))


@pytest.mark.parametrize(
    ("outputs", "form"),
    [([1], Form.CALL), ([1, 1], Form.CALL), ([1, 1, 2], Form.CALL), (["1\n", "1"], Form.STDIN)],
)
def test_outputs_without_a_mismatching_order_give_none(outputs, form):
    assert tcg.mismatching_order(outputs, form, random.Random(0)) is None


# Templates and traces.

TRACES = ["0: 3\n1 x: 4", "0: 5\n1 x: ", "0: 7\n1 x: 'in: 2\nout: '"]


def test_traces_stand_before_the_outputs_and_are_dropped_in_reading():
    text = tcg.render_cases(CALL[:3], Form.CALL, tcg.TRACED, TRACES)
    assert text.startswith("in: [1, [2, -3]]\n# 0: 3\n1 x: 4\nout: 6<Step_End>")
    assert tcg.parse_cases(text, Form.CALL, tcg.TRACED) == (CALL[:3], 0)


def test_a_trace_is_never_run():
    piece = "in: [1]\n# __import__('os').abort()\nout: 2"
    assert tcg.parse_case(piece, Form.CALL, tcg.TRACED) == TestCase([1], 2)


def test_a_case_without_the_trace_that_its_template_has_is_malformed():
    assert tcg.parse_case("in: [1]\nout: 2", Form.CALL, tcg.TRACED) is None


def test_a_template_may_be_worded_otherwise():
    template = tcg.Template("({input}) => {output};")
    text = tcg.render_cases(CALL, Form.CALL, template)
    assert text.startswith("([1, [2, -3]]) => 6;") and tcg.parse_cases(text, Form.CALL, template) == (CALL, 0)


@pytest.mark.parametrize(
    ("case", "told"),
    [
        ("in: {input}", "has the fields input;"),
        ("{output} {input}", "has the fields output, input;"),
        ("nothing", "has the fields none;"),
        ("{input} {output} {other}", "has the fields input, output, other;"),
        ("{input}{output}", "has two fields side by side"),
        ("in: {input}\nout: {output}<Step_End>", "holds <Step_End>, which stands between cases"),
        ("in: {input}<END>out: {output}", "holds <END>"),
        ("<Step_Begin>{input}\n{output}", "holds <Step_Begin>"),
    ],
)
def test_a_template_that_cannot_be_read_back_is_refused(case, told):
    with pytest.raises(UserError, match=told):
        tcg.Template(case)


def test_an_opening_ends_where_the_generator_goes_on():
    opening = "".join(text for text, _ in tcg.opening_parts([[1, 2]], Form.CALL, tcg.TRACED))
    assert opening == "in: [[1, 2]]\n# "


class Letters:
    """A vocabulary whose text tokens are pairs of characters and whose value tokens are single ones."""

    def encode(self, text):
        return [sum(map(ord, text[i : i + 2])) for i in range(0, len(text), 2)]

    def encode_value(self, text):
        return list(map(ord, text))


def test_values_are_cut_alike_wherever_they_stand():
    parts = list(tcg.answer_parts([TestCase([12], 3)], Form.CALL, tcg.TRACED, ["0: 12\n1 each: 3"]))
    values = [("[12]", "input"), ("12", "trace"), ("3", "trace"), ("3", "output")]
    assert [(text, field) for text, field in parts if field] == values
    ids = tcg.encode_parts(Letters(), parts, split=True)
    whole = tcg.encode_parts(Letters(), parts, split=False)
    assert whole == Letters().encode("".join(text for text, _ in parts)) and ids != whole
    assert ids[2:6] == list(map(ord, "[12]"))


@pytest.mark.parametrize(
    ("case_input", "form", "expected"),
    [
        ([[]], Form.CALL, True),
        ([[4]], Form.CALL, True),
        ([[2, 2, 2]], Form.CALL, True),
        ([[2, 3]], Form.CALL, False),
        (["aa"], Form.CALL, True),
        (["ab"], Form.CALL, False),
        ([[1, 1], "ab"], Form.CALL, False),
        ([7], Form.CALL, False),
        ([], Form.CALL, True),
        ("\n", Form.STDIN, True),
        ("-5\n", Form.STDIN, True),
        ("3 3 3\n", Form.STDIN, True),
        ("3 4\n", Form.STDIN, False),
        ("aaa\n", Form.STDIN, True),
        ("aab\n", Form.STDIN, False),
    ],
)
def test_trivial_inputs_have_no_two_different_elements(case_input, form, expected):
    assert tcg.trivial(case_input, form) is expected
