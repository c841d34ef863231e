"""How queries meet keys where whole, possibly packed sequences are read."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from o1coder_jax.attention_kernels import cudnn, splash

BLOCK = 512  # queries whose scores exist at the same time
WHOLE = 1024  # up to so many tokens the scores of a row exist at the same time


def segment_mask(
    segments: Int[Array, "B S"], window: Int[Array, ""] | None = None, *, start: Array | int = 0, queries: int = 0
) -> Bool[Array, "B 1 Q S"]:
    """True where query i may see key j: j <= i, i - j < window, and both lie in one segment.

    With segments [1 1 2 0] the second token sees tokens 0 and 1, the third only itself. Padding (0) sees
    padding, so that no row of the softmax is empty; nothing reads those states. `start` and `queries` take a part of
    the queries.
    """
    length = segments.shape[1]
    queries = queries or length
    key = jnp.arange(length)
    query = start + jnp.arange(queries)[:, None]
    near = (key <= query) if window is None else (key <= query) & (query - key < window)
    asking = jax.lax.dynamic_slice_in_dim(segments, start, queries, axis=1)
    return (near & (asking[:, :, None] == segments[:, None, :]))[:, None]


def attention(
    q: Float[Array, "B S H E"],
    k: Float[Array, "B S G E"],
    v: Float[Array, "B S G E"],
    segments: Int[Array, "B S"],
    window: Int[Array, ""] | None = None,
    *,
    kernel: str = "xla",
    sliding_window: int | None = None,
) -> Float[Array, "B S H E"]:
    """Causal attention within segments, by the kernel that `attention_kernels.kernel_for` found.

    XLA takes long rows a block of queries at a time, forward and backward. `sliding_window` is the model's.
    """
    length = q.shape[1]
    if kernel == "splash":
        return splash(q, k, v, segments, window, sliding_window=sliding_window)
    if kernel == "cudnn":
        return cudnn(q, k, v, segment_mask(segments, window))
    if length <= WHOLE or length % BLOCK:
        return jax.nn.dot_product_attention(q, k, v, mask=segment_mask(segments, window))

    @jax.checkpoint
    def block(start: Array) -> Array:
        part = jax.lax.dynamic_slice_in_dim(q, start, BLOCK, axis=1)
        mask = segment_mask(segments, window, start=start, queries=BLOCK)
        return jax.nn.dot_product_attention(part, k, v, mask=mask)

    parts = jax.lax.map(block, jnp.arange(0, length, BLOCK))
    return jnp.moveaxis(parts, 0, 1).reshape(q.shape)
