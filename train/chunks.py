"""Work whose results are kept chunk by chunk in a file, so that a kill costs one chunk."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

from o1coder_jax.hosts import gather
from o1coder_jax.records import to_line

T = TypeVar("T")
R = TypeVar("R")


def done_in_chunks(
    items: Sequence[T],
    size: int,
    do: Callable[[Sequence[T], int], list[R]],
    *,
    path: Path,
    key: str,
    read: Callable[[dict[str, Any]], R],
    tell: Callable[[int], None],
) -> list[R]:
    """The results of all chunks, one after another; every process asks alike.

    Chunks that the file holds of an earlier attempt at the same are not done again.

    Args:
      do: the results of a chunk, given its number; they have a `to_json`, of which `read` makes them again.
      path: keeps what is found until it is removed by the caller.
      key: identifies the work.
      tell: told how many items have been done.
    """
    chunks = [items[i : i + size] for i in range(0, len(items), size)]
    with ChunkFile(path, key) as kept:
        done = min(gather(len(kept.chunks)))  # all processes do the same
        found = [[read(row) for row in chunk] for chunk in kept.chunks[:done]]
        tell(sum(map(len, chunks[:done])))
        for number, chunk in list(enumerate(chunks))[done:]:
            found.append(do(chunk, number))
            if number >= len(kept.chunks):
                kept.add(found[-1])
            tell(len(chunk))
    return [one for results in found for one in results]


class ChunkFile:
    """A key, and chunks of JSON rows, one to a line, each on disk when `add` returns."""

    def __init__(self, path: Path, key: str):
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = path.open("a+b")
        self._file.seek(0)
        first, *lines = self._file.read().split(b"\n")[:-1] or [b""]  # what follows the last line's end was cut off
        head = to_line({"continuations": key}).encode()
        if first + b"\n" != head:
            lines = []
        self.chunks: list[list[dict[str, Any]]] = [json.loads(line) for line in lines]
        self._file.truncate(len(head) + sum(len(line) + 1 for line in lines) if lines else 0)
        if not lines:
            self._write(head)

    def __enter__(self) -> ChunkFile:
        return self

    def __exit__(self, *error: object) -> None:
        self._file.close()

    def add(self, rows: Sequence[Any]) -> None:
        self._write(to_line([row.to_json() for row in rows]).encode())

    def _write(self, line: bytes) -> None:
        self._file.write(line)
        self._file.flush()
        os.fsync(self._file.fileno())
