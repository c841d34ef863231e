"""Whole answers from prompts: batches of `decode`, run until every row has met a stop."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import Mesh
from jaxtyping import Array, Float, Int, UInt32

from o1coder_jax.decode import decode, open_rows, read_on
from o1coder_jax.errors import UserError
from o1coder_jax.mesh import cache_shardings, host_copy, replicate, row_shards, shard_rows
from o1coder_jax.rows import LAID_HEADS, Paths, Rows, empty_rows, laid
from o1coder_jax.sampling import SamplingConfig, fold, seed_for
from o1coder_jax.stopping import Stops
from o1coder_jax.transformer import Transformer

CHUNK_STEPS = 16  # decode steps between two looks at which rows are done
_folded = jax.jit(fold)
PROMPT_BUCKET = 64  # prompts are padded to a multiple of this, so few shapes are compiled


@dataclass(frozen=True)
class Sample:
    """A generated answer: token ids, each one's log-probability, and whether it met a stop (or the cap)."""

    tokens: tuple[int, ...]
    log_probability: tuple[float, ...]
    ended: bool


@dataclass(frozen=True)
class GenerationConfig:
    """How much is generated at a time.

    Attributes:
      rows: rows in a batch, over all prompts.
      answer_tokens: cap of an answer.
      dtype: of whatever samples: activations, matrices, keys and values; null takes `model.dtype`.
    """

    rows: int = 256
    answer_tokens: int = 128
    dtype: Literal["float32", "bfloat16"] | None = None

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
    stops: Stops,
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
    ends = replicate(mesh, stops)
    settings = replicate(mesh, sampling.arrays())
    base = np.tile(np.asarray(seed_for(*seed)), (len(prompts), 1))
    keys = np.asarray(_folded(base, np.arange(len(prompts))))
    out: list[list[Sample]] = [[] for _ in prompts]
    for chosen in _chunks(order, group):
        width = -(-max(len(prompts[i]) for i in chosen) // PROMPT_BUCKET) * PROMPT_BUCKET
        tokens = np.zeros((group, width), np.int32)
        length = np.ones(group, np.int32)
        own = np.zeros((group, samples, 2), np.uint32)
        for row, index in enumerate(chosen):
            tokens[row, : len(prompts[index])] = prompts[index]
            length[row] = len(prompts[index])
            own[row] = keys[index]
        seeds = np.asarray(_folded(own.reshape(-1, 2), np.tile(np.arange(samples), group))).reshape(own.shape)
        batch = [x.reshape(shards, group // shards, *x.shape[1:]) for x in (tokens, length, seeds)]
        paths, running = start_batch(
            graph,
            weights,
            *shard_rows(mesh, batch),
            ends,
            settings,
            mesh=mesh,
            capacity=answer_tokens,
            truncated=sampling.truncated,
            penalised=sampling.penalised,
        )
        for _ in range(0, answer_tokens, CHUNK_STEPS):
            running = decode_batch(
                graph,
                weights,
                paths,
                running,
                ends,
                settings,
                mesh=mesh,
                steps=CHUNK_STEPS,
                width=samples,
                truncated=sampling.truncated,
            )
            if host_copy(running.done).reshape(group, samples)[: len(chosen)].all():
                break
        for index, answers in zip(chosen, _read(running, samples, stops.end), strict=False):
            out[index] = answers
    return out


@functools.partial(jax.jit, static_argnames=("graph", "mesh", "capacity", "truncated", "penalised"))
def start_batch(
    graph: nnx.GraphDef[Transformer],
    weights: Any,
    tokens: Int[Array, "D T S"],
    length: Int[Array, "D T"],
    seeds: UInt32[Array, "D T K 2"],
    stops: Stops,
    settings: Float[Array, "4"],
    *,
    mesh: Mesh,
    capacity: int,
    truncated: bool,
    penalised: bool = False,
) -> tuple[Paths, Rows]:
    """Reads prompts (length >= 1) and opens K rows on each, in each of the D parts of a mesh."""
    model = nnx.merge(graph, weights)

    def part(tokens: Array, length: Array, seeds: Array) -> tuple[Paths, Rows]:
        hidden, prefix = read_on(model, None, tokens, length, jnp.zeros_like(length))
        last = jnp.take_along_axis(hidden, (length - 1)[:, None, None], axis=1)[:, 0]
        prompts, width = seeds.shape[:2]
        said = None
        if penalised:
            none = jnp.zeros((prompts, model.vocab_size), bool)
            said = none.at[jnp.arange(prompts)[:, None], tokens].max(prefix.valid)
        keys, values = laid(prefix.keys, prefix.values)
        paths = Paths(keys, values, prefix.valid, model.logits(last), length, said=said)
        number = jnp.arange(prompts * width)
        rows = open_rows(
            paths,
            empty_rows(model, prompts * width, capacity, penalised=penalised),
            at=number,
            path=number // width,
            lane=number % width,
            seeds=seeds.reshape(-1, 2),
            stops=stops,
            settings=settings,
            truncated=truncated,
        )
        return paths, rows

    paths, rows = jax.vmap(part)(tokens, length, seeds)
    return paths, _in_parts(mesh, rows)


@functools.partial(jax.jit, static_argnames=("graph", "mesh", "steps", "width", "truncated"), donate_argnames=("rows",))
def decode_batch(
    graph: nnx.GraphDef[Transformer],
    weights: Any,
    paths: Paths,
    rows: Rows,
    stops: Stops,
    settings: Float[Array, "4"],
    *,
    mesh: Mesh,
    steps: int,
    width: int,
    truncated: bool,
) -> Rows:
    """`decode` in each part of a mesh, jitted, the rows donated."""
    model = nnx.merge(graph, weights)

    def part(paths: Paths, rows: Rows) -> Rows:
        return decode(model, paths, rows, steps=steps, width=width, stops=stops, settings=settings, truncated=truncated)

    return _in_parts(mesh, jax.vmap(part)(paths, rows))


def _in_parts(mesh: Mesh, rows: Rows) -> Rows:
    """Rows each in its part of the mesh. XLA would copy those that begin as zeros to all devices, and whatever reads
    them would be compiled again once they are split."""
    return jax.lax.with_sharding_constraint(rows, cache_shardings(mesh, rows, heads=LAID_HEADS))


def _chunks(values: list[int], size: int) -> Iterator[list[int]]:
    for start in range(0, len(values), size):
        yield values[start : start + size]


def _read(rows: Rows, samples: int, end: int) -> Iterator[list[Sample]]:
    tokens, length, scores, stop = host_copy((rows.tokens, rows.length, rows.log_probability, rows.stop))
    stopped = stop.reshape(-1, samples) == end
    tokens, scores = (x.reshape(-1, samples, x.shape[-1]) for x in (tokens, scores))
    for prompt, lengths in enumerate(length.reshape(-1, samples)):
        answers = []
        for k, count in enumerate(lengths):
            ids = tuple(tokens[prompt, k, :count].tolist())
            answers.append(Sample(ids, tuple(scores[prompt, k, :count].tolist()), bool(stopped[prompt, k])))
        yield answers
