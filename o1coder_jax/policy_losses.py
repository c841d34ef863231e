"""The objectives of reinforcement learning: the clipped policy gradient, CISPO, and the critic's error.

Batches, masks and means are as in `losses.py`.
"""

from __future__ import annotations

from dataclasses import dataclass

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from o1coder_jax.errors import UserError
from o1coder_jax.losses import Batch, Metrics, states, token_mean, token_scores
from o1coder_jax.transformer import Transformer


@dataclass(frozen=True)
class ClipConfig:
    """The clipped policy gradient.

    Attributes:
      low, high: the ratio pi / old is clipped to [1 - low, 1 + high]; high > low is DAPO's asymmetric clip. CISPO
        clips at 1 + high alone, which wants a larger `high`.
      kl: weight of the KL penalty against the reference policy.
    """

    low: float = 0.2
    high: float = 0.28
    kl: float = 0.02

    def __post_init__(self) -> None:
        if not 0 < self.low < 1 or self.high <= 0:
            raise UserError(f"rl.clip: low {self.low} must lie in (0, 1) and high {self.high} above 0")
        if self.kl < 0:
            raise UserError(f"rl.clip.kl is {self.kl}; it must not be negative")


def policy_gradient(
    model: Transformer, batch: Batch, *, clip: ClipConfig, cispo: bool = False
) -> tuple[Array, Metrics]:
    """L = -E[min(ratio * A, clip(ratio) * A)] + kl * E[KL(pi || ref)] (PPO's clip, arXiv 1707.06347; GRPO).

    `old` and `reference` hold each token's log-probability under the policy that sampled it and under the
    reference, `advantage` its advantage. The mean is over all tokens of the batch, weighted: with weight 1 everywhere
    nothing is divided by a row's length (arXiv 2503.20783). The KL is the estimator exp(d) - d - 1 with
    d = log ref - log pi, which is never negative; it is unbiased where pi itself drew the tokens, which after the first
    update of a round it did not: then single tokens that pi has grown unlikely to draw can outweigh all others. It is
    no metric for that reason, see `advantages.divergence`.

    `cispo`: L = -E[stop(min(ratio, 1 + high)) * A * log pi] instead (arXiv 2506.13585, section 3.1): a token beyond
    the clip counts less, but keeps its gradient.
    """
    picked, entropy = token_scores(model, batch)
    taken = batch["weight"] > 0
    advantage = jnp.where(taken, batch["advantage"], 0.0)
    ratio = jnp.exp(jnp.where(taken, picked - batch["old"], 0.0))
    if cispo:
        clipped = jnp.minimum(ratio, 1 + clip.high)
        surrogate = jax.lax.stop_gradient(clipped) * advantage * picked
        over = ratio > clipped
    else:
        clipped = jnp.clip(ratio, 1 - clip.low, 1 + clip.high)
        surrogate = jnp.minimum(ratio * advantage, clipped * advantage)
        over = ratio * advantage > clipped * advantage
    drift = jnp.where(taken, batch["reference"] - picked, 0.0)
    divergence = jnp.exp(drift) - drift - 1
    return token_mean(batch, clip.kl * divergence - surrogate), {
        "entropy": token_mean(batch, entropy),
        "clip_share": token_mean(batch, over * 1.0),
        "ratio": token_mean(batch, ratio),
    }


def state_values(model: Transformer, batch: Batch) -> Float[Array, "B S"]:
    """V of the state in which token i was chosen, that is after token i - 1, by the scalar head; entry 0 is 0."""
    return jnp.pad(model.values(states(model, batch)[:, :-1]), ((0, 0), (1, 0)))


def value_error(model: Transformer, batch: Batch, *, clip: float) -> tuple[Array, Metrics]:
    """L = 1/2 E[max((V - G)^2, (V_old + clip(V - V_old) - G)^2)], the critic's clipped error.

    As in PPO's reference implementation (arXiv 2005.12729, section 3): what a critic may learn from one round is
    bounded. `returns` holds G and `value` V_old at each decision, `weight` is positive there.
    """
    taken = batch["weight"] > 0
    value = state_values(model, batch)
    goal, before = (jnp.where(taken, batch[name], 0.0) for name in ("returns", "value"))
    near = before + jnp.clip(value - before, -clip, clip)
    plain, clipped = (value - goal) ** 2, (near - goal) ** 2
    return token_mean(batch, 0.5 * jnp.maximum(plain, clipped)), {
        "value": token_mean(batch, value),
        "error": token_mean(batch, plain),
        "clip_share": token_mean(batch, (clipped > plain) * 1.0),
    }
