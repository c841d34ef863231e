"""Log-probabilities of given tokens without their logits: the output projection, softmax and its gradient in one.

The vocabulary is taken a part at a time, forward (a running softmax, arXiv 1805.02867) and backward (the part's logits
are computed again, arXiv 2411.09009). Parts of the vocabulary rather than of the tokens: each part of the projection's
gradient is then written once, and summed over devices once. What exists at a time are the scores of all tokens
for one part, in float32; products are taken in the dtype of the states with float32 sums.

Shapes: B rows, S places, D width, V vocabulary; a part has K slices (one of each device of `tensor`) of C tokens.
"""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from o1coder_jax.mesh import ROWS, constrain, dividing

NEVER = -1e30  # score of an id that the tokenizer lacks: no probability, and finite
SCORES_BYTES = 64 * 2**20  # of a part's scores on one device
LEAST_COLUMNS = 512  # fewer would starve matrix units, however many tokens there are


@functools.partial(jax.custom_vjp, nondiff_argnums=(3, 4))
def log_probability(
    hidden: Float[Array, "B S D"], weight: Float[Array, "..."], targets: Int[Array, "B S"], tied: bool, ids: int
) -> tuple[Float[Array, "B S"], Float[Array, "B S"]]:
    """log p(target) and the entropy of the prediction at every place, in float32.

    Args:
      hidden: final states, in the dtype that products are taken in.
      weight: (V, D) where `tied`, else (D, V).
      targets: token ids.
      ids: of the tokenizer; columns beyond them have no probability.
    """
    return _forward(hidden, weight, targets, tied, ids)[0]


def _forward(hidden: Array, weight: Array, targets: Array, tied: bool, ids: int) -> tuple[tuple[Array, Array], Any]:
    parts = _Parts(hidden, weight, tied, ids)

    def add(index: Array, sums: tuple[Array, Array, Array, Array]) -> tuple[Array, Array, Array, Array]:
        top, total, weighted, picked = sums
        start = parts.start(index)
        scores = parts.scores(start)
        fresh = parts.fresh(index, start)  # columns that no earlier part had
        new_top = jnp.maximum(top, jnp.max(scores, axis=(2, 3)))
        mass = jnp.where(fresh, jnp.exp(scores - new_top[..., None, None]), 0.0)
        old = jnp.exp(top - new_top)
        hit = parts.is_target(start, targets) & fresh
        return (
            new_top,
            total * old + jnp.sum(mass, axis=(2, 3)),
            weighted * old + jnp.sum(mass * scores, axis=(2, 3)),
            picked + jnp.sum(jnp.where(hit, scores, 0.0), axis=(2, 3)),
        )

    zeros = jnp.zeros(targets.shape, jnp.float32)
    top, total, weighted, picked = jax.lax.fori_loop(0, parts.count, add, (zeros - jnp.inf, zeros, zeros, zeros))
    log_total, mean_score = top + jnp.log(total), weighted / total
    return (picked - log_total, log_total - mean_score), (hidden, weight, targets, log_total, mean_score)


def _backward(tied: bool, ids: int, kept: Any, given: tuple[Array, Array]) -> tuple[Array, Array, None]:
    """With p the softmax of the scores s: d log p(target) / ds = onehot - p, d entropy / ds = -p (s - E[s])."""
    hidden, weight, targets, log_total, mean_score = kept
    of_picked, of_entropy = (x[..., None, None] for x in given)
    parts = _Parts(hidden, weight, tied, ids)

    def add(index: Array, sums: tuple[Array, Array]) -> tuple[Array, Array]:
        of_hidden, of_weight = sums
        start = parts.start(index)
        scores = parts.scores(start)
        p = jnp.exp(scores - log_total[..., None, None])
        of_scores = of_picked * (parts.is_target(start, targets) - p)
        of_scores -= of_entropy * p * (scores - mean_score[..., None, None])
        part = parts.weight_gradient(of_scores.astype(hidden.dtype))
        # Columns that an earlier part had get the same gradient again; they count once in that of the states.
        fresh = jnp.where(parts.fresh(index, start), of_scores, 0.0).astype(hidden.dtype)
        of_hidden += parts.state_gradient(fresh, start)
        return of_hidden, jax.lax.dynamic_update_slice_in_dim(of_weight, part, start, parts.axis)

    zeros = jnp.zeros(hidden.shape, jnp.float32), jnp.zeros(parts.weight.shape, weight.dtype)
    of_hidden, of_weight = jax.lax.fori_loop(0, parts.count, add, zeros)
    return of_hidden.astype(hidden.dtype), of_weight.reshape(weight.shape), None


log_probability.defvjp(_forward, _backward)


def part_columns(tokens: int, length: int) -> int:
    """C: columns of a part, for so many tokens on a device and so many columns on it."""
    return min(max(SCORES_BYTES // (4 * max(tokens, 1)), LEAST_COLUMNS), length)


class _Parts:
    """The projection's columns, part by part; the last part reaches back where parts do not divide the vocabulary."""

    def __init__(self, hidden: Array, weight: Array, tied: bool, ids: int):
        sizes = jax.sharding.get_abstract_mesh().shape
        vocabulary, width = weight.shape if tied else weight.shape[::-1]
        over = dividing("tensor", vocabulary)
        self.slices = sizes[over] if over else 1
        self.hidden, self.letters = hidden, "kcd" if tied else "dkc"
        self.ids, self.padded = ids, ids < vocabulary
        self.axis = self.letters.index("c")
        self.length = vocabulary // self.slices  # columns of a slice
        places = {"k": over, "c": None, "d": dividing("fsdp", width)}
        self.split = [places[letter] for letter in self.letters]
        self.whole = [None if letter == "d" else places[letter] for letter in self.letters]
        shape = (self.slices, self.length, width) if tied else (width, self.slices, self.length)
        self.weight = constrain(weight.reshape(shape), *self.split)
        tokens = hidden.shape[0] * hidden.shape[1] // int(np.prod([sizes.get(axis, 1) for axis in ROWS]))
        self.columns = part_columns(tokens, self.length)
        self.count = -(-self.length // self.columns)

    def start(self, index: Array) -> Array:
        return jnp.minimum(index * self.columns, self.length - self.columns)

    def fresh(self, index: Array, start: Array) -> Array:
        return start + jnp.arange(self.columns) >= index * self.columns

    def part(self, start: Array) -> Array:
        """A part of the projection in the dtype of the states, whole in width on each device."""
        part = jax.lax.dynamic_slice_in_dim(self.weight, start, self.columns, self.axis)
        return constrain(part.astype(self.hidden.dtype), *self.whole)

    def scores(self, start: Array) -> Float[Array, "B S K C"]:
        scores = self._product(f"bsd,{self.letters}->bskc", self.hidden, self.part(start))
        return jnp.where(self.column(start) < self.ids, scores, NEVER) if self.padded else scores

    def column(self, start: Array) -> Int[Array, "K C"]:
        return jnp.arange(self.slices)[:, None] * self.length + start + jnp.arange(self.columns)

    def is_target(self, start: Array, targets: Array) -> Array:
        return targets[..., None, None] == self.column(start)

    def state_gradient(self, of_scores: Array, start: Array) -> Float[Array, "B S D"]:
        return constrain(self._product(f"bskc,{self.letters}->bsd", of_scores, self.part(start)), ROWS, None, None)

    def weight_gradient(self, of_scores: Array) -> Array:
        part = self._product(f"bskc,bsd->{self.letters}", of_scores, self.hidden)
        return constrain(part.astype(self.weight.dtype), *self.split)

    @staticmethod
    def _product(form: str, a: Array, b: Array) -> Array:
        return jnp.einsum(form, a, b, preferred_element_type=jnp.float32)
