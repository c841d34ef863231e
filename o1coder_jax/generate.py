"""Whole answers from prompts: batches of `decode`, run until every row has met a stop token."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import Mesh

from o1coder_jax.decode import decode_batch, start_batch, stop_mask
from o1coder_jax.errors import UserError
from o1coder_jax.mesh import replicate, row_shards, shard_rows
from o1coder_jax.sampling import SamplingConfig, fold, seed_for
from o1coder_jax.transformer import Transformer

CHUNK_STEPS = 16  # decode steps between two looks at which rows are done
PROMPT_BUCKET = 64  # prompts are padded to a multiple of this, so few shapes are compiled


@dataclass(frozen=True)
class Sample:
    """A generated answer: token ids, each one's log-probability, and whether it met a stop token (or the cap)."""

    tokens: tuple[int, ...]
    log_probability: tuple[float, ...]
    ended: bool


@dataclass(frozen=True)
class GenerationConfig:
    """How much is generated at a time.

    Attributes:
      rows: rows in a batch, over all prompts.
      answer_tokens: cap of an answer.
    """

    rows: int = 256
    answer_tokens: int = 128

    def __post_init__(self) -> None:
        for name in ("rows", "answer_tokens"):
            if getattr(self, name) < 1:
                raise UserError(f"generation.{name} is {getattr(self, name)}; it must be at least 1")


def generate(
    graph: nnx.GraphDef[Transformer],
    weights: Any,
    prompts: Sequence[Sequence[int]],
    *,
    samples: int,
    stops: Sequence[int],
    vocab_size: int,
    rows: int,
    answer_tokens: int,
    sampling: SamplingConfig,
    mesh: Mesh,
    seed: Sequence[int],
) -> list[list[Sample]]:
    """Draws `samples` answers for every prompt.

    `rows` is the number of rows in a batch over all prompts; answers are capped at `answer_tokens`.
    A prompt's draws derive from `seed` and its place in `prompts`, not from the batch it falls into.

    Returns:
      One list of samples for each prompt, in the order of the prompts.
    """
    shards = row_shards(mesh)
    group = max(rows // samples // shards, 1) * shards
    order = sorted(range(len(prompts)), key=lambda i: len(prompts[i]))
    stop = replicate(mesh, stop_mask(vocab_size, stops))
    settings = replicate(mesh, sampling.arrays())
    base = np.tile(np.asarray(seed_for(*seed)), (len(prompts), 1))
    keys = np.asarray(fold(jnp.asarray(base), jnp.arange(len(prompts))))
    out: list[list[Sample]] = [[] for _ in prompts]
    for chosen in _chunks(order, group):
        width = -(-max(len(prompts[i]) for i in chosen) // PROMPT_BUCKET) * PROMPT_BUCKET
        tokens = np.zeros((group, width), np.int32)
        length = np.ones(group, np.int32)
        seeds = np.zeros((group, samples, 2), np.uint32)
        for row, index in enumerate(chosen):
            tokens[row, : len(prompts[index])] = prompts[index]
            length[row] = len(prompts[index])
            seeds[row] = np.asarray(fold(jnp.asarray(np.tile(keys[index], (samples, 1))), jnp.arange(samples)))
        tokens, length, seeds = shard_rows(mesh, (tokens, length, seeds))
        prefix, running = start_batch(
            graph,
            weights,
            tokens,
            length,
            seeds,
            stop,
            settings,
            capacity=answer_tokens,
            truncated=sampling.truncated,
        )
        for _ in range(0, answer_tokens, CHUNK_STEPS):
            running = decode_batch(
                graph, weights, prefix, running, stop, settings, steps=CHUNK_STEPS, truncated=sampling.truncated
            )
            if jax.device_get(running.done)[: len(chosen)].all():
                break
        for index, answers in zip(chosen, _read(running, stops), strict=False):
            out[index] = answers
    return out


def _chunks(values: list[int], size: int) -> Iterator[list[int]]:
    for start in range(0, len(values), size):
        yield values[start : start + size]


def _read(rows: Any, stops: Sequence[int]) -> Iterator[list[Sample]]:
    tokens, length, scores = jax.device_get((rows.tokens, rows.length, rows.log_probability))
    for prompt in range(len(tokens)):
        answers = []
        for k in range(tokens.shape[1]):
            ids = tuple(tokens[prompt, k, : length[prompt, k]].tolist())
            answers.append(Sample(ids, tuple(scores[prompt, k, : len(ids)].tolist()), ids[-1] in stops))
        yield answers
