"""One optimiser step for every objective: jitted, sharded, its state donated."""

from __future__ import annotations

import functools
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jax.sharding import Mesh
from jaxtyping import Array, Float

from o1coder_jax import losses
from o1coder_jax.errors import UserError
from o1coder_jax.losses import Batch, Metrics
from o1coder_jax.mesh import replicate, shard_parameters, shard_rows
from o1coder_jax.transformer import Transformer
from train.data import HostBatch


@dataclass(frozen=True)
class OptimizerConfig:
    """AdamW with a clipped gradient.

    Attributes:
      learning_rate: its peak; `warmup` updates lead to it, `schedule` leads down to `final_share` of it.
      clip_norm: the gradient's global norm is clipped to it.
      beta2, weight_decay: of AdamW.
    """

    learning_rate: float = 1e-3
    warmup: int = 10
    schedule: Literal["constant", "linear", "cosine"] = "linear"
    final_share: float = 0.1
    clip_norm: float = 1.0
    beta2: float = 0.98
    weight_decay: float = 0.0

    def __post_init__(self) -> None:
        if self.learning_rate <= 0 or self.clip_norm <= 0:
            raise UserError(
                f"optimizer: learning_rate {self.learning_rate} and clip_norm {self.clip_norm} must be positive"
            )

    def rate(self, update: int, updates: int) -> float:
        """Learning rate of update number `update` (from 0) of `updates`."""
        if update < self.warmup:
            return self.learning_rate * (update + 1) / (self.warmup + 1)
        progress = (update - self.warmup) / max(updates - self.warmup, 1)
        fallen = {"constant": 0.0, "linear": progress, "cosine": 0.5 * (1 - math.cos(math.pi * progress))}
        return self.learning_rate * (1 - (1 - self.final_share) * min(fallen[self.schedule], 1.0))

    def transformation(self) -> optax.GradientTransformation:
        return optax.chain(
            optax.clip_by_global_norm(self.clip_norm),
            optax.scale_by_adam(b2=self.beta2),
            optax.add_decayed_weights(self.weight_decay),
        )


@dataclass(frozen=True)
class Objective:
    """A loss with its settings; hashable, so that a step is compiled once for all stages that share it."""

    function: Callable[..., tuple[Array, Metrics]]
    settings: tuple[tuple[str, Any], ...] = ()

    @classmethod
    def of(cls, function: Callable[..., tuple[Array, Metrics]], **settings: Any) -> Objective:
        return cls(function, tuple(sorted(settings.items())))

    def __call__(self, model: Transformer, batch: Batch) -> tuple[Array, Metrics]:
        return self.function(model, batch, **dict(self.settings))


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class TrainState:
    """Weights, the optimiser's moments, and how many updates were skipped for a loss that was not finite."""

    weights: Any
    moments: Any
    skipped: Array


@functools.partial(jax.jit, static_argnames=("graph", "objective", "optimizer"), donate_argnames=("state",))
def update_step(
    state: TrainState,
    batch: Batch,
    rate: Float[Array, ""],
    *,
    graph: nnx.GraphDef[Transformer],
    objective: Objective,
    optimizer: OptimizerConfig,
) -> tuple[TrainState, Metrics]:
    """One update. If the loss or the gradient is not finite nothing changes and `skipped` counts it."""

    def loss_of(weights: Any) -> tuple[Array, Metrics]:
        return objective(nnx.merge(graph, weights), batch)

    (loss, metrics), gradient = jax.value_and_grad(loss_of, has_aux=True)(state.weights)
    norm = optax.global_norm(gradient)
    updates, moments = optimizer.transformation().update(gradient, state.moments, state.weights)
    weights = jax.tree.map(lambda w, u: w - rate * u, state.weights, updates)
    fine = jnp.isfinite(loss) & jnp.isfinite(norm)

    def keep(new: Any, old: Any) -> Any:
        return jax.tree.map(lambda n, o: jnp.where(fine, n, o), new, old)

    after = TrainState(keep(weights, state.weights), keep(moments, state.moments), state.skipped + ~fine)
    return after, metrics | {"loss": loss, "gradient_norm": norm}


class Trainer:
    """Weights in training.

    Args:
      graph, weights: of the model; the weights are copied, the caller's stay untouched.
      objective, optimizer: what to minimise and how.
      updates: planned in all; the learning rate's schedule ends there.
    """

    def __init__(
        self,
        graph: nnx.GraphDef[Transformer],
        weights: Any,
        objective: Objective,
        optimizer: OptimizerConfig,
        mesh: Mesh,
        *,
        updates: int,
    ):
        self.graph, self.objective, self.optimizer, self.mesh, self.updates = graph, objective, optimizer, mesh, updates
        weights = shard_parameters(mesh, jax.tree.map(jnp.copy, weights))
        moments = jax.jit(optimizer.transformation().init)(weights)
        self.state = replicate_scalars(mesh, TrainState(weights, moments, jnp.zeros((), jnp.int32)))
        self.update = 0

    def step(self, batch: HostBatch) -> Metrics:
        """One update on a host batch; returns device scalars (reading them waits for the step)."""
        rate = np.float32(self.optimizer.rate(self.update, self.updates))
        self.state, metrics = update_step(
            self.state,
            shard_rows(self.mesh, batch),
            replicate(self.mesh, rate),
            graph=self.graph,
            objective=self.objective,
            optimizer=self.optimizer,
        )
        self.update += 1
        return metrics

    @property
    def weights(self) -> Any:
        return self.state.weights


@functools.partial(jax.jit, static_argnames=("graph", "score"))
def _scores(graph: nnx.GraphDef[Transformer], weights: Any, batch: Batch, score: Callable[..., Any]) -> Any:
    return score(nnx.merge(graph, weights), batch)


def sequence_scores(graph: nnx.GraphDef[Transformer], weights: Any, batch: HostBatch, mesh: Mesh) -> np.ndarray:
    """`losses.sequence_scores` of a host batch: (B,)."""
    return np.asarray(_scores(graph, weights, shard_rows(mesh, batch), losses.sequence_scores))


def token_scores(graph: nnx.GraphDef[Transformer], weights: Any, batch: HostBatch, mesh: Mesh) -> np.ndarray:
    """log p of every token of a host batch: (B, S)."""
    return np.asarray(_scores(graph, weights, shard_rows(mesh, batch), losses.token_scores)[0])


def replicate_scalars(mesh: Mesh, state: TrainState) -> TrainState:
    """Puts what is not sharded yet (counters) on every device."""
    return jax.tree.map(lambda x: replicate(mesh, x) if x.ndim == 0 else x, state)


def fit(
    trainer: Trainer, batches: Iterator[HostBatch], *, report: Callable[[int, dict[str, float]], None], every: int = 20
) -> dict[str, float]:
    """Trains for the planned number of updates.

    Args:
      report: called every `every` updates, and after the last, with the update's number and its metrics:
        loss, gradient_norm, the objective's own, tokens_per_second (padding left out).

    Returns:
      The last metrics reported, with `skipped`.
    """
    last: dict[str, float] = {}
    tokens, since = 0, time.monotonic()
    for update in range(1, trainer.updates + 1):
        batch = next(batches)
        tokens += int((batch["segments"] > 0).sum())
        metrics = trainer.step(batch)
        if update % every == 0 or update == trainer.updates:
            last = {name: float(value) for name, value in jax.device_get(metrics).items()}
            now = time.monotonic()
            report(update, last | {"tokens_per_second": tokens / max(now - since, 1e-9)})
            tokens, since = 0, now
    return last | {"skipped": int(trainer.state.skipped)}
