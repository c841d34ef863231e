"""The process reward model: what it is trained on, and how its scores are judged.

It is a decoder with a scalar head, read at the last token of every step, in training and in use alike; a
sigmoid makes the score r in [0, 1]. The decoder has weights of its own (`RewardModel`), or it is the policy's, whose
states the head reads (`ValueHead`).
"""

from __future__ import annotations

import functools
from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float, Int

from o1coder_jax.errors import UserError
from o1coder_jax.linear import Frozen
from o1coder_jax.policy import Policy
from o1coder_jax.transformer import ModelConfig, Transformer


@dataclass(frozen=True)
class RewardModel:
    """A decoder with a scalar head: the two halves of an `nnx.split` Transformer, and what identifies its weights."""

    graph: nnx.GraphDef[Transformer]
    weights: Any
    fingerprint: str


@dataclass(frozen=True)
class ValueHead:
    """A scalar head on the states of a policy.

    Attributes:
      weights: `value` (D,) and `value_bias` ().
      fingerprint: identifies the head.
      policy: fingerprint of the weights whose states it reads; on others it means nothing.
    """

    weights: dict[str, Any]
    fingerprint: str
    policy: str

    def on(self, policy: Policy) -> Policy:
        """The policy with this head; the decoder's arrays are the same ones.

        Raises:
          UserError: the head was fitted on other weights.
        """
        if self.policy != policy.fingerprint:
            raise UserError(
                f"the value head {self.fingerprint} reads the states of the policy {self.policy}, not those of "
                f"{policy.fingerprint}; use the policy that it was fitted on, or a reward model with its own weights"
            )
        model = nnx.merge(policy.graph, policy.weights)
        for name, value in self.weights.items():
            setattr(model, name, nnx.Param(value))
        graph, weights = nnx.split(model)
        return replace(policy, graph=graph, weights=weights, head=self.fingerprint)


def with_value_head(
    graph: nnx.GraphDef[Transformer], weights: Any, config: ModelConfig, vocab_size: int
) -> tuple[nnx.GraphDef[Transformer], Any]:
    """A reward model that starts as a copy of a policy, its head at zero (so that every score is 0.5)."""
    model = Transformer(config, vocab_size, value_head=True, rngs=nnx.Rngs(0))
    copied = jax.tree.map(jnp.copy, nnx.to_pure_dict(nnx.state(nnx.merge(graph, weights))))
    head = nnx.to_pure_dict(nnx.state(model))
    nnx.update(model, head | copied)
    return nnx.split(model)


def fresh_head(policy: Policy) -> tuple[nnx.GraphDef[Transformer], Any]:
    """A policy with a new value head at zero; nothing but the head is an `nnx.Param`, so nothing else is trained."""
    model = nnx.merge(policy.graph, policy.weights)
    for _, module in nnx.iter_modules(model):
        for name, variable in list(vars(module).items()):
            if isinstance(variable, nnx.Variable):
                setattr(module, name, Frozen(variable[...]))
    model.value = nnx.Param(jnp.zeros(model.config.width))
    model.value_bias = nnx.Param(jnp.zeros(()))
    return nnx.split(model)


@functools.partial(jax.jit, static_argnames=("graph",))
def score_tokens(
    graph: nnx.GraphDef[Transformer], weights: Any, tokens: Int[Array, "B S"], segments: Int[Array, "B S"]
) -> Float[Array, "B S"]:
    """r in [0, 1] after every token of rows that hold one sequence each; only those at a step's end mean anything."""
    model = nnx.merge(graph, weights)
    positions = jnp.broadcast_to(jnp.arange(tokens.shape[1]), tokens.shape)
    return jax.nn.sigmoid(model.values(model.read(tokens, positions, segments)))


def auc(scores: np.ndarray, positive: np.ndarray) -> float | None:
    """Area under the ROC curve by ranks (ties count one half); None when one class is missing."""
    count = int(positive.sum())
    others = len(positive) - count
    if not count or not others:
        return None
    ordered, inverse, repeats = np.unique(scores, return_inverse=True, return_counts=True)
    del ordered
    rank = np.cumsum(repeats) - (repeats - 1) / 2
    return float((rank[inverse][positive].sum() - count * (count + 1) / 2) / (count * others))


def label_metrics(scores: np.ndarray, labels: np.ndarray, threshold: float = 0.5) -> dict[str, float | None]:
    """AUC and accuracy against labels cut at a threshold, log loss against the labels themselves.

    Args:
      scores: r in (0, 1), one per step.
      labels: v in [0, 1].
      threshold: a label of at least this is positive.
    """
    clipped = np.clip(scores, 1e-6, 1 - 1e-6)
    log_loss = -(labels * np.log(clipped) + (1 - labels) * np.log(1 - clipped)).mean()
    positive = labels >= threshold
    return {
        "auc": auc(scores, positive),
        "log_loss": float(log_loss),
        "accuracy": float(((scores >= 0.5) == positive).mean()),
    }
