"""Prompt files, their rendering, and what a chat template makes of them."""

from __future__ import annotations

from pathlib import Path

import pytest

from o1coder_jax import tcg
from o1coder_jax.errors import UserError
from o1coder_jax.policy import encode_prompt
from o1coder_jax.prompts import PLAIN, Prompt, Prompts, render
from o1coder_jax.records import Form, Problem
from o1coder_jax.steps import Action, parse_step, path_code, render_prompt, split_path
from train.pretrained import DEFAULT_PROMPT

FILE = """
policy:
  instructions: Think.
  examples:
  - statement: Add.
    steps: [{define: two numbers}, {code: "print(3)"}]
tcg:
  examples:
  - {statement: Add., solution: "print(3)", form: call, cases: [{input: [1, 2], output: 3}]}
"""
STEPS = "0. define: two numbers<Step_End>1. code:\n```python\nprint(3)\n```<END>"


class Letters:
    """A vocabulary of characters."""

    def encode(self, text: str) -> list[int]:
        return list(map(ord, text))


def problem(statement: str) -> Problem:
    return Problem("p", statement, Form.STDIN, ())


def write(folder: Path, text: str = FILE) -> Path:
    path = folder / "prompt.yaml"
    path.write_text(text)
    return path


def text_of(prompt: Prompt, asked: str, cap: int = 1000, **options: bool) -> tuple[str, bool]:
    ids, cut = prompt.encode(Letters(), asked, cap, **options)  # type: ignore[arg-type]
    return "".join(map(chr, ids)), cut


def test_without_file_the_prompt_is_the_statement_and_a_marker():
    ids, _ = encode_prompt(Letters(), problem(" Add. "), 99)  # type: ignore[arg-type]
    assert "".join(map(chr, ids)) == render_prompt(" Add. ") == text_of(PLAIN, "Add.")[0]


def test_plain_text_puts_instructions_and_examples_before_the_statement(tmp_path: Path):
    prompts = render(write(tmp_path), None, "<s>")
    expected = f"<s>Think.\n\nAdd.\n<Step_Begin>{STEPS}\n\nMultiply.\n<Step_Begin>"
    assert text_of(prompts.policy, "Multiply.") == (expected, False)
    assert text_of(prompts.tcg, "Q")[0] == "<s>Add.\nprint(3)\n<Step_Begin>in: [1, 2]\nout: 3<END>\n\nQ\n<Step_Begin>"


def test_chat_gets_examples_as_turns_and_the_statement_last(tmp_path: Path):
    seen = []

    def chat(messages):
        seen.append(list(messages))
        return "".join(f"[{m['role']}]{m['content']}" for m in messages) + "[assistant]"

    prompts = render(write(tmp_path), chat, "<s>")
    assert [message["role"] for message in seen[0]] == ["system", "user", "assistant", "user"]
    expected = f"[system]Think.[user]Add.[assistant]{STEPS}[user]Multiply.[assistant]"
    assert text_of(prompts.policy, "Multiply.")[0] == expected


def test_cap_is_that_of_the_statement_and_the_examples_stay_whole():
    prompt = Prompt("before", "|")
    assert text_of(prompt, "abcdef", 4) == ("beforeabc|", True)
    assert text_of(prompt, "abcdef", 4, keep_end=True) == ("beforedef|", True)
    assert text_of(prompt, "abc", 4) == ("beforeabc|", False)


def test_prompts_come_back_from_their_file(tmp_path: Path):
    prompts = Prompts(Prompt("ä\n", "b"), PLAIN)
    prompts.save(tmp_path / "p.json")
    assert Prompts.load(tmp_path / "p.json") == prompts
    assert Prompts.load(tmp_path / "none.json") == Prompts()
    (tmp_path / "p.json").write_text("{}")
    with pytest.raises(UserError, match=r"p\.json holds no prompts"):
        Prompts.load(tmp_path / "p.json")


def test_examples_of_the_default_file_are_in_the_form_that_is_asked_for():
    prompts = render(DEFAULT_PROMPT, None)
    answers = prompts.policy.before.split("<Step_Begin>")[1:]
    assert len(answers) == 3
    for answer in answers:
        path = answer[: answer.index("<END>") + 5]
        assert [parse_step(step).action for step in split_path(path)] == [Action.DEFINE, Action.REFINE, Action.CODE]
        code = path_code(path)
        assert code is not None
        compile(code, "example", "exec")
    cases = [
        tcg.parse_cases(text.partition("<END>")[0], form)
        for text, form in zip(prompts.tcg.before.split("<Step_Begin>")[1:], (Form.STDIN, Form.CALL), strict=True)
    ]
    assert [(len(read), bad) for read, bad in cases] == [(3, 0), (3, 0)]


MISTAKES = [
    ("[]", "is no prompt file: it must hold the sections policy and tcg"),
    ("policy: {exmaples: []}", "policy must hold instructions and examples, and nothing else"),
    ("policy: {examples: [{steps: []}]}", r"policy.examples\[0\] has no statement"),
    ("policy: {examples: [{statement: a}]}", r"policy.examples\[0\] has no steps"),
    ("policy: {examples: [{statement: a, steps: [{think: b}]}]}", r"steps\[0\] must have one key of define, refine"),
    ("policy: {examples: [{statement: a, steps: [{define: b}]}]}", "one step must be code, the last"),
    ("policy: {examples: [{statement: a, steps: [{define: 'b<END>c'}, {code: d}]}]}", "does not read back as one step"),
    ("tcg: {examples: [{statement: a, solution: b, cases: [{input: 1}]}]}", r"tcg.examples\[0\]: KeyError"),
    ("tcg: {examples: [{statement: a, solution: b, form: call, cases: [{input: 1, output: 1}]}]}", "do not read back"),
    ("a: [", "cannot read the prompt file"),
]


@pytest.mark.parametrize(("text", "message"), MISTAKES)
def test_mistake_in_a_prompt_file_is_one_line_that_names_it(tmp_path: Path, text: str, message: str):
    path = write(tmp_path, text)
    with pytest.raises(UserError, match=message) as caught:
        render(path, None)
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)


def test_template_that_hides_the_statement_is_refused(tmp_path: Path):
    with pytest.raises(UserError, match="does not show the last message once"):
        render(write(tmp_path), lambda messages: "hello")
