"""Products with weights that may be adapted (LoRA) or packed (NF4); the only place that knows which."""

from __future__ import annotations

import math
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, UInt32


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


class Linear(nnx.Module):
    """A product over the last `inputs` axes of what comes in.

    Attributes:
      weight: (*in, *out).
      bias: (*out), or none.
      lora_a, lora_b: (*in, r) and (r, *out) where an adapter is attached: the product is x W + s (x A) B
        (arXiv 2106.09685) with s = `scale`; `dropout` is the share of inputs that training hides from A.
    """

    def __init__(
        self, inputs: tuple[int, ...], outputs: tuple[int, ...], *, fan_in: int, bias: bool = False, rngs: nnx.Rngs
    ):
        self.inputs = len(inputs)
        self.weight = normal(rngs, (*inputs, *outputs), fan_in)
        self.bias = nnx.data(nnx.Param(jnp.zeros(outputs)) if bias else None)
        self.lora_a: nnx.LoRAParam | None = nnx.data(None)
        self.lora_b: nnx.LoRAParam | None = nnx.data(None)
        self.scale = 1.0
        self.dropout = 0.0

    def __call__(self, x: Float[Array, "B S *in"], dropout: UInt32[Array, "B 2"] | None = None) -> Array:
        """The product; `dropout` holds each row's random seed, in training."""
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
