"""How fast and how well a device trains: tokens, model FLOPs, their share of the device's peak, memory."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import jax
from flax import nnx

from o1coder_jax import hardware, losses
from o1coder_jax.flops import matrix_parameters, training_flops
from o1coder_jax.mesh import own_shards, parameter_name, row_shards
from train.data import HostBatch

if TYPE_CHECKING:
    from train.step import Trainer

WITHOUT_LOGITS = (losses.prm_pointwise, losses.prm_pairwise)
TERA = 1e12
GIB = 2**30


class Meter:
    """Counts what a trainer is given between two readings.

    Of several processes each counts its own rows, and takes the others to have as much.
    """

    def __init__(self, trainer: Trainer):
        model = nnx.merge(trainer.graph, trainer.weights)
        self._config = model.config
        self._vocabulary = 0 if trainer.objective.function in WITHOUT_LOGITS else model.vocab_size
        self._trained = _trained_matrices(trainer.state.weights, matrix_parameters(self._config, self._vocabulary))
        self._processes = row_shards(trainer.mesh) / len(own_shards(trainer.mesh))
        self._devices = list(trainer.mesh.devices.flat)
        self._local = list(trainer.mesh.local_devices)
        self.begin()

    def begin(self) -> None:
        """Counts from now on."""
        self._tokens, self._flops, self._since = 0, 0, time.monotonic()

    def count(self, batch: HostBatch) -> None:
        """Counts a batch's tokens, padding left out."""
        segments = batch["segments"]
        self._tokens += int((segments > 0).sum())
        self._flops += training_flops(self._config, self._vocabulary, segments, trained=self._trained)

    def read(self) -> dict[str, float | None]:
        """Figures since the last reading: `tokens_per_second`, `tflops_per_second` (of the model's mathematics, see
        `o1coder_jax/flops.py`), `mfu` (their share of the devices' peak; None where that is not known, as on a CPU)
        and `memory_gib` (the most that a device has held)."""
        seconds = max(time.monotonic() - self._since, 1e-9)
        tokens, flops = self._tokens * self._processes / seconds, self._flops * self._processes / seconds
        peak = hardware.peak_flops(self._devices)
        self.begin()
        return {
            "tokens_per_second": tokens,
            "tflops_per_second": flops / TERA,
            "mfu": flops / peak if peak else None,
            "memory_gib": hardware.peak_memory_bytes(self._local) / GIB,
        }


def _trained_matrices(weights: object, matrices: int) -> int:
    """N_trained: scalars of matrices in training; biases and norms left out."""
    flat = jax.tree_util.tree_leaves_with_path(weights)
    names = [(parameter_name(path[:-1] if str(path[-1]) == ".value" else path), leaf) for path, leaf in flat]
    return min(sum(leaf.size for name, leaf in names if "norm" not in name and "bias" not in name), matrices)
