"""The grammar of steps: what is written is read back, and what is malformed is said to be."""

from __future__ import annotations

import pytest

from o1coder_jax.steps import (
    END,
    STEP_BEGIN,
    STEP_END,
    Action,
    parse_step,
    path_code,
    render_prompt,
    render_step,
    split_path,
)

BODIES = [
    "read n, then print it",
    "",
    " ",
    "two\nlines",
    "3. code: not a step of its own",
    "a colon: and 1. a number",
    "`inline` and ```fenced``` text",
    "日本語 🎉",
    "  leading and trailing  ",
]
PROGRAMS = [
    "print(1)",
    "",
    "def f(x):\n    return x\n\n\nprint(f(2))",
    "print('```')",
    "s = '''\n``` in the middle ```\n'''\nprint(s)",
    "# ```python\nprint(1)",
    "print(1)\n",
    "\n\nprint('leading blank lines')",
    "    indented()",
]


@pytest.mark.parametrize("body", BODIES)
@pytest.mark.parametrize("action", [Action.DEFINE, Action.REFINE])
def test_text_step_is_read_as_written(action, body):
    step = parse_step(render_step(2, action, body))
    assert (step.action, step.body, step.code, step.terminal) == (action, body, None, False)


@pytest.mark.parametrize("program", PROGRAMS)
def test_program_is_read_as_written(program):
    step = parse_step(render_step(3, Action.CODE, program))
    assert (step.action, step.code, step.terminal) == (Action.CODE, program, True)


@pytest.mark.parametrize("number", [0, 1, 10, 999])
def test_step_number_may_have_up_to_three_digits(number):
    assert parse_step(render_step(number, Action.DEFINE, "x")).action is Action.DEFINE


@pytest.mark.parametrize(
    "text",
    [
        "",
        "define: no number",
        "1 define: no point",
        "1.define: no blank",
        "1. Define: capital",
        "1. plan: no such action",
        "1. define no colon",
        "1. define:no blank after the colon",
        "1234. define: long number",
        "so: 1. define: not at the start",
        "1. code: print(1)",
        "1. code:\n```\nprint(1)\n```",
        "1. code:\n```python\nprint(1)",
        "1. code:\n```python\nprint(1)```",
        "1. code:\n```python\nprint(1)\n``` and more",
        "1. code:\n```python print(1)\n```",
    ],
)
def test_malformed_text_is_no_step(text):
    step = parse_step(text)
    assert (step.action, step.body, step.code, step.terminal) == (Action.NONE, text, None, False)


def test_last_complete_block_is_the_program():
    text = "1. code:\n```python\nfirst\n```\nbetter:\n```python\nsecond\n```\nor\n```python\nthird"
    assert parse_step(text).code == "second"


def test_words_around_the_block_are_no_part_of_the_program():
    assert parse_step("3. code: here it is\n```python\nx = 1\n```\nDone.").code == "x = 1"


def test_blanks_before_a_step_are_no_matter():
    assert parse_step("\n 1. define: x").action is Action.DEFINE


@pytest.mark.parametrize("marker", ["", STEP_END, END])
def test_end_markers_are_no_part_of_a_body(marker):
    assert parse_step("1. define: x" + marker).body == "x"


PATH = [
    render_step(1, Action.DEFINE, "read\nand print"),
    render_step(2, Action.REFINE, "how"),
    render_step(3, Action.CODE, "print(1)"),
]


def test_path_splits_into_its_steps():
    assert split_path("".join(PATH)) == PATH


def test_unfinished_last_step_is_kept():
    assert split_path(PATH[0] + "2. refine: and th") == [PATH[0], "2. refine: and th"]


def test_empty_path_has_no_steps():
    assert split_path("") == []


def test_code_of_a_path():
    assert path_code("".join(PATH)) == "print(1)"


def test_first_code_step_counts():
    assert path_code("".join([*PATH, render_step(4, Action.CODE, "print(2)")])) == "print(1)"


def test_path_without_code_step_has_no_code():
    assert path_code("".join(PATH[:2])) is None


def test_code_after_a_malformed_step_does_not_count():
    assert path_code(PATH[0] + "hm" + STEP_END + PATH[2]) is None


def test_prompt_ends_where_the_first_step_begins():
    assert render_prompt("  Add two numbers.\n\n") == f"Add two numbers.\n{STEP_BEGIN}"
