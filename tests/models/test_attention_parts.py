"""Rows whose queries are taken in parts see what they would see whole."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from o1coder_jax.attention import attention, computed_scores, segment_mask

LENGTH = 130  # two parts of 64 queries, and one of two


@pytest.mark.parametrize("window", [None, 70])
def test_parts_agree_with_the_library_forward_and_backward(window: int | None) -> None:
    key = jax.random.split(jax.random.key(0), 4)
    q, scale = (jax.random.normal(one, (2, LENGTH, 4, 8)) for one in key[:2])
    k, v = (jax.random.normal(one, (2, LENGTH, 2, 8)) for one in key[2:])
    ends = jnp.array([[66], [100]])
    segments = jnp.where(jnp.arange(LENGTH) < ends, 1, 2).at[1, 120:].set(0)
    near = None if window is None else jnp.int32(window)

    def ours(q: jax.Array, k: jax.Array, v: jax.Array) -> jax.Array:
        return (attention(q, k, v, segments, near) * scale).sum()

    def library(q: jax.Array, k: jax.Array, v: jax.Array) -> jax.Array:
        return (jax.nn.dot_product_attention(q, k, v, mask=segment_mask(segments, near)) * scale).sum()

    found, expected = (jax.jit(jax.value_and_grad(f, argnums=(0, 1, 2)))(q, k, v) for f in (ours, library))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4), found, expected)


def test_scores_that_are_computed() -> None:
    assert computed_scores(64) == 64**2
    assert computed_scores(LENGTH) == 64 * 64 + 64 * 128 + 2 * 130
    assert computed_scores(2048) == 2048**2  # block by block, each against all keys
