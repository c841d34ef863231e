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
from jax.sharding import Mesh, NamedSharding
from jaxtyping import Array, Float
from optax import contrib

from o1coder_jax import losses
from o1coder_jax.errors import UserError
from o1coder_jax.losses import Batch, Metrics
from o1coder_jax.mesh import replicate, row_shards, shard_parameters, shard_rows
from o1coder_jax.transformer import Transformer
from train.data import HostBatch

MUON_RMS = 0.2  # root mean square of an update relative to the learning rate, about that of AdamW
MATRICES = {  # axis 0 of a stacked weight is the layer
    "query": contrib.MuonDimensionNumbers((1,), (2, 3)),
    "key": contrib.MuonDimensionNumbers((1,), (2, 3)),
    "value": contrib.MuonDimensionNumbers((1,), (2, 3)),
    "output": contrib.MuonDimensionNumbers((1, 2), (3,)),
    "gate": contrib.MuonDimensionNumbers((1,), (2,)),
    "up": contrib.MuonDimensionNumbers((1,), (2,)),
    "down": contrib.MuonDimensionNumbers((1,), (2,)),
}


@dataclass(frozen=True)
class OptimizerConfig:
    """How gradients become updates; the gradient is clipped first.

    Attributes:
      kind: `adamw`, or `muon` (momentum orthogonalised per matrix, scaled to AdamW's size of update so that
        learning rates carry over, arXiv 2502.16982; embeddings, norms and biases keep AdamW).
      learning_rate: its peak; `warmup` updates lead to it, `schedule` leads down to `final_share` of it.
      clip_norm: the gradient's global norm is clipped to it.
      beta2, weight_decay: of AdamW.
    """

    kind: Literal["adamw", "muon"] = "adamw"
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
        if self.warmup < 0 or self.weight_decay < 0:
            raise UserError(
                f"optimizer: warmup {self.warmup} and weight_decay {self.weight_decay} must not be negative"
            )
        if not 0 <= self.final_share <= 1 or not 0 <= self.beta2 < 1:
            raise UserError(
                f"optimizer: final_share {self.final_share} must lie in [0, 1] and beta2 {self.beta2} in [0, 1)"
            )

    def rate(self, update: int, updates: int) -> float:
        """Learning rate of update number `update` (from 0) of `updates`."""
        if update < self.warmup:
            return self.learning_rate * (update + 1) / (self.warmup + 1)
        progress = min((update - self.warmup) / max(updates - self.warmup, 1), 1.0)
        fallen = {"constant": 0.0, "linear": progress, "cosine": 0.5 * (1 - math.cos(math.pi * progress))}
        return self.learning_rate * (1 - (1 - self.final_share) * fallen[self.schedule])

    def transformation(self) -> optax.GradientTransformation:
        """Updates to subtract, before the learning rate."""
        clip = optax.clip_by_global_norm(self.clip_norm)
        if self.kind == "adamw":
            return optax.chain(clip, optax.scale_by_adam(b2=self.beta2), optax.add_decayed_weights(self.weight_decay))
        muon = contrib.muon(
            1.0,
            consistent_rms=MUON_RMS,
            adam_b2=self.beta2,
            weight_decay=self.weight_decay,
            muon_weight_dimension_numbers=matrix_axes,
        )
        return optax.chain(clip, muon, optax.scale(-1.0))  # optax's muon is a descent direction already


def matrix_axes(weights: Any) -> Any:
    """Which axes of each stacked layer weight are a matrix's inputs and outputs; None for what is no matrix."""

    def axes(path: tuple[Any, ...], leaf: Array) -> contrib.MuonDimensionNumbers | None:
        name = next((str(key.key) for key in reversed(path) if hasattr(key, "key")), "")
        return MATRICES.get(name) if leaf.ndim >= 3 else None

    return jax.tree_util.tree_map_with_path(axes, weights)


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
    norm = optax.tree.norm(gradient)
    updates, moments = optimizer.transformation().update(gradient, state.moments, state.weights)
    weights = jax.tree.map(lambda w, u: w - rate * u, state.weights, updates)
    fine = jnp.isfinite(loss) & jnp.isfinite(norm)

    def keep(new: Any, old: Any) -> Any:
        return jax.tree.map(lambda n, o: jnp.where(fine, n, o), new, old)

    after = TrainState(keep(weights, state.weights), keep(moments, state.moments), state.skipped + ~fine)
    return after, metrics | {"loss": loss, "gradient_norm": norm}


@functools.cache
def jitted_step(structure: Any, places: tuple[NamedSharding, ...]) -> Callable[..., tuple[TrainState, Metrics]]:
    """`update_step` for states of this tree structure whose arrays lie, and stay, at these places.

    Left to the compiler, an update's result would lie elsewhere than what came in (or be said to), and the next update
    would be compiled anew.
    """
    return jax.jit(
        update_step,
        static_argnames=("graph", "objective", "optimizer"),
        donate_argnames=("state",),
        out_shardings=(jax.tree.unflatten(structure, places), None),
    )


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
        moments = shard_parameters(mesh, jax.jit(optimizer.transformation().init)(weights))
        self.state = replicate_scalars(mesh, TrainState(weights, moments, jnp.zeros((), jnp.int32)))
        leaves, structure = jax.tree.flatten(self.state)
        self._update_step = jitted_step(structure, tuple(leaf.sharding for leaf in leaves))
        self.update = 0

    def step(self, batch: HostBatch) -> Metrics:
        """One update on a host batch; returns device scalars (reading them waits for the step)."""
        rate = np.float32(self.optimizer.rate(self.update, self.updates))
        self.state, metrics = self._update_step(
            self.state,
            split_rows(self.mesh, batch),
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


def split_rows(mesh: Mesh, batch: HostBatch) -> HostBatch:
    """Puts a host batch on the mesh; `UserError` when its rows cannot be shared out evenly."""
    rows, parts = len(batch["tokens"]), row_shards(mesh)
    if rows % parts:
        raise UserError(f"a batch of {rows} rows cannot be split over {parts} devices; give a multiple of {parts} rows")
    return shard_rows(mesh, batch)


@functools.partial(jax.jit, static_argnames=("graph", "score"))
def _scores(graph: nnx.GraphDef[Transformer], weights: Any, batch: Batch, score: Callable[..., Any]) -> Any:
    return score(nnx.merge(graph, weights), batch)


def sequence_scores(graph: nnx.GraphDef[Transformer], weights: Any, batch: HostBatch, mesh: Mesh) -> np.ndarray:
    """`losses.sequence_scores` of a host batch: (B,)."""
    return np.asarray(_scores(graph, weights, split_rows(mesh, batch), losses.sequence_scores))


def token_scores(graph: nnx.GraphDef[Transformer], weights: Any, batch: HostBatch, mesh: Mesh) -> np.ndarray:
    """log p of every token of a host batch: (B, S)."""
    return np.asarray(_scores(graph, weights, split_rows(mesh, batch), losses.token_scores)[0])


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
      The last metrics reported, with `skipped_updates`: how many batches were not finite.
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
    return last | {"skipped_updates": int(trainer.state.skipped)}
