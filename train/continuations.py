"""Fresh continuations: how often a policy that goes on from a step comes to a program that passes.

A prefix is a problem with the steps of a path up to one that is not its end. Whole answers are drawn from there, and
each is judged on the problem's own tests. What was found is kept in a file, chunk by chunk, so that a kill costs one.
"""

from __future__ import annotations

import json
import os
import random
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from jax.sharding import Mesh

from o1coder_jax.generate import GenerationConfig, Sample, generate
from o1coder_jax.hosts import gather
from o1coder_jax.policy import Policy
from o1coder_jax.records import Judgement, Problem, ProcessRecord, content_hash, to_line
from o1coder_jax.sampling import SamplingConfig
from o1coder_jax.steps import END, path_code

CHUNK_PREFIXES = 128
SALT = 4_000_000  # of draws; apart from those of evaluation and RL

Place = tuple[int, int, int]
"""Iteration, tree and node of a step."""

JudgeAll = Callable[[Sequence[tuple[Problem, str | None]]], Sequence[Judgement | None]]


@dataclass(frozen=True)
class Prefix:
    """A step that may be continued: its problem, its place, and all tokens up to its end, the prompt's first."""

    problem_id: str
    iteration: int
    tree: int
    node: int
    prompt_tokens: int
    tokens: tuple[int, ...]

    @property
    def place(self) -> Place:
        return self.iteration, self.tree, self.node


@dataclass(frozen=True)
class Continued:
    """What became of a prefix: for each continuation whether it passed, None where that could not be checked."""

    problem_id: str
    iteration: int
    tree: int
    node: int
    policy: str
    outcomes: tuple[bool | None, ...]

    @property
    def place(self) -> Place:
        return self.iteration, self.tree, self.node

    @property
    def checked(self) -> list[bool]:
        return [outcome for outcome in self.outcomes if outcome is not None]

    @property
    def rate(self) -> float | None:
        """The share of the checked ones that passed."""
        return sum(self.checked) / len(self.checked) if self.checked else None

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, row: dict[str, Any]) -> Continued:
        return cls(**{**row, "outcomes": tuple(row["outcomes"])})


def prefixes_of(records: Iterable[ProcessRecord]) -> list[Prefix]:
    """The steps of paths that are not their ends, each node once, in the order of the records."""
    found: dict[Place, Prefix] = {}
    for record in records:
        tokens = record.prompt_tokens
        for step in record.steps if not record.ended else record.steps[:-1]:
            tokens += step.tokens
            place = (record.iteration, record.tree, step.node)
            if place not in found:
                found[place] = Prefix(record.problem_id, *place, len(record.prompt_tokens), tokens)
    return list(found.values())


def whole_problems(prefixes: Sequence[Prefix], count: int, seed: int) -> list[Prefix]:
    """All prefixes of so many problems, drawn by the seed, that there are `count` at least; all for 0."""
    names = sorted({prefix.problem_id for prefix in prefixes})
    random.Random(seed).shuffle(names)
    left, chosen = count or len(prefixes), set[str]()
    sizes = dict.fromkeys(names, 0)
    for prefix in prefixes:
        sizes[prefix.problem_id] += 1
    for name in names:
        if left > 0:
            chosen.add(name)
            left -= sizes[name]
    return [prefix for prefix in prefixes if prefix.problem_id in chosen]


@dataclass(frozen=True)
class Continuing:
    """How prefixes are continued.

    Attributes:
      policy: that draws.
      problem: by id.
      judge_all: verdicts on the problems' own tests, None where there is no program.
      count: continuations of each prefix.
      generation, sampling: batch, cap and temperature.
      seed: (seed, iteration); with the order of the prefixes the only source of chance.
    """

    policy: Policy
    problem: dict[str, Problem]
    judge_all: JudgeAll
    count: int
    generation: GenerationConfig
    sampling: SamplingConfig
    mesh: Mesh
    seed: tuple[int, int]

    def run(
        self, prefixes: Sequence[Prefix], path: Path, tell: Callable[[int], None] = lambda new: None
    ) -> list[Continued]:
        """Continues all prefixes; `path` keeps what is found until it is removed by the caller.

        Chunks that the file holds of an earlier attempt at the same are not drawn again.

        Args:
          tell: told how many prefixes are new in what was found.
        """
        chunks = [prefixes[i : i + CHUNK_PREFIXES] for i in range(0, len(prefixes), CHUNK_PREFIXES)]
        with _ChunkFile(path, self._key(prefixes)) as kept:
            done = min(gather(len(kept.chunks)))  # all processes draw the same
            found = [[Continued.from_json(row) for row in chunk] for chunk in kept.chunks[:done]]
            tell(sum(map(len, found)))
            for number, chunk in list(enumerate(chunks))[done:]:
                found.append(self._chunk(chunk, number))
                if number >= len(kept.chunks):
                    kept.add(found[-1])
                tell(len(chunk))
        return [one for chunk in found for one in chunk]

    def _key(self, prefixes: Sequence[Prefix]) -> str:
        settings = [self.count, self.generation.answer_tokens, asdict(self.sampling), *self.seed]
        tests = [self.problem[prefix.problem_id].to_json()["tests"] for prefix in prefixes]
        return content_hash(self.policy.fingerprint, settings, [asdict(prefix) for prefix in prefixes], tests)

    def _chunk(self, prefixes: Sequence[Prefix], number: int) -> list[Continued]:
        drawn = generate(
            self.policy.graph,
            self.policy.weights,
            [prefix.tokens for prefix in prefixes],
            samples=self.count,
            stops=self.policy.tokenizer.stops((END,)),
            rows=self.generation.rows,
            answer_tokens=self.generation.answer_tokens,
            sampling=self.sampling,
            mesh=self.mesh,
            seed=(*self.seed, SALT + number),
        )
        programs = [
            (self.problem[prefix.problem_id], self._code(prefix, sample))
            for prefix, samples in zip(prefixes, drawn, strict=True)
            for sample in samples
        ]
        verdicts = iter(self.judge_all(programs))
        out = []
        for prefix in prefixes:
            own = [next(verdicts) for _ in range(self.count)]
            outcomes = tuple(False if v is None else v.accepted if v.checked else None for v in own)
            out.append(Continued(prefix.problem_id, *prefix.place, self.policy.fingerprint, outcomes))
        return out

    def _code(self, prefix: Prefix, sample: Sample) -> str | None:
        """The program of the whole path; its steps are read together, as the policy wrote them."""
        text = self.policy.tokenizer.decode([*prefix.tokens[prefix.prompt_tokens :], *sample.tokens])
        return path_code(text) if sample.ended else None


class _ChunkFile:
    """A key, and chunks of JSON rows, one to a line, each on disk when `add` returns."""

    def __init__(self, path: Path, key: str):
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = path.open("a+b")
        self._file.seek(0)
        first, *lines = self._file.read().split(b"\n")[:-1] or [b""]  # what follows the last line's end was cut off
        head = to_line({"continuations": key}).encode()
        if first + b"\n" != head:
            lines = []
        self.chunks: list[list[dict[str, Any]]] = [json.loads(line) for line in lines]
        self._file.truncate(len(head) + sum(len(line) + 1 for line in lines) if lines else 0)
        if not lines:
            self._write(head)

    def __enter__(self) -> _ChunkFile:
        return self

    def __exit__(self, *error: object) -> None:
        self._file.close()

    def add(self, rows: Sequence[Continued]) -> None:
        self._write(to_line([row.to_json() for row in rows]).encode())

    def _write(self, line: bytes) -> None:
        self._file.write(line)
        self._file.flush()
        os.fsync(self._file.fileno())
