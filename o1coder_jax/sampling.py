"""Drawing tokens from logits.

Temperature, top-k, top-p and the repetition penalty are traced values: changing them compiles nothing anew. Only
whether there is any truncation and any penalty at all, and the cap on top-k, are static, because a full sort of a large
vocabulary costs a hundred times a capped top-k, and a penalty needs to know what was said. Turning either on or off
compiles what draws once.

Shapes: R rows, V vocabulary.
"""

from __future__ import annotations

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, UInt32

from o1coder_jax.errors import UserError

TOP_K_CAP = 64  # candidates kept when top-k or top-p truncates


@dataclasses.dataclass(frozen=True)
class SamplingConfig:
    """How tokens are drawn.

    Attributes:
      temperature: 0 takes the most likely token.
      top_k: candidates kept; 0 keeps all.
      top_p: smallest probability mass kept, in (0, 1].
      repetition_penalty: above 1, tokens that the prompt or the answer already holds become less likely; 1 is off.
    """

    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    repetition_penalty: float = 1.0

    def __post_init__(self) -> None:
        if not 0 <= self.temperature < math.inf:
            raise UserError(f"temperature is {self.temperature}; it must be a number that is not negative")
        if not 0 <= self.top_k <= TOP_K_CAP:
            raise UserError(f"top_k is {self.top_k}; it must lie between 0 (off) and {TOP_K_CAP}")
        if not 0 < self.top_p <= 1:
            raise UserError(f"top_p is {self.top_p}; it must lie in (0, 1]")
        if not 0 < self.repetition_penalty < math.inf:
            raise UserError(f"repetition_penalty is {self.repetition_penalty}; it must be above 0 (1 is off)")

    @property
    def truncated(self) -> bool:
        return self.top_k > 0 or self.top_p < 1

    @property
    def penalised(self) -> bool:
        return self.repetition_penalty != 1

    def arrays(self) -> Float[Array, "4"]:
        """temperature, top_k, top_p, repetition_penalty as one traced argument."""
        return jnp.array([self.temperature, self.top_k, self.top_p, self.repetition_penalty], jnp.float32)


def draw(
    logits: Float[Array, "R V"],
    uniform: Float[Array, " R"],
    settings: Float[Array, "4"],
    *,
    truncated: bool,
    said: Bool[Array, "R V"] | None = None,
) -> tuple[Int[Array, " R"], Float[Array, " R"]]:
    """Draws a token for each row by inverting the cumulative distribution at `uniform`.

    Args:
      logits: in float32.
      uniform: in [0, 1), one number per row.
      settings: `SamplingConfig.arrays()`.
      truncated: whether top-k or top-p may bite (static).
      said: tokens that a row already holds, with its prompt; None without repetition penalty.

    Returns:
      The tokens, and their log-probabilities under the model itself (temperature 1, no truncation, no penalty).
    """
    temperature, top_k, top_p = settings[0], settings[1], settings[2]
    weighed = logits if said is None else penalise(logits, said, settings[3])
    scaled = weighed / jnp.maximum(temperature, 1e-6)
    if truncated:
        kept, ids = jax.lax.top_k(scaled, min(TOP_K_CAP, logits.shape[-1]))
        mass = jnp.exp(kept - jax.nn.logsumexp(scaled, axis=-1, keepdims=True))
        before = jnp.cumsum(mass, axis=-1) - mass
        rank = jnp.arange(kept.shape[-1])
        allowed = (before < top_p) & ((top_k == 0) | (rank < top_k))
        mass = jnp.where(allowed, mass, 0.0)
        chosen = jnp.take_along_axis(ids, _invert(mass, uniform)[:, None], axis=-1)[:, 0]
    else:
        chosen = _invert(jax.nn.softmax(scaled, axis=-1), uniform)
    token = jnp.where(temperature == 0, jnp.argmax(weighed, axis=-1), chosen).astype(jnp.int32)
    picked = jnp.take_along_axis(logits, token[:, None], axis=-1)[:, 0]
    return token, picked - jax.nn.logsumexp(logits, axis=-1)


def penalise(logits: Float[Array, "R V"], said: Bool[Array, "R V"], penalty: Float[Array, ""]) -> Float[Array, "R V"]:
    """Divides positive scores of tokens that were said by the penalty, and multiplies negative ones with it.

    Keskar et al., arXiv 1909.05858, section 4.1, in the form of transformers' `RepetitionPenaltyLogitsProcessor`.
    """
    return jnp.where(said, jnp.where(logits < 0, logits * penalty, logits / penalty), logits)


def _invert(mass: Float[Array, "R C"], uniform: Float[Array, " R"]) -> Int[Array, " R"]:
    """First index with mass whose cumulative mass exceeds uniform * total.

    A parallel cumulative sum is not quite monotone in floating point: it may step up at an index without mass, so
    those are passed over by name, and the last index with mass stands in where rounding leaves no other.
    """
    index = jnp.arange(mass.shape[-1])
    cumulative = jnp.cumsum(mass, axis=-1)
    exceeds = (cumulative > uniform[:, None] * cumulative[:, -1:]) & (mass > 0)
    first = jnp.min(jnp.where(exceeds, index, mass.shape[-1]), axis=-1)
    return jnp.minimum(first, jnp.max(jnp.where(mass > 0, index, 0), axis=-1))


def uniforms(seeds: UInt32[Array, "R 2"], counter: Int[Array, " R"]) -> Float[Array, " R"]:
    """One number in [0, 1) per row, a function of the row's seed and of its counter alone."""

    def one(seed: Array, count: Array) -> Array:
        return jax.random.uniform(jax.random.fold_in(jax.random.wrap_key_data(seed), count))

    return jax.vmap(one)(seeds, counter)


def fold(seeds: UInt32[Array, "R 2"], numbers: Int[Array, " R"]) -> UInt32[Array, "R 2"]:
    """`jax.random.fold_in` for rows of key data."""

    def one(seed: Array, number: Array) -> Array:
        return jax.random.key_data(jax.random.fold_in(jax.random.wrap_key_data(seed), number))

    return jax.vmap(one)(seeds, numbers)


def seed_for(*numbers: int) -> UInt32[Array, "2"]:
    """Key data derived from a path of integers, e.g. (seed, iteration, problem)."""
    return _seed_of(jax.random.key_data(jax.random.key(numbers[0])), *(np.uint32(number) for number in numbers[1:]))


@jax.jit
def _seed_of(data: UInt32[Array, "2"], *numbers: UInt32[Array, ""]) -> UInt32[Array, "2"]:
    key = jax.random.wrap_key_data(data)
    for number in numbers:
        key = jax.random.fold_in(key, number)
    return jax.random.key_data(key)
