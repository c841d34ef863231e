"""One optimiser step for every objective: jitted, sharded, its state donated."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jax.sharding import Mesh, NamedSharding
from jaxtyping import Array, Float
from optax import contrib

from o1coder_jax import losses
from o1coder_jax.adapters import dropout_of
from o1coder_jax.errors import UserError
from o1coder_jax.losses import Batch, Metrics
from o1coder_jax.mesh import (
    ROWS,
    constrain,
    own_rows,
    own_shards,
    own_slice,
    parameter_name,
    parameter_shardings,
    replicate,
    row_shards,
    shard_own_rows,
    shard_parameters,
)
from o1coder_jax.transformer import Transformer
from train.kept import Kept
from train.meter import Meter

if TYPE_CHECKING:  # a step needs no input pipeline
    from train.data import Batches, HostBatch

MUON_RMS = 0.2  # root mean square of an update relative to the learning rate, about that of AdamW
MATRICES = {  # axis 0 of a stacked weight is the layer
    "query.weight": contrib.MuonDimensionNumbers((1,), (2, 3)),
    "key.weight": contrib.MuonDimensionNumbers((1,), (2, 3)),
    "value.weight": contrib.MuonDimensionNumbers((1,), (2, 3)),
    "output.weight": contrib.MuonDimensionNumbers((1, 2), (3,)),
    "gate.weight": contrib.MuonDimensionNumbers((1,), (2,)),
    "up.weight": contrib.MuonDimensionNumbers((1,), (2,)),
    "down.weight": contrib.MuonDimensionNumbers((1,), (2,)),
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
      microbatches: a batch is taken in so many parts, one after another, and their gradients are added: less memory,
        the same update.
    """

    kind: Literal["adamw", "muon"] = "adamw"
    learning_rate: float = 1e-3
    warmup: int = 10
    schedule: Literal["constant", "linear", "cosine"] = "linear"
    final_share: float = 0.1
    clip_norm: float = 1.0
    beta2: float = 0.98
    weight_decay: float = 0.0
    microbatches: int = 1

    def __post_init__(self) -> None:
        if self.learning_rate <= 0 or self.clip_norm <= 0:
            raise UserError(
                f"optimizer: learning_rate {self.learning_rate} and clip_norm {self.clip_norm} must be positive"
            )
        if self.warmup < 0 or self.weight_decay < 0:
            raise UserError(
                f"optimizer: warmup {self.warmup} and weight_decay {self.weight_decay} must not be negative"
            )
        if self.microbatches < 1:
            raise UserError(f"optimizer.microbatches is {self.microbatches}; it must be at least 1")
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
        return MATRICES.get(parameter_name(path))

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
    """Weights in training, the optimiser's moments, and how many updates were skipped: loss or gradient not finite."""

    weights: Any
    moments: Any
    skipped: Array


def update_step(
    state: TrainState,
    frozen: Any,
    batch: Batch,
    rate: Float[Array, ""],
    *,
    graph: nnx.GraphDef[Transformer],
    objective: Objective,
    optimizer: OptimizerConfig,
) -> tuple[TrainState, Metrics]:
    """One update. If the loss or the gradient is not finite nothing changes and `skipped` counts it.

    `frozen` holds the weights that are not in training; it has neither gradients nor moments.
    """

    def loss_of(weights: Any, part: Batch) -> tuple[Array, Metrics]:
        return objective(nnx.merge(graph, weights, frozen), part)

    (loss, metrics), gradient = _accumulated(loss_of, state.weights, batch, optimizer.microbatches)
    norm = optax.tree.norm(gradient)
    updates, moments = optimizer.transformation().update(gradient, state.moments, state.weights)
    weights = jax.tree.map(lambda w, u: w - rate * u, state.weights, updates)
    fine = jnp.isfinite(loss) & jnp.isfinite(norm)

    def keep(new: Any, old: Any) -> Any:
        return jax.tree.map(lambda n, o: jnp.where(fine, n, o), new, old)

    after = TrainState(keep(weights, state.weights), keep(moments, state.moments), state.skipped + ~fine)
    return after, metrics | {"loss": loss, "gradient_norm": norm}


def _accumulated(
    loss_of: Callable[..., tuple[Array, Metrics]], weights: Any, batch: Batch, count: int
) -> tuple[tuple[Array, Metrics], Any]:
    """Loss, metrics and gradient of a batch, one part of it after another."""
    gradient_of = jax.value_and_grad(loss_of, has_aux=True)
    if count == 1:
        return gradient_of(weights, batch)
    totals = losses.totals(batch)

    def add(sums: Any, part: Batch) -> tuple[Any, None]:
        return jax.tree.map(jnp.add, sums, gradient_of(weights, part | totals)), None

    split = {name: _parts(rows, count) for name, rows in batch.items()}
    empty = jax.eval_shape(gradient_of, weights, {name: rows[0] for name, rows in split.items()} | totals)
    zeros = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), empty)
    return jax.lax.scan(add, zeros, split)[0]


def _parts(rows: Array, count: int) -> Array:
    """(B, ...) to (count, B / count, ...), rows staying on their devices."""
    sizes = jax.sharding.get_abstract_mesh().shape
    devices = math.prod(sizes.get(axis, 1) for axis in ROWS)
    split = jnp.moveaxis(rows.reshape(devices, count, -1, *rows.shape[1:]), 1, 0)
    return constrain(split.reshape(count, -1, *rows.shape[1:]), None, ROWS)


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
    """Weights in training: the model's `nnx.Param`s. Its other weights stay as they are.

    Args:
      graph, weights: of the model; the weights in training are copied, the caller's stay untouched.
      objective, optimizer: what to minimise and how.
      updates: planned in all; the learning rate's schedule ends there.
      seed: with the update and the row it decides what an adapter's dropout hides.
      dropout: whether it hides anything; off where updates are compared with probabilities that were taken without.

    Raises:
      ValueError: weights in training are not float32.
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
        seed: int = 0,
        dropout: bool = True,
    ):
        self.seed, self.dropout = seed, dropout and dropout_of(graph, weights) > 0
        self.graph, self.objective, self.optimizer, self.mesh, self.updates = graph, objective, optimizer, mesh, updates
        trained, frozen = nnx.split_state(weights, nnx.Param, ...)
        self.frozen = shard_parameters(mesh, frozen)
        trained = shard_parameters(mesh, jax.tree.map(jnp.copy, trained))
        if others := {str(leaf.dtype) for leaf in jax.tree.leaves(trained)} - {"float32"}:
            raise ValueError(f"weights in training are {', '.join(sorted(others))}; they must be float32")
        moments = _first_moments(optimizer, mesh, trained)
        self.state = replicate_scalars(mesh, TrainState(trained, moments, jnp.zeros((), jnp.int32)))
        leaves, structure = jax.tree.flatten(self.state)
        self._update_step = jitted_step(structure, tuple(leaf.sharding for leaf in leaves))
        self.update = 0

    def step(self, batch: HostBatch) -> Metrics:
        """One update on this process's rows of a batch; returns device scalars (reading them waits for the step)."""
        rate = np.float32(self.optimizer.rate(self.update, self.updates))
        if self.dropout:
            rows = len(batch["tokens"]) * row_shards(self.mesh) // len(own_shards(self.mesh))
            seeds = dropout_seeds(self.seed, self.update, rows)
            batch = batch | {"dropout": seeds[own_slice(self.mesh, rows)]}
        with jax.set_mesh(self.mesh):
            self.state, metrics = self._update_step(
                self.state,
                self.frozen,
                split_rows(self.mesh, batch, self.optimizer.microbatches),
                replicate(self.mesh, rate),
                graph=self.graph,
                objective=self.objective,
                optimizer=self.optimizer,
            )
        self.update += 1
        return metrics

    @property
    def row_parts(self) -> int:
        """In how many parts a batch's rows are split: over the mesh, and one after another."""
        return row_shards(self.mesh) * self.optimizer.microbatches

    @property
    def weights(self) -> Any:
        return nnx.merge_state(self.state.weights, self.frozen)


def _first_moments(optimizer: OptimizerConfig, mesh: Mesh, trained: Any) -> Any:
    """Moments of zeros, made where they stay: whole they need not fit a device."""
    init = optimizer.transformation().init
    places = parameter_shardings(mesh, jax.eval_shape(init, trained))
    return jax.jit(init, out_shardings=places)(trained)


def dropout_seeds(seed: int, update: int, rows: int) -> np.ndarray:
    """A random seed for each row of an update's batch, in all processes: (B, 2) uint32."""
    return np.random.SeedSequence((seed, update)).generate_state(2 * rows, np.uint32).reshape(rows, 2)


def split_rows(mesh: Mesh, batch: HostBatch, microbatches: int = 1) -> HostBatch:
    """Puts this process's rows of a batch on the mesh; `UserError` when rows (or pairs) cannot be shared out evenly."""
    parts = row_shards(mesh)
    rows = len(batch["tokens"]) * parts // len(own_shards(mesh))
    unit = parts if microbatches == 1 else parts * microbatches * (2 if "valid" in batch else 1)
    if rows % unit:
        taken = f" in {microbatches} microbatches" if microbatches > 1 else ""
        raise UserError(
            f"a batch of {rows} rows cannot be split over {parts} devices{taken}; give a multiple of {unit} rows"
        )
    return shard_own_rows(mesh, batch)


@functools.partial(jax.jit, static_argnames=("graph", "score"))
def _scores(graph: nnx.GraphDef[Transformer], weights: Any, batch: Batch, score: Callable[..., Any]) -> Any:
    return score(nnx.merge(graph, weights), batch)


def sequence_scores(graph: nnx.GraphDef[Transformer], weights: Any, batch: HostBatch, mesh: Mesh) -> np.ndarray:
    """`losses.sequence_scores` of this process's rows: (B,)."""
    with jax.set_mesh(mesh):
        return np.asarray(own_rows(mesh, _scores(graph, weights, split_rows(mesh, batch), losses.sequence_scores)))


def token_scores(graph: nnx.GraphDef[Transformer], weights: Any, batch: HostBatch, mesh: Mesh) -> np.ndarray:
    """log p of every token of this process's rows: (B, S)."""
    with jax.set_mesh(mesh):
        return np.asarray(own_rows(mesh, _scores(graph, weights, split_rows(mesh, batch), losses.token_scores)[0]))


def replicate_scalars(mesh: Mesh, state: TrainState) -> TrainState:
    """Puts what is not sharded yet (counters) on every device."""
    return jax.tree.map(lambda x: replicate(mesh, x) if x.ndim == 0 else x, state)


def fit(
    trainer: Trainer,
    batches: Batches,
    *,
    report: Callable[[int, dict[str, float | None]], None],
    every: int = 20,
    kept: Kept | None = None,
) -> dict[str, float]:
    """Trains for the planned number of updates.

    Args:
      report: called with each update's number and its metrics: loss, gradient_norm, the objective's own, and the
        figures of `Meter.read` over the updates that are reported together.
      every: so many updates are reported together, since to read a metric is to wait for its update.
      kept: where the training keeps its state as it goes on, and finds what a killed one kept: it is then continued,
        after its reports have been repeated.

    Returns:
      The last metrics reported but the meter's, with `skipped_updates`: how many batches were not finite.
    """
    reports = kept.restore(trainer, batches) if kept else []
    for update, learned, measured in reports:
        report(update, {**learned, **measured})
    last = reports[-1][1] if reports else {}
    meter, pending = Meter(trainer), []
    for update in range(trainer.update + 1, trainer.updates + 1):
        batch = next(batches)
        meter.count(batch)
        pending.append(trainer.step(batch))
        saving = kept is not None and (update % kept.every == 0 or update == trainer.updates)
        if saving or update % every == 0 or update == trainer.updates:
            learned, measured, new = jax.device_get(pending), meter.read(), len(reports)
            for number, metrics in enumerate(learned, update - len(pending) + 1):
                last = {name: float(value) for name, value in metrics.items()}
                reports.append((number, last, measured))
            if kept and saving:
                kept.save(trainer, batches, reports)
            for number, last, measured in reports[new:]:
                report(number, {**last, **measured})
            pending = []
    return last | {"skipped_updates": int(trainer.state.skipped)}
