"""The policy: what it is asked, and how its answer is read."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from flax import nnx

from o1coder_jax.prompts import PLAIN, Prompt
from o1coder_jax.records import Problem
from o1coder_jax.steps import END, STEP_END, step_header
from o1coder_jax.stopping import Stops
from o1coder_jax.transformer import Transformer
from o1coder_jax.vocabulary import Vocabulary


@dataclass(frozen=True)
class Policy:
    """A decoder that writes reasoning steps.

    Attributes:
      graph, weights: the two halves of an `nnx.split` Transformer, which may carry a value head.
      tokenizer: its vocabulary.
      fingerprint: identifies the weights in records.
      prompt: how it is asked.
      head: identifies the value head, which then rates steps in a search; empty without one.
    """

    graph: nnx.GraphDef[Transformer]
    weights: Any
    tokenizer: Vocabulary
    fingerprint: str
    prompt: Prompt = PLAIN
    head: str = ""

    def stops(self) -> Stops:
        """Where a step is over."""
        return self.tokenizer.stops((STEP_END, END))


def encode_prompt(tokenizer: Vocabulary, problem: Problem, cap: int, prompt: Prompt = PLAIN) -> tuple[list[int], bool]:
    """Token ids of the prompt, and whether the statement was cut so that it takes `cap` with what follows it."""
    return prompt.encode(tokenizer, problem.statement.strip(), cap)


def encode_headers(tokenizer: Vocabulary, depth: int) -> list[list[int]]:
    """Token ids of the headers of a path's steps, `depth` of them; the first step is number 0, as in what we teach."""
    return [tokenizer.encode(step_header(number)) for number in range(depth)]
