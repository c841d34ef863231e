"""What stands around a problem when a model is asked: nothing but a marker, or instructions and worked examples.

A prompt file says how a checkpoint that was never trained on the step form is asked for it:

    policy:
      instructions: TEXT
      examples:
      - statement: TEXT
        steps: [{define: TEXT}, {refine: TEXT}, {code: PROGRAM}]
    tcg:
      instructions: TEXT
      examples:
      - {statement: TEXT, solution: PROGRAM, form: stdin, cases: [{input: TEXT, output: TEXT}]}

Either part may be left out. Each is rendered once, by the checkpoint's chat template or as plain text, with the
examples before the statement: all prompts of a search begin with the same tokens, which it then keeps once.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import yaml

from o1coder_jax import tcg
from o1coder_jax.errors import UserError
from o1coder_jax.records import Form, Problem, TestCase
from o1coder_jax.steps import NAMES, STEP_BEGIN, Action, parse_step, render_step, split_path
from o1coder_jax.vocabulary import Vocabulary

_ACTIONS = {name: action for action, name in NAMES.items()}
_PLACE = "THE_PROBLEM_STANDS_HERE_9f2c"  # what the rendered prompt is cut at

Message = dict[str, str]  # role (system, user, assistant) and content
Chat = Callable[[Sequence[Message]], str]  # messages to the text that the answer follows


@dataclass(frozen=True)
class Prompt:
    """The text before and after a problem.

    `before` is the same for all problems, and is turned into tokens on its own.
    """

    before: str = ""
    after: str = f"\n{STEP_BEGIN}"

    def encode(self, vocabulary: Vocabulary, text: str, cap: int, *, keep_end: bool = False) -> tuple[list[int], bool]:
        """Token ids, and whether the text was cut.

        Args:
          vocabulary: the model's.
          text: what is asked about.
          cap: tokens of the text and of `after` at most; `before` comes on top of them.
          keep_end: cut the beginning of a text that is too long, not its end.
        """
        before = vocabulary.encode(self.before) if self.before else []
        ids = vocabulary.encode(text + self.after)
        if len(ids) <= cap:
            return before + ids, False
        if keep_end:
            return before + ids[-cap:], True
        tail = vocabulary.encode(self.after)[-cap:]
        return before + ids[: cap - len(tail)] + tail, True


PLAIN = Prompt()


@dataclass(frozen=True)
class Prompts:
    """How the policy and the test case generator are asked."""

    policy: Prompt = PLAIN
    tcg: Prompt = PLAIN

    def save(self, path: Path) -> None:
        path.write_text(json.dumps(asdict(self), ensure_ascii=False, indent=1) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, path: Path) -> Prompts:
        """Reads what `save` wrote; plain prompts where there is no such file."""
        if not path.exists():
            return cls()
        try:
            found = json.loads(path.read_bytes())
            return cls(**{role: Prompt(**found[role]) for role in ("policy", "tcg")})
        except (OSError, ValueError, TypeError, KeyError) as error:
            raise UserError(f"{path} holds no prompts ({error!r}); restore it, or start the run afresh") from error


def render(path: Path, chat: Chat | None, opening: str = "") -> Prompts:
    """The prompts of a prompt file.

    Args:
      path: of the file; what is wrong in it is a `UserError`.
      chat: renders messages as a checkpoint's chat template does; plain text without one.
      opening: text that the model expects before everything; a chat template brings it itself.
    """
    found = _read(path)
    policy = _Turns.of_policy(_section(found, "policy", path), path)
    generator = _Turns.of_tcg(_section(found, "tcg", path), path)
    return Prompts(policy.prompt(chat, opening), generator.prompt(chat, opening))


@dataclass(frozen=True)
class _Turns:
    """Instructions, and pairs of a question and its answer."""

    instructions: str
    examples: list[tuple[str, str]]

    def prompt(self, chat: Chat | None, opening: str) -> Prompt:
        if chat is None:
            told = [self.instructions] if self.instructions else []
            told += [f"{asked}{PLAIN.after}{answer}" for asked, answer in self.examples]
            return Prompt(opening + "".join(f"{one}\n\n" for one in told))
        messages = [{"role": "system", "content": self.instructions}] if self.instructions else []
        for asked, answer in self.examples:
            messages += [{"role": "user", "content": asked}, {"role": "assistant", "content": answer}]
        messages.append({"role": "user", "content": _PLACE})
        before, place, after = chat(messages).partition(_PLACE)
        if not place or _PLACE in after:
            raise UserError("the chat template does not show the last message once; give the checkpoint another one")
        return Prompt(before, after)

    @classmethod
    def of_policy(cls, section: Mapping[str, Any], path: Path) -> _Turns:
        examples = []
        for number, row in enumerate(section.get("examples") or []):
            where = f"{path}: policy.examples[{number}]"
            statement = _text(row, "statement", where)
            steps = "".join(_steps(row, where))
            parsed = [parse_step(step) for step in split_path(steps)]
            if [step.terminal for step in parsed] != [False] * (len(parsed) - 1) + [True]:
                raise UserError(f"{where}: one step must be code, the last; write them as define, refine, ..., code")
            examples.append((statement, steps))
        return cls(_instructions(section, path, "policy"), examples)

    @classmethod
    def of_tcg(cls, section: Mapping[str, Any], path: Path) -> _Turns:
        examples = []
        for number, row in enumerate(section.get("examples") or []):
            where = f"{path}: tcg.examples[{number}]"
            statement, solution = _text(row, "statement", where), _text(row, "solution", where)
            try:
                form = Form(row.get("form", "stdin"))
                cases = [TestCase(case["input"], case["output"]) for case in row["cases"]]
            except (ValueError, KeyError, TypeError) as error:
                raise UserError(f"{where}: {error!r}; give form (stdin or call) and cases of input, output") from error
            answer = tcg.render_cases(cases, form)
            if len(tcg.parse_cases(answer, form)[0]) != len(cases) or not cases:
                raise UserError(f"{where}: its cases do not read back; of the call form an input is a list")
            asked = tcg.render_question(Problem("", statement, form, ()), solution)
            examples.append((asked, answer))
        return cls(_instructions(section, path, "tcg"), examples)


def _read(path: Path) -> Mapping[str, Any]:
    try:
        found = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError) as error:
        reason = error.strerror if isinstance(error, OSError) else " ".join(str(error).split())
        raise UserError(f"cannot read the prompt file {path}: {reason}") from error
    if not isinstance(found, dict) or not found.keys() <= {"policy", "tcg"}:
        raise UserError(f"{path} is no prompt file: it must hold the sections policy and tcg, and nothing else")
    return found


def _section(found: Mapping[str, Any], name: str, path: Path) -> Mapping[str, Any]:
    section = found.get(name) or {}
    if not isinstance(section, dict) or not section.keys() <= {"instructions", "examples"}:
        raise UserError(f"{path}: {name} must hold instructions and examples, and nothing else")
    if not isinstance(section.get("examples") or [], list):
        raise UserError(f"{path}: {name}.examples must be a list")
    return section


def _instructions(section: Mapping[str, Any], path: Path, name: str) -> str:
    return _text(section, "instructions", f"{path}: {name}") if section.get("instructions") else ""


def _text(row: Any, key: str, where: str) -> str:
    if not isinstance(row, dict) or not isinstance(row.get(key), str) or not row[key].strip():
        raise UserError(f"{where} has no {key}; give it as text")
    text: str = row[key]
    return text.strip()


def _steps(row: Mapping[str, Any], where: str) -> list[str]:
    steps = row.get("steps")
    if not isinstance(steps, list) or not steps:
        raise UserError(f"{where} has no steps; give a list such as [{{define: ...}}, {{code: ...}}]")
    out = []
    for number, step in enumerate(steps):
        if not isinstance(step, dict) or len(step) != 1 or not step.keys() <= _ACTIONS.keys():
            raise UserError(f"{where}.steps[{number}] must have one key of {', '.join(_ACTIONS)}")
        [(name, _)] = step.items()
        text = render_step(number, _ACTIONS[name], _text(step, name, f"{where}.steps[{number}]"))
        if len(split_path(text)) != 1 or parse_step(text).action is Action.NONE:
            raise UserError(f"{where}.steps[{number}] does not read back as one step; take markers and fences out")
        out.append(text)
    return out
