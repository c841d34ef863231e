"""Fresh continuations: how often a policy that goes on from a step comes to a program that passes.

A prefix is a problem with the steps of a path up to one that is not its end. Whole answers are drawn from there, and
each is judged on the problem's own tests. What was found is kept in a file, chunk by chunk, so that a kill costs one.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from jax.sharding import Mesh

from o1coder_jax.generate import GenerationConfig, Sample, generate
from o1coder_jax.policy import Policy
from o1coder_jax.records import Judgement, Problem, ProcessRecord, content_hash
from o1coder_jax.sampling import SamplingConfig
from o1coder_jax.steps import END, path_code
from train.chunks import done_in_chunks

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
    """What became of a prefix: for each continuation whether it passed, None where that could not be checked.

    `tokens` were generated for all of them.
    """

    problem_id: str
    iteration: int
    tree: int
    node: int
    policy: str
    outcomes: tuple[bool | None, ...]
    tokens: int = 0

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


@dataclass(frozen=True)
class Answer:
    """What was drawn from a prefix, the program of the whole path, and the verdict on it; None without a program."""

    sample: Sample
    code: str | None
    judgement: Judgement | None

    @property
    def passed(self) -> bool | None:
        """None where it could not be checked."""
        if self.judgement is None:
            return False
        return self.judgement.accepted if self.judgement.checked else None


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
        return done_in_chunks(
            prefixes,
            CHUNK_PREFIXES,
            self._chunk,
            path=path,
            key=self.key(prefixes),
            read=Continued.from_json,
            tell=tell,
        )

    def key(self, prefixes: Sequence[Prefix]) -> str:
        settings = [self.count, self.generation.answer_tokens, asdict(self.sampling), *self.seed]
        tests = [self.problem[prefix.problem_id].to_json()["tests"] for prefix in prefixes]
        return content_hash(self.policy.fingerprint, settings, [asdict(prefix) for prefix in prefixes], tests)

    def _chunk(self, prefixes: Sequence[Prefix], number: int) -> list[Continued]:
        return [
            Continued(
                prefix.problem_id,
                *prefix.place,
                self.policy.fingerprint,
                tuple(one.passed for one in answers),
                sum(len(one.sample.tokens) for one in answers),
            )
            for prefix, answers in zip(prefixes, self.answers(prefixes, SALT + number), strict=True)
        ]

    def answers(self, prefixes: Sequence[Prefix], salt: int) -> list[list[Answer]]:
        """Draws and judges `count` answers from each prefix."""
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
            seed=(*self.seed, salt),
        )
        codes = [
            [self._code(prefix, sample) for sample in samples] for prefix, samples in zip(prefixes, drawn, strict=True)
        ]
        verdicts = iter(
            self.judge_all(
                [(self.problem[p.problem_id], code) for p, own in zip(prefixes, codes, strict=True) for code in own]
            )
        )
        return [
            [Answer(sample, code, next(verdicts)) for sample, code in zip(samples, own, strict=True)]
            for samples, own in zip(drawn, codes, strict=True)
        ]

    def _code(self, prefix: Prefix, sample: Sample) -> str | None:
        """The program of the whole path; its steps are read together, as the policy wrote them."""
        text = self.policy.tokenizer.decode([*prefix.tokens[prefix.prompt_tokens :], *sample.tokens])
        return path_code(text) if sample.ended else None
