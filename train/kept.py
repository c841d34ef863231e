"""Checkpoints within a stage: a training that was killed goes on from the last one, bit for bit.

In `underway/STAGE/NAME/UPDATE` lie the weights in training, the optimiser's moments, the position of the input, and
what was reported so far; gone when the stage is finished.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath

from o1coder_jax import checkpoint
from o1coder_jax.errors import UserError
from train.data import Batches, Example

if TYPE_CHECKING:
    from train.step import Trainer

Reports = list[tuple[int, dict[str, float], dict[str, float | None]]]


class Kept:
    """What a training keeps for its next attempt.

    Args:
      folder: one for all processes.
      every: updates between two checkpoints; the last update has one, too.
      examples: what is learned from. A checkpoint made with others, or from other weights, is not taken up.
    """

    def __init__(self, folder: Path, every: int, examples: Sequence[Example]):
        self._folder, self.every = epath.Path(folder), every
        self._examples = _content(examples)
        self._key = ""

    def save(self, trainer: Trainer, batches: Batches, reports: Reports) -> None:
        """Writes a checkpoint, then removes the one before it."""
        before = self._numbers()
        facts = {"key": self._key, "update": trainer.update, "input": batches.get_state(), "reports": reports}
        checkpoint.save(self._folder / str(trainer.update), trainer.state, facts)
        if jax.process_index() == 0:
            for number in before:
                if number != trainer.update:
                    (self._folder / str(number)).rmtree()

    def restore(self, trainer: Trainer, batches: Batches) -> Reports:
        """Sets a new trainer and its input to the last checkpoint; returns the reports up to it."""
        self._key = self._identity(trainer)
        for number in sorted(self._numbers(), reverse=True):
            path = self._folder / str(number)
            try:
                facts = checkpoint.metadata(path)
            except UserError as error:  # killed while it was written; the one before it is still there
                print(f"{error}; the training goes on without it", flush=True)
                continue
            if facts.get("key") != self._key:
                print(f"{path} is of another training; it is not taken up", flush=True)
                continue
            trainer.state = checkpoint.restore(path, trainer.state)
            trainer.update = facts["update"]
            batches.set_state(facts["input"])
            print(f"goes on after update {trainer.update}, from {path}", flush=True)
            return [(update, learned, measured) for update, learned, measured in facts["reports"]]
        return []

    def _numbers(self) -> list[int]:
        if not self._folder.exists():
            return []
        return [int(path.name) for path in self._folder.iterdir() if path.name.isdigit()]

    def _identity(self, trainer: Trainer) -> str:
        """What a training depends on: objective, optimiser, examples, first weights."""
        function = trainer.objective.function
        plain = [
            f"{function.__module__}.{function.__qualname__}",
            repr(trainer.objective.settings),
            repr(trainer.optimizer),
            trainer.updates,
            self._examples,
            [int(x) for x in jax.tree.leaves(_sums(trainer.weights))],
        ]
        return hashlib.sha256(json.dumps(plain).encode()).hexdigest()[:16]


def _content(examples: Sequence[Example]) -> str:
    digest = hashlib.sha256()
    for one in examples:
        for name in sorted(one):
            digest.update(name.encode() + np.ascontiguousarray(one[name]).tobytes())
    return digest.hexdigest()[:16]


@jax.jit
def _sums(weights: Any) -> Any:
    """A checksum of each array, exact and the same on every mesh: sums of its bits modulo 2^32, weighed by place."""

    def of(array: jax.Array) -> jax.Array:
        bits = jax.lax.bitcast_convert_type(array, {1: jnp.uint8, 2: jnp.uint16, 4: jnp.uint32}[array.dtype.itemsize])
        place = jnp.zeros(array.shape, jnp.uint32)
        for axis, size in enumerate(array.shape):
            place = place * np.uint32(size) + jax.lax.broadcasted_iota(jnp.uint32, array.shape, axis)
        return jnp.sum(bits.astype(jnp.uint32) * (2 * place + 1), dtype=jnp.uint32)

    return jax.tree.map(of, weights)
