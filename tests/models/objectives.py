"""A batch, a model, and what plain numpy makes of them: what the tests of the objectives share."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from o1coder_jax import losses
from tests.tiny import decoder

B, S = 4, 12
LENGTHS = (12, 7, 9, 5)
PROMPT = 3


def make_model():
    return decoder(value_head=True)


def make_batch():
    rng = np.random.default_rng(0)
    inside = np.arange(S) < np.array(LENGTHS)[:, None]
    weight = (inside & (np.arange(S) >= PROMPT)).astype(np.float32)
    last = (np.arange(S) == np.array(LENGTHS)[:, None] - 1).astype(np.float32)
    return {
        "tokens": np.where(inside, rng.integers(1, 13, (B, S)), 0).astype(np.int32),
        "positions": np.tile(np.arange(S, dtype=np.int32), (B, 1)),
        "segments": inside.astype(np.int32),
        "weight": weight,
        "last": last,
        "label": rng.random((B, S)).astype(np.float32),
        "old": (-rng.random((B, S)) * 4).astype(np.float32),
        "reference": (-rng.random((B, S)) * 4).astype(np.float32),
        "advantage": np.tile(rng.normal(size=(B, 1)), (1, S)).astype(np.float32),
    }


def with_rows(batch, **changes):
    return batch | {name: np.asarray(value, np.float32) for name, value in changes.items()}


def make_plain(model, batch):
    """log p of every token, the entropy there, and the raw score after it, in numpy: dictionary of (B, S)."""
    hidden = np.asarray(
        nnx.jit(lambda m, *x: m.read(*x))(model, *(batch[n] for n in ("tokens", "positions", "segments")))
    )
    logits = hidden.astype(np.float64) @ np.asarray(model.embedding[...], np.float64).T
    scores = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    picked, entropy = np.zeros((B, S)), np.zeros((B, S))
    picked[:, 1:] = np.take_along_axis(scores[:, :-1], batch["tokens"][:, 1:, None], axis=-1)[..., 0]
    entropy[:, 1:] = -(np.exp(scores) * scores).sum(-1)[:, :-1]
    value = hidden.astype(np.float64) @ np.asarray(model.value[...], np.float64) + float(model.value_bias[...])
    return {"picked": picked, "entropy": entropy, "score": value}


@functools.cache
def jitted(objective, **settings):
    return nnx.jit(functools.partial(objective, **settings))


def compute(objective, model, batch, **settings):
    return jitted(objective, **settings)(model, batch)


def masked_mean(values, weight):
    return (values * weight).sum() / weight.sum()


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def close(actual, expected):
    assert float(actual) == pytest.approx(float(expected), rel=2e-5, abs=2e-6)


@functools.cache
def jitted_gradient(objective, **settings):
    return nnx.jit(nnx.grad(lambda model, batch: objective(model, batch, **settings)[0]))


def change_by_descent(objective, model, batch, score=losses.sequence_scores, **settings):
    """How fast `score`, by default each row's weighted log-probability, changes along the gradient's descent."""
    gradient = jitted_gradient(objective, **settings)(model, batch)
    step = 1e-3 / max(float(jnp.sqrt(sum(jnp.sum(leaf**2) for leaf in jax.tree.leaves(gradient)))), 1e-6)
    state = nnx.state(model)
    moved = nnx.merge(nnx.graphdef(model), jax.tree.map(lambda w, g: w - step * g, state, gradient))
    before, after = (compute(score, m, batch) for m in (model, moved))
    return np.asarray(after - before) / step
