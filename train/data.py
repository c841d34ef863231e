"""Input pipelines: examples to batches, deterministic, packed by grain.

An example is a dictionary of arrays of one length: `tokens`, `weight`, and what an objective needs beside them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import grain
import numpy as np
from grain import experimental as packing

from o1coder_jax.errors import UserError

Example = dict[str, np.ndarray]
HostBatch = dict[str, np.ndarray]


@dataclass(frozen=True)
class BatchConfig:
    """Shape of a training batch.

    Attributes:
      rows, length: places; sequences are packed into a row until it is full.
    """

    rows: int = 8
    length: int = 256

    def __post_init__(self) -> None:
        if self.rows < 1 or self.length < 8:
            raise UserError(f"batch {self.rows} x {self.length}: rows must be at least 1 and length at least 8")


def example(prompt: Sequence[int], answer: Sequence[int], **extra: Any) -> Example:
    """A prompt without loss and an answer with it; `extra` arrays speak of the answer's tokens."""
    tokens = np.array([*prompt, *answer], np.int32)
    weight = np.zeros(len(tokens), np.float32)
    weight[len(prompt) :] = 1.0
    out = {"tokens": tokens, "weight": weight}
    for name, values in extra.items():
        full = np.zeros(len(tokens), np.float32)
        full[len(prompt) :] = values
        out[name] = full
    return out


def fitting(examples: Sequence[Example], length: int) -> list[Example]:
    """The examples that fit into a row; the caller counts the others."""
    return [e for e in examples if len(e["tokens"]) <= length]


def packed_batches(examples: Sequence[Example], batch: BatchConfig, *, seed: int, name: str) -> Iterator[HostBatch]:
    """Endless shuffled batches (rows, length): each pass over the examples has an order of its own.

    Yields:
      The examples' arrays, zero where nothing is packed, with `segments` (0 is padding) and `positions`.

    Raises:
      UserError: no example fits; `name` is the section of the configuration that `batch` belongs to.
    """
    usable = fitting(examples, batch.length)
    if not examples:
        raise UserError(f"{name}: no problem of the training part gives an example; give more problems")
    if not usable:
        raise UserError(
            f"{name}.batch.length is {batch.length}, and none of {len(examples)} examples fits into it; "
            f"raise it, the shortest has {min(len(e['tokens']) for e in examples)} tokens"
        )
    read = grain.ReadOptions(num_threads=0, prefetch_buffer_size=0)
    source = grain.MapDataset.source(usable).seed(seed).shuffle().repeat().to_iter_dataset(read)
    lengths = dict.fromkeys(usable[0], batch.length)
    rows = packing.FirstFitPackIterDataset(source, length_struct=lengths, num_packing_bins=batch.rows, seed=seed)
    for packed in rows.batch(batch.rows, drop_remainder=True):
        yield {name: packed[name] for name in lengths} | {
            "segments": packed["tokens_segment_ids"],
            "positions": packed["tokens_positions"],
        }


def padded_batch(examples: Sequence[Example], rows: int, length: int) -> HostBatch:
    """One example to a row, in order; missing rows are padding."""
    batch: HostBatch = {
        "segments": np.zeros((rows, length), np.int32),
        "positions": np.tile(np.arange(length, dtype=np.int32), (rows, 1)),
    }
    for name, values in examples[0].items():
        batch[name] = np.zeros((rows, length), values.dtype)
    for row, one in enumerate(examples):
        batch["segments"][row, : len(one["tokens"])] = 1
        for name, values in one.items():
            batch[name][row, : len(values)] = values
    return batch


def round_up(value: int, multiple: int) -> int:
    return -(-value // multiple) * multiple
