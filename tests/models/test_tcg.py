"""Test cases as text: written, read back, and mismatched on purpose."""

from __future__ import annotations

import random

import pytest

from o1coder_jax import tcg
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
def test_mismatched_pairs_never_match(seed):
    rng = random.Random(seed)
    cases = [TestCase([i], rng.randrange(3)) for i in range(rng.randrange(2, 6))]
    wrong = tcg.mismatched(cases, rng)
    if wrong is not None:
        assert [w.input for w in wrong] == [c.input for c in cases]
        assert sorted(w.output for w in wrong) == sorted(c.output for c in cases)
        assert all(w.output != c.output for w, c in zip(wrong, cases, strict=True))


def test_three_different_outputs_can_always_be_mismatched():
    cases = [TestCase([i], i) for i in range(3)]
    assert all(tcg.mismatched(cases, random.Random(seed)) for seed in range(50))


@pytest.mark.parametrize("outputs", [[1], [1, 1], [1, 1, 2], []])
def test_outputs_without_a_mismatching_order_give_none(outputs):
    wrong = tcg.mismatched([TestCase([i], output) for i, output in enumerate(outputs)], random.Random(0))
    assert not wrong
