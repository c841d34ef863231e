"""The objectives SFT, DPO and PRM, and what all objectives share: one log-probability, one mean.

A batch is a dictionary of arrays (B, S): `tokens`, `positions`, `segments` (0 is padding; sequences may be packed
several to a row), `weight` (0 where a token carries no loss, 1 where it does unless told otherwise), and what an
objective needs beside them. Entry i of `weight`, `old`, `advantage` ... speaks of token i, which is predicted at i - 1.
Those of reinforcement learning are in `policy_losses.py`.

Each objective returns the loss and a dictionary of scalar metrics, all means over the batch. A part of a batch carries
the whole batch's denominators (`totals`), so that the parts' losses, gradients and metrics add up to the whole's.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from o1coder_jax import fused_scores
from o1coder_jax.transformer import Transformer

Batch = dict[str, Array]
Metrics = dict[str, Array]


def log_probability(
    model: Transformer, hidden: Float[Array, "B S D"], targets: Int[Array, "B S"]
) -> tuple[Float[Array, "B S"], Float[Array, "B S"]]:
    """log p(target) and the entropy of the prediction at every place, in float32.

    Scores exist for one part of the vocabulary at a time, forward and backward: B x S x V is never held.
    """
    tied = model.config.tied_embeddings
    weight = model.embedding[...] if tied else model.projection[...]
    return fused_scores.log_probability(hidden, weight, targets, tied, model.ids)


def states(model: Transformer, batch: Batch) -> Float[Array, "B S D"]:
    """The model's states of a batch; positions lie below the row's length."""
    tokens = batch["tokens"]
    return model.read(tokens, batch["positions"], batch["segments"], batch.get("dropout"), places=tokens.shape[1])


def token_scores(model: Transformer, batch: Batch) -> tuple[Float[Array, "B S"], Float[Array, "B S"]]:
    """log p(token i | its segment's past) at i, and the entropy there; entry 0 of a row is 0."""
    hidden = states(model, batch)
    picked, entropy = log_probability(model, hidden[:, :-1], batch["tokens"][:, 1:])
    return tuple(jnp.pad(x, ((0, 0), (1, 0))) for x in (picked, entropy))  # type: ignore[return-value]


def weighted_mean(
    values: Float[Array, "*shape"], weight: Float[Array, "*shape"], total: Float[Array, ""] | None = None
) -> Float[Array, ""]:
    """sum(values * weight) / sum(weight); 0 when all weights are 0. Masked entries have no influence.

    `total` stands for the sum of the weights where these are part of a larger batch.
    """
    total = jnp.sum(weight) if total is None else total
    return jnp.sum(jnp.where(weight > 0, values, 0.0) * weight) / jnp.maximum(total, 1e-8)


def totals(batch: Batch) -> Batch:
    """The denominators of a batch's means, for its parts to carry."""
    out = {"weight_total": jnp.sum(batch["weight"])}
    return out | ({"valid_total": jnp.sum(batch["valid"]) / 2} if "valid" in batch else {})


def token_mean(batch: Batch, values: Float[Array, "B S"]) -> Float[Array, ""]:
    """The mean over the batch's weighted tokens."""
    return weighted_mean(values, batch["weight"], batch.get("weight_total"))


def pair_mean(batch: Batch, values: Float[Array, " pairs"]) -> Float[Array, ""]:
    """The mean over the batch's pairs that are no padding."""
    return weighted_mean(values, batch["valid"].reshape(-1, 2)[:, 0], batch.get("valid_total"))


def sft(model: Transformer, batch: Batch) -> tuple[Array, Metrics]:
    """L = -mean log pi(token | past) over the weighted tokens; prompts carry no weight."""
    picked, entropy = token_scores(model, batch)
    return -token_mean(batch, picked), {"entropy": token_mean(batch, entropy)}


def sequence_scores(model: Transformer, batch: Batch) -> Float[Array, " B"]:
    """Sum of the weighted tokens' log-probabilities, for rows of one sequence each."""
    return row_sums(batch, token_scores(model, batch)[0])


def row_sums(batch: Batch, values: Float[Array, "B S"]) -> Float[Array, " B"]:
    """The sum of each row's values where its tokens have weight."""
    return jnp.sum(jnp.where(batch["weight"] > 0, values, 0.0), axis=-1)


def dpo(model: Transformer, batch: Batch, *, beta: float, sft_weight: float) -> tuple[Array, Metrics]:
    """L = -log sigmoid(beta * ((log pi - log ref)(chosen) - (log pi - log ref)(rejected))) (arXiv 2305.18290).

    Rows 2i and 2i + 1 are a chosen and a rejected sequence; `reference` (B,) holds log ref of each; `valid` (B,)
    is 0 for padding pairs. `sft_weight` adds that share of the chosen sequence's loss per token, which keeps its
    probability from falling along with the rejected one's.

    The metric `kl` is the mean of log ref - log pi per token of both: KL(ref || pi) where the reference wrote them.
    """
    picked, entropy = token_scores(model, batch)
    score = row_sums(batch, picked)
    gain = (score - batch["reference"]).reshape(-1, 2)
    margin = beta * (gain[:, 0] - gain[:, 1])
    chosen_tokens = jnp.sum(batch["weight"], axis=-1).reshape(-1, 2)[:, 0]
    chosen_loss = -score.reshape(-1, 2)[:, 0] / jnp.maximum(chosen_tokens, 1)
    loss = pair_mean(batch, -jax.nn.log_sigmoid(margin) + sft_weight * chosen_loss)
    tokens = batch.get("weight_total", jnp.sum(batch["weight"]))
    return loss, {
        "margin": pair_mean(batch, margin),
        "accuracy": pair_mean(batch, (margin > 0) * 1.0),
        "kl": jnp.sum(jnp.where(batch["valid"] > 0, batch["reference"] - score, 0.0)) / jnp.maximum(tokens, 1e-8),
        "entropy": token_mean(batch, entropy),
    }


def prm_pointwise(model: Transformer, batch: Batch) -> tuple[Array, Metrics]:
    """L = -E[v log r + (1 - v) log(1 - r)], r = sigmoid(score), at the last token of each step.

    `label` holds v in [0, 1] (hard labels are 0 or 1), `weight` is positive at the last token of a labelled step.
    """
    score = model.values(states(model, batch))
    label = batch["label"]
    loss = -(label * jax.nn.log_sigmoid(score) + (1 - label) * jax.nn.log_sigmoid(-score))
    return token_mean(batch, loss), {"score": token_mean(batch, jax.nn.sigmoid(score))}


def prm_pairwise(model: Transformer, batch: Batch) -> tuple[Array, Metrics]:
    """L = -E[log sigmoid(r(win) - r(lose))], raw scores, for siblings under one node.

    Rows 2i and 2i + 1 are the winner and the loser; `weight` marks each one's last token; `valid` (B,) is 0 for
    padding pairs.
    """
    score = model.values(states(model, batch))
    last = row_sums(batch, score).reshape(-1, 2)
    margin = last[:, 0] - last[:, 1]
    return pair_mean(batch, -jax.nn.log_sigmoid(margin)), {"accuracy": pair_mean(batch, (margin > 0) * 1.0)}
