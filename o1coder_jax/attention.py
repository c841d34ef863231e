"""How queries meet keys where whole, possibly packed sequences are read."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from o1coder_jax.attention_kernels import cudnn, splash

BLOCK = 512  # queries whose scores exist at the same time
WHOLE = 1024  # up to so many tokens the scores of a row exist at the same time
PARTS, LEAST = 8, 64  # a row of up to WHOLE tokens is taken in so many parts, of so many queries at least
NEGATIVE = -1e30  # masked score: finite, as no row of a softmax may be empty


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
    if ends := _ends(length):  # no query of a part may see the keys behind its end
        starts = (0, *ends[:-1])
        seen = [
            _block(q, k[:, :end], v[:, :end], segments[:, :end], window, start, end - start)
            for start, end in zip(starts, ends, strict=True)
        ]
        return jnp.concatenate(seen, axis=1)

    @jax.checkpoint
    def block(start: Array) -> Array:
        return _block(q, k, v, segments, window, start, BLOCK)

    parts = jax.lax.map(block, jnp.arange(0, length, BLOCK))
    return jnp.moveaxis(parts, 0, 1).reshape(q.shape)


def _ends(length: int) -> tuple[int, ...]:
    """Where the parts of a row's queries end; empty for rows that are taken block by block."""
    if length > WHOLE and length % BLOCK == 0:
        return ()
    size = max(LEAST, -(-length // PARTS))
    return (*range(size, length, size), length)


def computed_scores(length: int) -> int:
    """How many scores of a row's queries with its keys XLA computes, masked ones included, for each head."""
    ends = _ends(length)
    return sum((end - start) * end for start, end in zip((0, *ends), ends, strict=False)) if ends else length**2


def _block(
    q: Array, k: Array, v: Array, segments: Array, window: Array | None, start: Array | int, count: int
) -> Float[Array, "B Q H E"]:
    """`count` queries from `start` on against all given keys."""
    asking = jax.lax.dynamic_slice_in_dim(q, start, count, axis=1)
    return meet(asking, k, v, segment_mask(segments, window, start=start, queries=count))


def meet(
    q: Float[Array, "B Q H E"], k: Float[Array, "B S G E"], v: Float[Array, "B S G E"], mask: Bool[Array, "B 1 Q S"]
) -> Float[Array, "B Q H E"]:
    """softmax(q k / sqrt(E)) v where the mask is true, scores and softmax in float32.

    The queries that share a key head are the rows of one matrix, so scores are never transposed; and the softmax
    divides what comes out rather than the scores. Both are for CPUs, where `jax.nn.dot_product_attention` moves scores
    about for longer than its products take.
    """
    rows, queries, _, size = q.shape
    groups = k.shape[2]
    asking = q.reshape(rows, queries, groups, -1, size).transpose(0, 2, 3, 1, 4).reshape(rows, groups, -1, size)
    scores = jnp.einsum("bgqe,bkge->bgqk", asking, k, preferred_element_type=jnp.float32) * size**-0.5
    scores = scores.reshape(rows, groups, -1, queries, k.shape[1])
    scores = jnp.where(mask[:, :, None], scores, NEGATIVE).reshape(rows, groups, -1, k.shape[1])
    weight = jnp.exp(scores - jax.lax.stop_gradient(jnp.max(scores, axis=-1, keepdims=True)))
    out = jnp.einsum("bgqk,bkge->bgqe", weight.astype(v.dtype), v, preferred_element_type=jnp.float32)
    out = (out / jnp.sum(weight, axis=-1, keepdims=True)).astype(q.dtype)
    return out.reshape(rows, groups, -1, queries, size).transpose(0, 3, 1, 2, 4).reshape(q.shape)
