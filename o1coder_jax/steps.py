"""The grammar of reasoning steps, and the one parser of them.

A step is one edge of a search tree. Its text is

    K. ACTION: BODY

with ACTION one of `define` (the structure of the solution: inputs, outputs, parts), `refine` (detail for one
part; may repeat) and `code` (Python, in one fenced block, which ends the path). `STEP_END` closes a define or
refine step and `END` closes a code step, so a path reads

    0. define: ...<Step_End>1. refine: ...<Step_End>2. code:
    ```python
    ...
    ```<END>

The paper's three actions, arXiv 2412.00154, section 3; one parser is used everywhere, where the published
code takes the first block in one place and the last in another.
"""

from __future__ import annotations

import dataclasses
import enum
import re

STEP_BEGIN = "<Step_Begin>"
STEP_END = "<Step_End>"
END = "<END>"


class Action(enum.IntEnum):
    """What a step does; `NONE` stands for text that is not a step."""

    NONE = 0
    DEFINE = 1
    REFINE = 2
    CODE = 3


NAMES = {Action.DEFINE: "define", Action.REFINE: "refine", Action.CODE: "code"}
_ACTIONS = {name: action for action, name in NAMES.items()}
_STEP = re.compile(r"\s*(\d{1,3})\. (define|refine|code):[ \n](.*)", re.DOTALL)
_BLOCK = re.compile(r"```python\n(.*?)^```[ \t]*$", re.DOTALL | re.MULTILINE)  # closed on a line of its own


@dataclasses.dataclass(frozen=True, slots=True)
class Step:
    """A parsed step. `code` is given for action `CODE` only; `action` is `NONE` for malformed text."""

    action: Action
    body: str
    code: str | None = None

    @property
    def terminal(self) -> bool:
        return self.action is Action.CODE


def step_header(number: int) -> str:
    """What every step's text begins with."""
    return f"{number}. "


def render_step(number: int, action: Action, body: str) -> str:
    """The text of a step, end marker included. For `CODE`, `body` is the bare program."""
    if action is Action.CODE:
        return f"{step_header(number)}code:\n```python\n{body}\n```{END}"
    return f"{step_header(number)}{NAMES[action]}: {body}{STEP_END}"


def parse_step(text: str) -> Step:
    """Reads one step; end markers are ignored.

    A code step without a complete fenced block, and any text that is not a step, has action `NONE`.
    The program is the last complete block.
    """
    match = _STEP.fullmatch(text.removesuffix(END).removesuffix(STEP_END))
    if match is None:
        return Step(Action.NONE, text)
    action, body = _ACTIONS[match[2]], match[3]
    if action is not Action.CODE:
        return Step(action, body)
    program = fenced_program(body)
    return Step(Action.NONE, text) if program is None else Step(action, body, program)


def fenced_program(text: str) -> str | None:
    """The last complete fenced block of Python in a text; None if it has none."""
    blocks: list[str] = _BLOCK.findall(text)
    return blocks[-1].removesuffix("\n") if blocks else None


def split_path(text: str) -> list[str]:
    """Cuts the text of a whole path into its steps' texts, each with its end marker."""
    return [piece for piece in re.findall(rf".*?(?:{STEP_END}|{END}|\Z)", text, re.DOTALL) if piece]


def path_code(text: str) -> str | None:
    """The program of a whole path: that of its first code step; None if a step before it is malformed."""
    for piece in split_path(text):
        step = parse_step(piece)
        if step.action is Action.NONE:
            return None
        if step.terminal:
            return step.code
    return None


def render_prompt(statement: str) -> str:
    """What the policy reads before the first step, where it needs no examples (see `prompts.py`)."""
    return f"{statement.strip()}\n{STEP_BEGIN}"
