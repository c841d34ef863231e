"""Input pipelines: examples to batches, deterministic, shuffled and packed by grain.

An example is a dictionary of arrays of one length: `tokens`, `weight`, and what an objective needs beside them. A
pipeline is an endless iterator whose position can be taken (`get_state`, JSON values) and set again. Its batches hold
this process's own rows; which examples lie in which row does not depend on how many processes there are.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import grain
import numpy as np
from grain import experimental as packing

from o1coder_jax.errors import UserError

Example = dict[str, np.ndarray]
HostBatch = dict[str, np.ndarray]
READ = grain.ReadOptions(num_threads=0, prefetch_buffer_size=0)


ALL = slice(None)


class Batches(Protocol):
    """A pipeline at a position."""

    def __iter__(self) -> Iterator[HostBatch]: ...

    def __next__(self) -> HostBatch: ...

    def get_state(self) -> dict[str, Any]:
        """The position, as JSON values."""

    def set_state(self, state: dict[str, Any]) -> None:
        """Goes to a position that `get_state` gave."""


@dataclass(frozen=True)
class BatchConfig:
    """Shape of a training batch.

    Attributes:
      rows, length: places; sequences are packed into a row until it is full.
      open_rows: so many rows are filled side by side, and a sequence goes into the first with room: the more there are
        the less stays empty; 0: as many as `rows`.
    """

    rows: int = 8
    length: int = 256
    open_rows: int = 0

    def __post_init__(self) -> None:
        if self.rows < 1 or self.length < 8:
            raise UserError(f"batch {self.rows} x {self.length}: rows must be at least 1 and length at least 8")
        if self.open_rows < 0:
            raise UserError(f"batch.open_rows is {self.open_rows}; it must not be negative")


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


def packed_batches(
    examples: Sequence[Example], batch: BatchConfig, *, seed: int, name: str, own: slice = ALL
) -> Batches:
    """Endless shuffled batches (rows, length): each pass over the examples has an order of its own.

    Where each token goes is planned for all rows; only the rows `own` are filled.

    Returns:
      Batches of the examples' arrays, zero where nothing is packed, with `segments` (0 is padding) and `positions`.

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
    joined = {field: np.concatenate([e[field] for e in usable]) for field in usable[0]}
    ends = list(itertools.accumulate(len(e["tokens"]) for e in usable))

    def places(index: int) -> dict[str, np.ndarray]:
        return {"place": np.arange(ends[index] - len(usable[index]["tokens"]), ends[index])}

    def fill(planned: dict[str, np.ndarray]) -> HostBatch:
        place, segments = planned["place"][own], planned["place_segment_ids"][own]
        out = {field: np.where(segments > 0, values[place], 0).astype(values.dtype) for field, values in joined.items()}
        return out | {"segments": segments, "positions": planned["place_positions"][own]}

    order = grain.MapDataset.range(len(usable)).seed(seed).shuffle().repeat().map(places)
    rows = packing.FirstFitPackIterDataset(
        order.to_iter_dataset(READ),
        length_struct={"place": batch.length},
        num_packing_bins=batch.open_rows or batch.rows,
        seed=seed,
    )
    pipeline: Batches = iter(rows.batch(batch.rows, drop_remainder=True).map(fill))
    return pipeline


def chosen_batches(
    count: int, each: int, make: Callable[[Sequence[int]], HostBatch], *, seed: int, own: slice = ALL
) -> Batches:
    """Endless batches made from `each` of `count` things: all of them in each pass, in an order of its own.

    Args:
      make: a whole batch from the things' numbers; the rows `own` of it are handed on.
    """
    order = grain.MapDataset.range(count).seed(seed).shuffle().repeat()

    def fill(numbers: np.ndarray) -> HostBatch:
        return {field: values[own] for field, values in make(numbers.tolist()).items()}

    pipeline: Batches = iter(order.to_iter_dataset(READ).batch(each, drop_remainder=True).map(fill))
    return pipeline


def padded_batch(examples: Sequence[Example], rows: int, length: int) -> HostBatch:
    """One example to a row, in order; missing rows are padding."""
    return laid_batch([[one] for one in examples], rows, length)


def laid_batch(packed: Sequence[Sequence[Example]], rows: int, length: int) -> HostBatch:
    """The examples of each row one behind the other; the first row has some, and missing rows are padding."""
    batch: HostBatch = {
        "segments": np.zeros((rows, length), np.int32),
        "positions": np.tile(np.arange(length, dtype=np.int32), (rows, 1)),
    }
    for name, values in packed[0][0].items():
        batch[name] = np.zeros((rows, length), values.dtype)
    for row, examples in enumerate(packed):
        start = 0
        for segment, one in enumerate(examples, 1):
            at = row, slice(start, start := start + len(one["tokens"]))
            batch["segments"][at] = segment
            batch["positions"][at] = np.arange(len(one["tokens"]))
            for name, values in one.items():
                batch[name][at] = values
    return batch


def first_fit(examples: Sequence[Example], length: int) -> list[list[Example]]:
    """Rows of so many places with all examples, of which none is longer: the longest first, each in the first row with
    room (first-fit decreasing)."""
    rows: list[list[Example]] = []
    room = np.full(len(examples), length)
    for one in sorted(examples, key=lambda one: -len(one["tokens"])):
        row = int(np.argmax(room >= len(one["tokens"])))
        if row == len(rows):
            rows.append([])
        rows[row].append(one)
        room[row] -= len(one["tokens"])
    return rows


def round_up(value: int, multiple: int) -> int:
    return -(-value // multiple) * multiple
