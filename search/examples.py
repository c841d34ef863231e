"""O1-CODER's examples for reward models, to records and back.

    [{"prompt": TEXT, "response": "### Step 1: ...### Step 2: ...", "has_final_step": true, "label": [0.875]}, ...]

A response is a path down to the step that the label speaks of. Labels are numbers in [0, 1] (soft), or `positive` and
`negative` (hard: some rollout through the step was right, or none), bare or in a list of one. Examples do not say
which rollouts they come from: a record has their labels as values, with one visit for each.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Literal

from o1coder_jax.errors import UserError
from o1coder_jax.records import ProcessRecord, StepRecord, Verdict, content_hash
from o1coder_jax.steps import Action, fenced_program, render_prompt
from search.store import StoredTree
from search.tree import Tree

Labels = Literal["soft", "hard"]
_HARD = {"positive": 1.0, "negative": 0.0}
_STEP = re.compile(r"^(?:#+ *)?Step (\d+):", re.MULTILINE)
_ACTION = re.compile(r"\bAction ([123])\b")


def read_examples(path: Path) -> list[ProcessRecord]:
    """One record for each example; those of one prompt are a tree, in which equal beginnings are the same nodes."""
    try:
        rows = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}; give a JSON file of examples") from error
    except ValueError as error:
        raise UserError(f"{path}: not JSON ({error}); mend the file") from error
    if not isinstance(rows, list):
        raise UserError(f"{path}: not a list of examples; mend the file")
    trees: dict[str, _Examples] = {}
    for number, row in enumerate(rows):
        try:
            prompt, response, label = row["prompt"], row["response"], _value(row["label"])
            steps = split_response(response)
        except (KeyError, TypeError, ValueError, IndexError, AttributeError) as error:
            raise UserError(f"{path}, example {number}: {error!r}; give prompt, response and one label") from error
        trees.setdefault(prompt, _Examples(prompt, len(trees))).add(steps, label)
    return [record for examples in trees.values() for record in examples.records(path.name)]


def _value(label: Any) -> float:
    if isinstance(label, list):
        [label] = label
    value = _HARD[label] if isinstance(label, str) else float(label)
    if not 0 <= value <= 1:
        raise ValueError(f"label {value} is not in [0, 1]")
    return value


def split_response(response: str) -> list[str]:
    """The texts of a response's steps: a header counts where it has the next number."""
    starts: list[int] = []
    for match in _STEP.finditer(response):
        if int(match[1]) == len(starts) + 1:
            starts.append(match.start())
    if not starts:
        raise ValueError("the response has no 'Step 1:'")
    return [response[a:b].strip() for a, b in zip(starts, [*starts[1:], None], strict=True)]


class _Examples:
    """Examples of one prompt."""

    def __init__(self, prompt: str, tree: int):
        self._id, self._tree = f"prm-{content_hash(prompt)}", tree
        self._node: dict[tuple[int, str], int] = {}
        self._label: dict[int, float] = {}
        self._paths: list[list[tuple[int, int, str]]] = []

    def add(self, steps: list[str], label: float) -> None:
        path, at = [], 0
        for text in steps:
            parent, at = at, self._node.setdefault((at, text), len(self._node) + 1)
            path.append((parent, at, text))
        self._label[at] = label
        self._paths.append(path)

    def records(self, source: str) -> Iterator[ProcessRecord]:
        for path in self._paths:
            code = fenced_program(path[-1][2])
            value = self._label[path[-1][1]]
            verdict = Verdict.ACCEPTED if value == 1 else Verdict.WRONG_ANSWER
            yield ProcessRecord(
                problem_id=self._id,
                prompt_tokens=(),
                steps=tuple(self._step(*step) for step in path),
                code=code,
                verdict=None if code is None else verdict,
                reward=None if code is None else value,
                ended="" if code is None else "code",
                run=source,
                iteration=0,
                tree=self._tree,
                policy="",
                tokenizer="",
                tests="",
            )

    def _step(self, parent: int, node: int, text: str) -> StepRecord:
        value, found = self._label.get(node), _ACTION.search(text)
        action = Action(int(found[1])) if found else Action.NONE
        return StepRecord(text, (), int(action), value, int(value is not None), 0.0, node, parent)


def examples(trees: Iterable[StoredTree], labels: Labels) -> Iterator[dict[str, Any]]:
    """An example for every visited node of the trees."""
    for stored in trees:
        tree = stored.tree
        prompt = render_prompt(tree.problem.statement)
        right = _right(tree)
        for index, node in enumerate(tree.nodes[1:], 1):
            if node.value is None:
                continue
            hard = "positive" if index in right else "negative"
            yield {
                "prompt": prompt,
                "response": "\n\n".join(_header(tree, at) for at in tree.path(index)),
                "has_final_step": node.code is not None,
                "label": [node.value if labels == "soft" else hard],
            }


def _right(tree: Tree) -> set[int]:
    """Nodes on the way to a program that passed every test."""
    ends = (i for i, node in enumerate(tree.nodes) if node.judgement is not None and node.judgement.accepted)
    return {index for end in ends for index in tree.path(end)}


def _header(tree: Tree, index: int) -> str:
    """A step under a header, which some texts bring along."""
    node = tree.nodes[index]
    if _STEP.match(node.text):
        return node.text
    action = f" <Action {int(node.action)}>" if node.action is not Action.NONE else ""
    return f"### Step {node.depth}:{action}\n{node.text}"
