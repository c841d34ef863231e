"""Whole answers, drawn for the reward model: what a step is worth, by how many paths through it passed.

Trees spend their rollouts on few problems. An answer costs a tenth of a rollout, and each says of all its steps
whether they led to a program that passes: a Monte-Carlo label of one draw (as arXiv 2312.08935 has of several). The
answers to one problem are laid over each other where they begin alike, so that steps which many share have labels of
many draws.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from o1coder_jax.errors import UserError
from o1coder_jax.records import ProcessRecord, StepRecord, Verdict, content_hash
from o1coder_jax.steps import END, STEP_END, parse_step
from o1coder_jax.stopping import Stops, stop_places
from o1coder_jax.vocabulary import Vocabulary
from train.chunks import done_in_chunks
from train.continuations import CHUNK_PREFIXES, Answer, Continuing, Prefix

SALT = 6_000_000  # of draws; apart from those of continuations


@dataclass(frozen=True)
class DrawnConfig:
    """How many answers are drawn for a problem in each round, by the policy that grew the round's trees.

    Attributes:
      selfplay: for each problem that the round has searched.
      training: for each problem of the training part.
    """

    selfplay: int = 0
    training: int = 0

    def __post_init__(self) -> None:
        for name in ("selfplay", "training"):
            if getattr(self, name) < 0:
                raise UserError(f"prm.drawn.{name} is {getattr(self, name)}; it must not be negative")

    def __bool__(self) -> bool:
        return bool(self.selfplay or self.training)


def roots(problems: Iterable[tuple[str, Sequence[int]]], iteration: int, first: int) -> list[Prefix]:
    """Prompts as prefixes without a step. Their trees have numbers below 0, where no search has any."""
    return [
        Prefix(name, iteration, -first - number, 0, len(prompt), tuple(prompt))
        for number, (name, prompt) in enumerate(problems, 1)
    ]


def drawn_paths(
    drawing: Continuing, prefixes: Sequence[Prefix], path: Path, run: str, tell: Callable[[int], None]
) -> list[ProcessRecord]:
    """Draws and judges answers to all prompts, and returns their paths; `path` as in `Continuing.run`."""
    vocabulary = drawing.policy.tokenizer
    stops = vocabulary.stops((STEP_END, END))

    def chunk(some: Sequence[Prefix], number: int) -> list[ProcessRecord]:
        return [
            replace(record, run=run, policy=drawing.policy.fingerprint, tokenizer=vocabulary.fingerprint)
            for prefix, answers in zip(some, drawing.answers(some, SALT + number), strict=True)
            for record in paths_of(prefix, answers, vocabulary, stops)
        ]

    key = content_hash("drawn", drawing.key(prefixes))
    return done_in_chunks(prefixes, CHUNK_PREFIXES, chunk, path=path, key=key, read=ProcessRecord.from_json, tell=tell)


def drawn_tokens(records: Iterable[ProcessRecord]) -> int:
    """Tokens of the whole steps of all answers that the paths stand for."""
    steps = {(one.tree, step.node): len(step.tokens) * step.visits for one in records for step in one.steps}
    return sum(steps.values())


def paths_of(prefix: Prefix, answers: Sequence[Answer], vocabulary: Vocabulary, stops: Stops) -> list[ProcessRecord]:
    """The different paths among the answers to a prompt; a step's value is the share of those through it that passed.

    Answers that could not be checked are left out; of those that met the cap, the step which it cut off.
    """
    nodes: dict[tuple[int, ...], int] = {}
    visits: dict[int, int] = {}
    passed: dict[int, int] = {}
    paths: dict[int, tuple[Answer, list[StepRecord]]] = {}
    for answer in answers:
        if answer.passed is None:
            continue
        steps: list[StepRecord] = []
        start, node = 0, 0
        for place in stop_places(stops, answer.sample.tokens):
            tokens = answer.sample.tokens[start : place + 1]
            parent, node = node, nodes.setdefault(answer.sample.tokens[: place + 1], len(nodes) + 1)
            visits[node] = visits.get(node, 0) + 1
            passed[node] = passed.get(node, 0) + answer.passed
            text = vocabulary.decode(list(tokens))
            chance = sum(answer.sample.log_probability[start : place + 1])
            steps.append(StepRecord(text, tokens, int(parse_step(text).action), None, 0, chance, node, parent))
            start = place + 1
        if steps:
            paths.setdefault(node, (answer, steps))

    def valued(step: StepRecord) -> StepRecord:
        return replace(step, value=passed[step.node] / visits[step.node], visits=visits[step.node])

    return [
        ProcessRecord(
            problem_id=prefix.problem_id,
            prompt_tokens=prefix.tokens,
            steps=tuple(map(valued, steps)),
            code=answer.code,
            verdict=verdict_of(answer),
            reward=float(bool(answer.passed)),
            ended="code" if answer.code is not None else "malformed" if answer.sample.ended else "truncated",
            run="",
            iteration=prefix.iteration,
            tree=prefix.tree,
            policy="",
            tokenizer="",
            tests="",
        )
        for answer, steps in paths.values()
    ]


def verdict_of(answer: Answer) -> Verdict | None:
    return None if answer.judgement is None else answer.judgement.verdict
