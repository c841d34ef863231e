"""O1-CODER's answer sheets: a folder of `Question NNNN - KIND Solutions.json`, to trees and back.

    Complete   a list of paths to programs: {DEPTH: {"node_id", "ost_step", "step_value", "edges"}, "0": {"question"}}
    Rollout    where each rollout ended: {"trace": {"0": {"user_question", "ost_step", "ost_step_value"}}, "rollout_id",
               "value"}; a JSON list, or objects that are each followed by a comma
    Best       the first rollout of the highest value
    Answer     the problem: {"id", "problem", "gold_solution", "test_case", "difficulty"}

A sheet tells what every rollout came to, so N and Q of each node follow from it. The published exporter divides a
program's single reward by its visits; a tree that is read as `published` has the values that it wrote, any other has
Q / N everywhere. A sheet holds no token ids, no log-probabilities, and of a verdict the reward alone; its steps follow
another grammar than ours, so that records of it cannot train a policy.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from o1coder_jax.errors import UserError
from o1coder_jax.problems.rows import Row
from o1coder_jax.problems.taco import problem_of
from o1coder_jax.records import Form, Judgement, Problem, Verdict, write_jsonl
from o1coder_jax.steps import Action, fenced_program
from search.tree import Node, Rollout, Tree

_NAME = re.compile(r"question (\d+) - (complete|rollout|answer)(?: solutions)?\.json", re.IGNORECASE)
_ACTION = re.compile(r"\bAction ([123])\b")


@dataclass(frozen=True)
class Sheet:
    """What the files of one question hold; `answer` may be missing."""

    number: int
    where: str
    complete: list[dict[str, Any]]
    rollouts: list[dict[str, Any]]
    answer: dict[str, Any] | None

    def tree(self, *, published: bool) -> Tree:
        """The tree, as far as the sheet tells of it: all paths to programs, and where each rollout ended."""
        try:
            return _Reader(self, published).tree
        except (KeyError, TypeError, ValueError, IndexError, AttributeError) as error:
            raise UserError(f"{self.where}: not an answer sheet ({error!r}); mend or remove it") from error

    def differences(self) -> int:
        """Of how many steps on the complete paths the published rule gives another value than the one on record."""
        tree, different = self.tree(published=True), 0
        index = _Reader(self, True).index
        for path in self.complete:
            for step in path.values():
                if "step_value" in step:
                    different += (tree.nodes[index[step["node_id"]]].value or 0.0) != step["step_value"]
        return different


def read_sheets(folder: Path) -> Iterator[Sheet]:
    """The sheets of a folder, by number."""
    files: dict[int, dict[str, Path]] = {}
    for path in sorted(folder.iterdir()) if folder.is_dir() else []:
        if match := _NAME.fullmatch(path.name):
            files.setdefault(int(match[1]), {}).setdefault(match[2].lower(), path)
    if not files:
        raise UserError(f"{folder} holds no 'Question NNNN - Complete Solutions.json'; give a folder of answer sheets")
    for number, kinds in sorted(files.items()):
        for kind in ("complete", "rollout"):
            if kind not in kinds:
                raise UserError(
                    f"{folder}: question {number} has no {kind} solutions; add the file, or remove the others"
                )
        answer = next(iter(_values(kinds["answer"])), None) if "answer" in kinds else None
        complete, rollouts = _values(kinds["complete"]), _values(kinds["rollout"])
        yield Sheet(number, f"{folder}, question {number}", complete, rollouts, answer)


def _values(path: Path) -> list[Any]:
    """A list, one object, or objects that commas join."""
    try:
        text = path.read_text(encoding="utf-8").strip()
        found = json.loads(text if text.startswith("[") else f"[{text.rstrip(',')}]")
    except ValueError as error:
        raise UserError(f"{path}: not JSON, nor objects joined by commas ({error}); mend the file") from error
    return list(found)


class _Reader:
    """Builds a tree; `index` maps the sheet's node ids to the tree's."""

    def __init__(self, sheet: Sheet, published: bool):
        steps = {step["node_id"]: step for path in sheet.complete for depth, step in path.items() if int(depth) > 0}
        question = sheet.rollouts[0]["trace"]["0"]["user_question"] if sheet.rollouts else ""
        self.tree = Tree(sheet.number, _problem(sheet, question), ())
        self.index = {0: 0}
        self._children: dict[tuple[int, str], list[int]] = {}
        for number in sorted(steps):
            self.index[number] = self._add(self.index[steps[number]["edges"][0]], steps[number]["ost_step"])
        rollouts = []
        seen: set[int] = set()
        for row in sheet.rollouts:
            end = self._end(row)
            rollouts.append(Rollout(end, again=published and end in seen))
            seen.add(end)
        self.tree.finish(rollouts)

    def _add(self, parent: int, text: str) -> int:
        program, found = fenced_program(text), _ACTION.search(text)
        action = Action.CODE if program is not None else Action(int(found[1])) if found else Action.NONE
        node = Node(parent, self.tree.nodes[parent].depth + 1, text=text, action=action, code=program)
        node.ended = "" if program is None else "code"
        number = len(self.tree.nodes)
        self.tree.nodes.append(node)
        self._children.setdefault((parent, text), []).append(number)
        return number

    def _known(self, at: int, texts: list[str]) -> list[int]:
        """The longest way down from a node that these texts spell: siblings with equal texts are told apart by
        what comes after them; where nothing does, the first is taken for all."""
        ways = (
            [[child, *self._known(child, texts[1:])] for child in self._children.get((at, texts[0]), [])]
            if texts
            else []
        )
        return max(ways, key=len, default=[])

    def _end(self, row: dict[str, Any]) -> int:
        """The node where a rollout ended, with its reward; one without a program met the depth limit, and got 0."""
        steps = row["trace"]["0"]["ost_step"]
        texts = [steps[depth] for depth in sorted(steps, key=int)]
        known = self._known(0, texts)
        at = known[-1] if known else 0
        for text in texts[len(known) :]:
            at = self._add(at, text)
        node = self.tree.nodes[at]
        if node.code is None:
            node.ended, node.reward = "depth", 0.0
        else:
            node.reward = None if row["value"] is None else float(row["value"])
            node.judgement = _judgement(node.reward, len(self.tree.problem.tests) or 1)
        return at


def _judgement(reward: float | None, total: int) -> Judgement:
    """A verdict that goes with a reward, which is all that a sheet has: the pass rate."""
    if reward is None:
        return Judgement(Verdict.INFRA_ERROR, compiled=True, passed=0, total=total)
    verdict = Verdict.ACCEPTED if reward == 1 else Verdict.WRONG_ANSWER
    return Judgement(verdict, compiled=True, passed=round(reward * total), total=total)


def _problem(sheet: Sheet, question: str) -> Problem:
    """The sheet's problem; without an answer file it has no tests."""
    id, answer = f"o1coder#{sheet.number}", sheet.answer
    if answer is None:
        return Problem(id, question, Form.STDIN, (), source=id)
    row = {
        "question": answer["problem"],
        "input_output": answer["test_case"],
        "solutions": [answer["gold_solution"]],
        "difficulty": answer.get("difficulty"),
    }
    return problem_of(Row(row, id, sheet.where, id))


# Writing.


def write_sheet(folder: Path, tree: Tree, problem: Problem | None) -> None:
    """Writes the files of a tree; `problem` has the tests, which a stored tree lacks, and makes the answer file."""
    if tree.value_weight:
        raise UserError(
            f"the tree of {tree.problem.id} was valued by a reward model (search.value_weight {tree.value_weight}); "
            "answer sheets can only tell of verdicts"
        )
    rollouts = list(_rollouts(tree))
    best = max((row for row in rollouts if row["value"] is not None), key=lambda row: row["value"], default=None)
    files: dict[str, Any] = {
        "Complete Solutions": list(_complete(tree)),
        "Rollout Solutions": rollouts,
        **({"Best Solutions": best} if best else {}),
        **({"Answer": _answer(tree.number, problem)} if problem else {}),
    }
    for kind, value in files.items():
        write_jsonl(folder / f"Question {tree.number:04d} - {kind}.json", [value])


def _complete(tree: Tree) -> Iterator[dict[str, Any]]:
    """Paths to programs, in the order of a walk that goes down before it goes on; the deepest step first."""
    programs = [index for index, node in enumerate(tree.nodes) if node.code is not None]
    for index in sorted(programs, key=tree.path):
        path: dict[str, Any] = {}
        for at in reversed(tree.path(index)):
            node = tree.nodes[at]
            value = 0 if node.value is None else node.value
            path[str(node.depth)] = {
                "node_id": at,
                "ost_step": node.text,
                "step_value": value,
                "edges": [node.parent, at],
            }
        yield path | {"0": {"node_id": 0, "question": tree.problem.statement}}


def _rollouts(tree: Tree) -> Iterator[dict[str, Any]]:
    """Where the rollouts ended, each with what its steps had gathered by then."""
    total = [0.0] * len(tree.nodes)
    for number, rollout in enumerate(tree.rollouts):
        for index, worth in tree.worths(rollout):
            total[index] += worth
        path = tree.path(rollout.end)
        trace = {
            "user_question": tree.problem.statement,
            "ost_step": {str(depth): tree.nodes[index].text for depth, index in enumerate(path, 1)},
            "ost_step_value": {str(depth): total[index] for depth, index in enumerate(path, 1)},
        }
        end = tree.nodes[rollout.end]
        yield {"trace": {"0": trace}, "rollout_id": number, "value": end.reward if end.code is not None else None}


def _answer(number: int, problem: Problem) -> dict[str, Any]:
    tests = {"inputs": [test.input for test in problem.tests], "outputs": [test.output for test in problem.tests]}
    return {
        "id": number,
        "problem": problem.statement,
        "gold_solution": problem.solutions[0] if problem.solutions else None,
        "test_case": ({"fn_name": problem.fn_name} if problem.fn_name else {}) | tests,
        "difficulty": problem.difficulty,
    }
