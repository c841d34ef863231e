"""The files of a run folder: JSON that is whole or absent, records that only grow, TensorBoard events, the lock.

A run folder lies in a POSIX file system (a local disk, NFS, Lustre): it is appended to, truncated and locked.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import math
import os
import socket
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from tensorboardX.proto.event_pb2 import Event
from tensorboardX.proto.summary_pb2 import Summary
from tensorboardX.record_writer import RecordWriter

from o1coder_jax.errors import UserError

LOCK = ".lock"
PART = ".part"  # of a name: a file that is being written
_USERS_TO_MEND = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM, errno.ENOTDIR, errno.EEXIST)


@contextlib.contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turns a full or unwritable disk into a `UserError` about `path`."""
    try:
        yield
    except OSError as error:
        if error.errno not in _USERS_TO_MEND:
            raise
        raise UserError(
            f"cannot write {path}: {error.strerror}; free space or mend the folder, then give the same command "
            "again: what was finished is kept"
        ) from error


def clean(value: Any) -> Any:
    """`value` as valid JSON: numbers of NumPy and JAX as Python's, those that are not finite as None."""
    if hasattr(value, "to_json"):
        value = value.to_json()
    if isinstance(value, Mapping):
        return {str(key): clean(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [clean(item) for item in value]
    if isinstance(value, str | bool | int) or value is None:
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if hasattr(value, "tolist"):
        return clean(value.tolist())
    raise TypeError(f"{type(value).__name__} is no JSON value: {value!r}")


def to_text(value: Any, indent: int | None = None) -> str:
    """Valid JSON, as `clean` makes it; a value without a number that is not finite is not copied for it."""
    try:
        return json.dumps(value, ensure_ascii=False, allow_nan=False, indent=indent, default=_plain)
    except ValueError:  # not finite, somewhere
        return json.dumps(clean(value), ensure_ascii=False, allow_nan=False, indent=indent)


def _plain(value: Any) -> Any:
    """`clean` for what the JSON encoder does not know, one level deep."""
    if hasattr(value, "to_json"):
        return value.to_json()
    return dict(value) if isinstance(value, Mapping) else clean(value)


def to_line(value: Any) -> bytes:
    """One line of valid JSON, newline included."""
    return (to_text(value) + "\n").encode()


def write_json(path: Path, value: Any) -> None:
    """Writes one JSON value; the file is the old or the new one at any moment, through a crash too."""
    write_text(path, to_text(value, indent=2) + "\n")


def write_long_json(path: Path, values: Mapping[str, Any]) -> None:
    """Writes an object as `write_json` does, but each of its keys with its value, however long, on one line."""
    lines = [f"{to_text(name)}: {to_text(value)}" for name, value in values.items()]
    write_text(path, "{\n" + ",\n".join(lines) + "\n}\n")


def write_text(path: Path, text: str) -> None:
    """Writes a text file as `write_json` does."""
    temporary = path.with_name(path.name + PART)
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with temporary.open("w", encoding="utf-8") as out:
                out.write(text)
                out.flush()
                os.fsync(out.fileno())
        except OSError:
            temporary.unlink(missing_ok=True)
            raise
        temporary.replace(path)
        _sync_folder(path.parent)


def read_json(path: Path) -> Any:
    """Reads what `write_json` wrote; damage is a `UserError`."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}; mend the run folder or give another") from error
    except ValueError as error:
        raise UserError(f"{path}: not JSON ({error}); remove it to redo what it tells of") from error


def _sync_folder(folder: Path) -> None:
    """Makes a rename in `folder` last through a crash of the machine."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


class AppendedFile:
    """A file that only grows. Each `append` is on the disk's side when it returns, so nothing is lost by a kill."""

    def __init__(self, path: Path):
        self.path = path
        with writing(path):
            self._descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)

    def append(self, data: bytes) -> None:
        view = memoryview(data)
        with writing(self.path):
            while view:
                view = view[os.write(self._descriptor, view) :]

    def sync(self) -> int:
        """Makes the file last through a crash of the machine; returns its size in bytes."""
        with writing(self.path):
            os.fsync(self._descriptor)
        return os.fstat(self._descriptor).st_size

    def close(self) -> None:
        os.close(self._descriptor)


def truncate(path: Path, size_bytes: int, *, owner: str) -> None:
    """Takes back what was appended after `size_bytes`, which is where `owner` left the file."""
    present = path.stat().st_size if path.exists() else 0
    if present < size_bytes:
        raise UserError(
            f"{path} has {present} bytes where {owner} left {size_bytes}; restore the file, or start the run afresh"
        )
    if present > size_bytes:
        with writing(path):
            os.truncate(path, size_bytes)


def read_lines(path: Path, size_bytes: int) -> Iterator[Any]:
    """Yields the JSON value of each line in the first `size_bytes` of a file."""
    if size_bytes == 0:
        return
    if not path.exists():
        raise UserError(f"{path} is gone, of which finished stages left {size_bytes} bytes; restore the file")
    with path.open("rb") as lines:
        for number, line in enumerate(lines, 1):
            try:
                yield json.loads(line)
            except ValueError as error:
                raise UserError(f"{path}, line {number}: not JSON ({error}); restore the file") from error
            if lines.tell() >= size_bytes:
                return


class Events:
    """A TensorBoard event file with scalars, written as they come: a full disk is felt by the one who logs.

    `tensorboardX.SummaryWriter` writes from a thread of its own, where such an error would be lost.
    """

    _FLUSH_SECONDS = 5.0

    def __init__(self, folder: Path):
        self._folder = folder
        self._writer: RecordWriter | None = None
        self._flushed = 0.0

    def add(self, step: int, scalars: Mapping[str, float]) -> None:
        with writing(self._folder):
            if self._writer is None:
                self._folder.mkdir(parents=True, exist_ok=True)
                name = f"events.out.tfevents.{int(time.time())}.{socket.gethostname()}"
                self._writer = RecordWriter(str(self._folder / name))
                self._write(Event(wall_time=time.time(), file_version="brain.Event:2"))
            for tag, value in scalars.items():
                summary = Summary(value=[Summary.Value(tag=tag, simple_value=value)])
                self._write(Event(wall_time=time.time(), step=step, summary=summary))
            if time.monotonic() - self._flushed > self._FLUSH_SECONDS:
                self._writer.flush()
                self._flushed = time.monotonic()

    def _write(self, event: Any) -> None:
        assert self._writer is not None
        self._writer.write(event.SerializeToString())

    def close(self) -> None:
        if self._writer is not None:
            writer, self._writer = self._writer, None
            with writing(self._folder):
                writer.close()


class Lock:
    """Keeps a folder to one process, until `close` or the end of the process, however it ends."""

    def __init__(self, folder: Path):
        with writing(folder):
            self._descriptor = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            holder = os.read(self._descriptor, 200).decode(errors="replace").strip()
            os.close(self._descriptor)
            raise UserError(f"{folder} is in use by {holder}; wait for it, or choose another run folder") from error
        with writing(folder):
            os.truncate(self._descriptor, 0)
            os.write(self._descriptor, f"process {os.getpid()} on {socket.gethostname()}\n".encode())

    def close(self) -> None:
        os.close(self._descriptor)
