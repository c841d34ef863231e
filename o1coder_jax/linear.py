"""Products with weights that may be adapted (LoRA) or packed (NF4); the only place that knows which."""

from __future__ import annotations

import math
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, UInt8, UInt32

from o1coder_jax.nf4 import unpack


class Frozen(nnx.Variable[Any]):
    """A weight that training leaves alone; what is trained is an `nnx.Param`."""


def normal(rngs: nnx.Rngs, shape: tuple[int, ...], fan_in: int) -> nnx.Param:
    return nnx.Param(jax.random.normal(rngs.params(), shape, jnp.float32) * fan_in**-0.5)


def product(x: Float[Array, "B S *in"], weight: Float[Array, "..."], inputs: int) -> Float[Array, "B S *out"]:
    """x times a weight over the last `inputs` axes of x, as one matrix product of all tokens.

    Two axes on each side: the gradient of a three-axis product takes 3.4 times as long on a CPU.
    """
    size = math.prod(weight.shape[:inputs])
    flat = x.reshape(-1, size) @ weight.reshape(size, -1).astype(x.dtype)
    return flat.reshape(*x.shape[: x.ndim - inputs], *weight.shape[inputs:])


def packed_product(
    x: Float[Array, "B S *in"], codes: UInt8[Array, "..."], scales: Float[Array, "..."], inputs: int
) -> Float[Array, "B S *out"]:
    """`product` with a weight in NF4. The backward pass unpacks it again, so that no layer's weight is kept for it."""

    @jax.checkpoint
    def unpacked(x: Array, codes: Array, scales: Array) -> Array:
        return product(x, unpack(codes, scales, x.dtype), inputs)

    return unpacked(x, codes, scales)


class Linear(nnx.Module):
    """A product over the last `inputs` axes of what comes in.

    Attributes:
      weight: (*in, *out), or none where it is packed.
      codes, scales: the weight in NF4 (`nf4.pack`), or none.
      bias: (*out), or none.
      lora_a, lora_b: (*in, r) and (r, *out) where an adapter is attached: the product is x W + s (x A) B
        (arXiv 2106.09685) with s = `scale`; `dropout` is the share of inputs that training hides from A.
    """

    def __init__(
        self, inputs: tuple[int, ...], outputs: tuple[int, ...], *, fan_in: int, bias: bool = False, rngs: nnx.Rngs
    ):
        self.inputs = len(inputs)
        self.weight: nnx.Variable[Any] | None = nnx.data(normal(rngs, (*inputs, *outputs), fan_in))
        self.codes: Frozen | None = nnx.data(None)
        self.scales: Frozen | None = nnx.data(None)
        self.bias = nnx.data(nnx.Param(jnp.zeros(outputs)) if bias else None)
        self.lora_a: nnx.LoRAParam | None = nnx.data(None)
        self.lora_b: nnx.LoRAParam | None = nnx.data(None)
        self.scale = 1.0
        self.dropout = 0.0

    def __call__(self, x: Float[Array, "B S *in"], dropout: UInt32[Array, "B 2"] | None = None) -> Array:
        """The product; `dropout` holds each row's random seed, in training."""
        if self.codes is not None and self.scales is not None:
            out = packed_product(x, self.codes[...], self.scales[...], self.inputs)
        else:
            assert self.weight is not None
            out = product(x, self.weight[...], self.inputs)
        if self.lora_a is not None and self.lora_b is not None:
            shown = x if dropout is None or not self.dropout else _hide(x, dropout, self.dropout)
            low = product(shown, self.lora_a[...], self.inputs)
            out = out + self.scale * product(low, self.lora_b[...], 1)
        return out if self.bias is None else out + self.bias[...].astype(out.dtype)


def _hide(x: Array, seeds: UInt32[Array, "B 2"], share: float) -> Array:
    """Sets a share of the inputs to zero and raises the others to keep the mean; a row's choice is its seed's alone."""
    kept = jax.vmap(lambda seed: jax.random.bernoulli(jax.random.wrap_key_data(seed), 1 - share, x.shape[1:]))(seeds)
    return jnp.where(kept, x / (1 - share), 0).astype(x.dtype)
