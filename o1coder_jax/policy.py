"""The policy: what it is asked, and how its answer is read."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from flax import nnx

from o1coder_jax.records import Problem
from o1coder_jax.steps import STEP_BEGIN, render_prompt
from o1coder_jax.stopping import Stops, stop_ids
from o1coder_jax.tokenizer import Tokenizer
from o1coder_jax.transformer import Transformer


@dataclass(frozen=True)
class Policy:
    """A decoder that writes reasoning steps.

    Attributes:
      graph, weights: the two halves of an `nnx.split` Transformer.
      tokenizer: its vocabulary.
      fingerprint: identifies the weights in records.
    """

    graph: nnx.GraphDef[Transformer]
    weights: Any
    tokenizer: Tokenizer
    fingerprint: str

    @property
    def step_stops(self) -> tuple[int, ...]:
        """Ids after which a step is over."""
        return self.tokenizer.step_end, self.tokenizer.end

    def stops(self) -> Stops:
        """Where a step is over."""
        return stop_ids(self.tokenizer.vocab_size, self.step_stops)

    @property
    def path_stops(self) -> tuple[int, ...]:
        """Ids after which a whole path is over."""
        return (self.tokenizer.end,)


def encode_prompt(tokenizer: Tokenizer, problem: Problem, cap: int) -> tuple[list[int], bool]:
    """Token ids of the prompt, at most `cap`, and whether the statement was cut to fit."""
    ids = tokenizer.encode(render_prompt(problem.statement))
    if len(ids) <= cap:
        return ids, False
    tail = tokenizer.encode(f"\n{STEP_BEGIN}")[-cap:]
    return ids[: cap - len(tail)] + tail, True
