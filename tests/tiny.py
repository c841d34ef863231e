"""A random decoder that is small enough to compile in a second or two, and a plain forward pass to compare with."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import Mesh

from o1coder_jax.transformer import ModelConfig, Transformer

VOCAB = 13
LENGTH = 40  # rows of the forward pass, so that it compiles once
SHAPE = ModelConfig(width=16, layers=2, heads=4, kv_heads=2, head_size=8, mlp_width=24)


def decoder(
    config: ModelConfig = SHAPE, vocab_size: int = VOCAB, *, seed: int = 0, value_head: bool = False
) -> Transformer:
    """A decoder whose predictions are far from uniform, and differ from token to token.

    Filled by numpy: compiling the initial draw would take longer than most tests.
    """
    rng = np.random.default_rng(seed)
    model = nnx.eval_shape(lambda: Transformer(config, vocab_size, value_head=value_head, rngs=nnx.Rngs(0)))

    def fill(path: tuple[Any, ...], leaf: jax.ShapeDtypeStruct) -> jax.Array:
        names = {key.key for key in path if isinstance(key, jax.tree_util.DictKey)}
        if any("norm" in name for name in names):
            return jnp.ones(leaf.shape)
        return jnp.asarray(rng.normal(size=leaf.shape) * (0.5 if leaf.ndim == 2 else 0.25), jnp.float32)

    nnx.update(model, jax.tree_util.tree_map_with_path(fill, nnx.to_pure_dict(nnx.state(model))))
    return model


def one_device() -> Mesh:
    return Mesh(np.array(jax.devices()[:1]).reshape(1, 1, 1), ("data", "fsdp", "tensor"))


@functools.partial(jax.jit, static_argnames=("graph",))
def forward(graph: Any, weights: Any, tokens: jax.Array) -> jax.Array:
    """log p(. | tokens up to here), (B, S, V), without any cache; padding stands at the end and changes nothing."""
    model = nnx.merge(graph, weights)
    positions = jnp.broadcast_to(jnp.arange(tokens.shape[1]), tokens.shape)
    hidden = model.read(tokens, positions, jnp.ones_like(tokens))
    return jax.nn.log_softmax(model.logits(hidden))


def predictions(graph: Any, weights: Any, sequences: Sequence[Sequence[int]], *, rows: int = 32) -> list[np.ndarray]:
    """For each sequence log p(. | its past) at every place but the first: (len - 1, V)."""
    out = []
    for start in range(0, len(sequences), rows):
        part = sequences[start : start + rows]
        padded = np.zeros((rows, LENGTH), np.int32)
        for row, sequence in enumerate(part):
            padded[row, : len(sequence)] = sequence
        scores = np.asarray(forward(graph, weights, padded))
        out += [scores[row, : len(sequence) - 1] for row, sequence in enumerate(part)]
    return out


def answer_scores(
    graph: Any, weights: Any, prompts: Sequence[Sequence[int]], answers: Sequence[Sequence[int]]
) -> list[np.ndarray]:
    """log p of each token of each answer after its prompt, by the forward pass."""
    whole = predictions(graph, weights, [[*p, *a] for p, a in zip(prompts, answers, strict=True)])
    return [
        scores[len(p) - 1 :][np.arange(len(a)), list(a)] for scores, p, a in zip(whole, prompts, answers, strict=True)
    ]
