"""What is written to disk and crosses between rooms: problems, verdicts, reasoning paths.

Standard library only: the sandbox imports this module and must stay free of JAX.
Everything here is a frozen dataclass that turns into one JSON line and back.
"""

from __future__ import annotations

import dataclasses
import enum
import hashlib
import itertools
import json
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from o1coder_jax.errors import UserError


class Verdict(enum.StrEnum):
    """The outcome of a test or of a whole program.

    `INFRA_ERROR` means that we could not check: it is neither a pass nor a fail and is masked everywhere.
    """

    ACCEPTED = "accepted"
    WRONG_ANSWER = "wrong_answer"
    RUNTIME_ERROR = "runtime_error"
    COMPILE_ERROR = "compile_error"
    TIME_LIMIT = "time_limit"
    IDLE_LIMIT = "idle_limit"
    MEMORY_LIMIT = "memory_limit"
    OUTPUT_LIMIT = "output_limit"
    INFRA_ERROR = "infra_error"


class Form(enum.StrEnum):
    """How a program is run: as a script on standard input, or by calling one function."""

    STDIN = "stdin"
    CALL = "call"


@dataclasses.dataclass(frozen=True, slots=True)
class TestCase:
    """One input and its expected output.

    Form `stdin`: both are text. Form `call`: `input` is the list of arguments and `output` the returned
    value, both JSON values.
    """

    __test__ = False  # not a pytest class

    input: Any
    output: Any

    def to_json(self) -> dict[str, Any]:
        return {"input": self.input, "output": self.output}


@dataclasses.dataclass(frozen=True, slots=True)
class Problem:
    """A task with its tests.

    Attributes:
      id: unique within a run.
      statement: the text that a model reads (it names the function for the call form).
      form: `stdin` or `call`; `fn_name` is given for the call form only.
      tests: the problem's own tests, which search and RL may use.
      hidden: further tests, used for reported accuracy only.
      solutions: reference programs.
      difficulty: free text (`easy`, `2 operations`, ...).
      source: where the problem came from (`curriculum`, `taco:FILE#ROW`, ...).
      compare: comparison of outputs (see sandbox/compare.py), e.g. {"mode": "tokens"}.
      meta: JSON values of the source's own (the curriculum keeps the composition here).
    """

    id: str
    statement: str
    form: Form
    tests: tuple[TestCase, ...]
    hidden: tuple[TestCase, ...] = ()
    solutions: tuple[str, ...] = ()
    fn_name: str | None = None
    difficulty: str = ""
    source: str = ""
    compare: dict[str, Any] = dataclasses.field(default_factory=dict)
    meta: dict[str, Any] = dataclasses.field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        return {
            "id": self.id,
            "statement": self.statement,
            "form": str(self.form),
            "tests": [t.to_json() for t in self.tests],
            "hidden": [t.to_json() for t in self.hidden],
            "solutions": list(self.solutions),
            "fn_name": self.fn_name,
            "difficulty": self.difficulty,
            "source": self.source,
            "compare": self.compare,
            "meta": self.meta,
        }

    @classmethod
    def from_json(cls, row: dict[str, Any]) -> Problem:
        fields = dict(row)
        fields["form"] = Form(fields["form"])
        for name in ("tests", "hidden"):
            fields[name] = tuple(TestCase(t["input"], t["output"]) for t in fields.get(name, ()))
        fields["solutions"] = tuple(fields.get("solutions", ()))
        return cls(**fields)


@dataclasses.dataclass(frozen=True, slots=True)
class TestResult:
    """What one test gave. Times in seconds of the child's own clock and of the wall clock."""

    __test__ = False

    verdict: Verdict
    cpu_seconds: float = 0.0
    wall_seconds: float = 0.0
    memory_bytes: int = 0
    detail: str = ""


@dataclasses.dataclass(frozen=True, slots=True)
class Judgement:
    """A program's verdict over all its tests.

    `verdict` is the first that is not `accepted`, in test order; `infra_error` on any test makes the
    whole judgement one, since nothing can then be said of the pass rate. `tests` is shorter than
    `total` when judging stopped at the first failure.
    """

    verdict: Verdict
    compiled: bool
    passed: int
    total: int
    tests: tuple[TestResult, ...] = ()

    @property
    def checked(self) -> bool:
        """False when our own machinery failed: such a judgement carries no information."""
        return self.verdict is not Verdict.INFRA_ERROR

    @property
    def accepted(self) -> bool:
        return self.verdict is Verdict.ACCEPTED

    @property
    def pass_rate(self) -> float:
        """Share of all tests that passed, in [0, 1]; 0 when there are none."""
        return self.passed / self.total if self.total else 0.0


@dataclasses.dataclass(frozen=True, slots=True)
class StepRecord:
    """One reasoning step, which is one edge and one node of a search tree.

    Attributes:
      text: the step as the policy wrote it, delimiters left out.
      tokens: the sampled token ids, delimiter included; the truth that training uses.
      action: 1 define, 2 refine, 3 code, 0 not a well-formed step.
      value: Q / N in [0, 1]; None when the node was never visited.
      visits: N.
      log_probability: sum over the step's tokens under the policy that sampled it.
      node, parent: indices in the tree (the root is 0).
      truncated: it reached its cap before its end marker, and no step follows.
    """

    text: str
    tokens: tuple[int, ...]
    action: int
    value: float | None
    visits: int
    log_probability: float
    node: int
    parent: int
    truncated: bool = False


@dataclasses.dataclass(frozen=True, slots=True)
class ProcessRecord:
    """A path from the root to a leaf: (Q, S^1..S^m, v^1..v^m, C') of the paper, with provenance.

    Attributes:
      problem_id, prompt_tokens: Q, as text's owner and as the ids that the policy read.
      steps: S^1..S^m with their values.
      code: C', the program of the last step; None when the path has none.
      verdict: of `code` on the problem's own tests; None when the leaf holds no program.
      reward: alpha * compile + (1 - alpha) * pass rate; None when it could not be checked.
      ended: `code`, `depth` (the depth limit), `malformed`, `truncated` (a step that reached its cap); empty if the
        search went no further, though it could have.
      run, iteration, tree: which run, which round of search, which tree of it.
      policy, tokenizer, tests: hashes of the weights, the tokenizer and the tests used.
      relabelled_from: hash of the tests that gave the values before these did; empty if there were none.
    """

    problem_id: str
    prompt_tokens: tuple[int, ...]
    steps: tuple[StepRecord, ...]
    code: str | None
    verdict: Verdict | None
    reward: float | None
    ended: str
    run: str
    iteration: int
    tree: int
    policy: str
    tokenizer: str
    tests: str
    relabelled_from: str = ""

    @property
    def correct(self) -> bool:
        """True when the path's program passed every one of its tests: the only paths SFT may use."""
        return self.verdict is Verdict.ACCEPTED

    @property
    def log_probability(self) -> float:
        """Of all its steps, under the policy that drew them."""
        return sum(step.log_probability for step in self.steps)

    def to_json(self) -> dict[str, Any]:
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, row: dict[str, Any]) -> ProcessRecord:
        fields = dict(row)
        fields["prompt_tokens"] = tuple(fields["prompt_tokens"])
        fields["steps"] = tuple(StepRecord(**{**s, "tokens": tuple(s["tokens"])}) for s in fields["steps"])
        fields["verdict"] = None if fields["verdict"] is None else Verdict(fields["verdict"])
        return cls(**fields)


@dataclasses.dataclass(frozen=True, slots=True)
class PairRecord:
    """Two visited siblings under one node, the winner being the one of higher value.

    Attributes:
      problem_id, prompt_tokens: as in `ProcessRecord`.
      path_tokens: the ids of all steps before the two.
      winner, loser: with their values, visits and log-probabilities.
      run, iteration, tree, policy, tokenizer, tests, relabelled_from: as in `ProcessRecord`.
    """

    problem_id: str
    prompt_tokens: tuple[int, ...]
    path_tokens: tuple[int, ...]
    winner: StepRecord
    loser: StepRecord
    run: str
    iteration: int
    tree: int
    policy: str
    tokenizer: str
    tests: str
    relabelled_from: str = ""

    def to_json(self) -> dict[str, Any]:
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, row: dict[str, Any]) -> PairRecord:
        fields = dict(row)
        for name in ("prompt_tokens", "path_tokens"):
            fields[name] = tuple(fields[name])
        for name in ("winner", "loser"):
            fields[name] = StepRecord(**{**fields[name], "tokens": tuple(fields[name]["tokens"])})
        return cls(**fields)


def sibling_pairs(records: Iterable[ProcessRecord], margin: float) -> list[PairRecord]:
    """Pairs of visited siblings whose values differ by the margin at least, from the paths that lead to them."""
    first: dict[tuple[str, int, int, int], tuple[ProcessRecord, tuple[int, ...]]] = {}
    siblings: dict[tuple[str, int, int, int], dict[int, StepRecord]] = {}
    for record in records:
        before: tuple[int, ...] = ()
        for step in record.steps:
            parent = (record.run, record.iteration, record.tree, step.parent)
            first.setdefault(parent, (record, before))
            if step.value is not None:
                siblings.setdefault(parent, {})[step.node] = step
            before += step.tokens
    names = ("run", "iteration", "tree", "policy", "tokenizer", "tests", "relabelled_from")
    pairs = []
    for parent, children in siblings.items():
        record, before = first[parent]
        origin = {name: getattr(record, name) for name in names}
        for a, b in itertools.combinations(children.values(), 2):
            assert a.value is not None and b.value is not None
            if abs(a.value - b.value) >= margin:
                win, lose = (a, b) if a.value > b.value else (b, a)
                pairs.append(PairRecord(record.problem_id, record.prompt_tokens, before, win, lose, **origin))
    return pairs


def write_jsonl(path: str | os.PathLike[str], rows: Iterable[Any]) -> int:
    """Writes records (or plain JSON values) one to a line, in place of the file; returns their number.

    The file appears whole or not at all.
    """
    path = Path(path)
    temporary = path.with_name(path.name + ".part")
    count = 0
    with temporary.open("w", encoding="utf-8") as out:
        for row in rows:
            out.write(to_line(row))
            count += 1
        out.flush()
        os.fsync(out.fileno())
    temporary.replace(path)
    return count


def to_line(row: Any) -> str:
    """One JSON line, keys in order of definition, newline included."""
    return json.dumps(row.to_json() if hasattr(row, "to_json") else row, ensure_ascii=False) + "\n"


def read_jsonl(path: str | os.PathLike[str]) -> Iterator[Any]:
    """Yields the JSON value of each line; a broken line is a `UserError` that gives its number."""
    try:
        lines = Path(path).open("rb")  # what is not UTF-8 is found line by line
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}; give the path of a JSONL file") from error
    with lines:
        for number, line in enumerate(lines, 1):
            if not line.strip():
                continue
            try:
                yield json.loads(line)
            except (ValueError, RecursionError) as error:
                raise UserError(f"{path}, line {number}: not JSON ({error}); mend or remove the line") from error


def read_problems(path: str | os.PathLike[str]) -> list[Problem]:
    """Reads problems as `write_jsonl` wrote them."""
    problems = []
    for number, row in enumerate(read_jsonl(path), 1):
        try:
            problems.append(Problem.from_json(row))
        except (KeyError, TypeError, ValueError) as error:
            raise UserError(f"{path}, record {number}: not a problem ({error!r}); mend or remove it") from error
    return problems


def content_hash(*values: Any) -> str:
    """Sixteen hexadecimal digits that identify JSON values."""
    text = json.dumps(values, sort_keys=True, ensure_ascii=False, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]
