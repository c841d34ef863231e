"""NF4: weights in four bits, in blocks that share a scale (QLoRA, arXiv 2305.14314, section 3).

A block is up to 64 neighbours along a weight's last axis. Its largest absolute value is its scale, in float32; each
weight is the nearest of 16 levels between -1 and 1, the quantiles of a normal distribution. Two codes lie in a byte:
4.5 bits a weight with blocks of 64. The levels' scales are not quantised a second time, which would save 0.37 bits.
"""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, UInt8

from o1coder_jax.errors import UserError

BLOCK = 64
LEAST_BLOCK = 8  # smaller blocks would take more than 8 bits a weight
LEVELS = np.array(
    [
        -1.0,
        -0.6961928009986877,
        -0.5250730514526367,
        -0.39491748809814453,
        -0.28444138169288635,
        -0.18477343022823334,
        -0.09105003625154495,
        0.0,
        0.07958029955625534,
        0.16093020141124725,
        0.24611230194568634,
        0.33791524171829224,
        0.44070982933044434,
        0.5626170039176941,
        0.7229568362236023,
        1.0,
    ],
    np.float32,
)  # arXiv 2305.14314, appendix E
_MIDPOINTS = (LEVELS[:-1] + LEVELS[1:]) / 2


def block_size(size: int) -> int:
    """Weights in a block of an axis of `size`: the largest power of two up to 64 that divides it.

    Raises:
      UserError: that is below 8.
    """
    block = math.gcd(size, BLOCK)
    if block < LEAST_BLOCK:
        raise UserError(
            f"an axis of {size} weights has no blocks for nf4; the head size, the width and the MLP's width must be "
            f"multiples of {LEAST_BLOCK}, or adapter.base another"
        )
    return block


def pack(weight: Float[Array, "*lead N"]) -> tuple[UInt8[Array, "*lead blocks half"], Float[Array, "*lead blocks"]]:
    """The codes of a weight, two to a byte, and its blocks' scales.

    A byte's low half is the code of weight i of its block, its high half that of weight i + block / 2.
    """
    size = block_size(weight.shape[-1])
    blocks = weight.astype(jnp.float32).reshape(*weight.shape[:-1], -1, size)
    scales = jnp.max(jnp.abs(blocks), axis=-1)
    unit = blocks / jnp.where(scales > 0, scales, 1)[..., None]
    codes = jnp.searchsorted(jnp.asarray(_MIDPOINTS), unit, method="scan_unrolled").astype(jnp.uint8)
    low, high = jnp.split(codes, 2, axis=-1)
    return low | (high << 4), scales


def unpack(
    codes: UInt8[Array, "*lead blocks half"], scales: Float[Array, "*lead blocks"], dtype: jnp.dtype | str = jnp.float32
) -> Float[Array, "*lead N"]:
    """The weight that codes and scales stand for, multiplied in float32."""
    both = jnp.concatenate([codes & 15, codes >> 4], axis=-1)
    values = jnp.asarray(LEVELS)[both] * scales[..., None]
    return values.reshape(*scales.shape[:-1], -1).astype(dtype)


@jax.jit
def pack_layers(
    weight: Float[Array, "L *lead N"],
) -> tuple[UInt8[Array, "L *lead blocks half"], Float[Array, "L *lead blocks"]]:
    """`pack` of stacked layers, one after another: what it computes on the way exists for one layer at a time."""
    return jax.lax.map(pack, weight)
