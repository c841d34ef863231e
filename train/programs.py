"""Programs that a policy writes when it is asked for a whole path at once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from o1coder_jax.generate import Sample
from o1coder_jax.policy import Policy
from o1coder_jax.records import Problem
from o1coder_jax.steps import path_code
from train.session import Session


@dataclass(frozen=True)
class Program:
    """A sampled path: its tokens, its text and the program in it (None if it has none)."""

    sample: Sample
    text: str
    code: str | None


def sample_programs(
    session: Session, policy: Policy, problems: Sequence[Problem], *, samples: int, salt: int, temperature: float = 1.0
) -> list[list[Program]]:
    """Draws whole paths for each problem; temperature 0 is greedy."""
    drawn = session.generate(
        policy.weights, session.prompts(problems), samples=samples, salt=salt, temperature=temperature
    )
    return [[_read(session, sample) for sample in samples_of] for samples_of in drawn]


def _read(session: Session, sample: Sample) -> Program:
    text = session.tokenizer.decode(sample.tokens)
    return Program(sample, text, path_code(text) if sample.ended else None)
