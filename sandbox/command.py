"""What the commands that work through a file of submissions share: flags, files, signals and exit statuses."""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from o1coder_jax.errors import USER_ERROR_EXIT_STATUS, UserError
from sandbox.limits import Limits
from sandbox.pool import SandboxConfig
from sandbox.rows import to_bytes
from sandbox.stream import Stream

# Integers of this many digits are read; conversion takes quadratic time.
MAX_INTEGER_DIGITS = 50_000


def parser(module: str, description: str, output: str) -> argparse.ArgumentParser:
    """A command line with the flags of the sandbox; `output` says what -o is for."""
    default = SandboxConfig()
    made = argparse.ArgumentParser(
        prog=f"python -m {module}", description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    made.add_argument("submissions", help="a JSONL file, or - for standard input")
    made.add_argument("-o", "--output", default=None, help=output)
    made.add_argument("--workers", type=int, default=default.workers)
    made.add_argument("--isolation", default=default.isolation, choices=("auto", "full", "reduced", "trusted"))
    for field in dataclasses.fields(Limits):
        flag = "--" + field.name.replace("_", "-")
        kind = int if isinstance(field.default, int) else float
        made.add_argument(flag, type=kind, default=field.default, help=f"limit of one test ({field.default})")
    return made


def config_of(arguments: argparse.Namespace, **more: Any) -> SandboxConfig:
    """The configuration that the flags ask for."""
    limits = {field.name: getattr(arguments, field.name) for field in dataclasses.fields(Limits)}
    return SandboxConfig(workers=arguments.workers, isolation=arguments.isolation, **limits, **more)


@contextlib.contextmanager
def opened(path: str) -> Iterator[int]:
    """A descriptor to read from; - is standard input."""
    if path == "-":
        if sys.stdin is None:  # descriptor 0 may be another file's by now
            raise UserError("standard input is closed; give the path of a JSONL file")
        yield 0
        return
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}; give the path of a JSONL file") from error
    try:
        if os.path.isdir(path):
            raise UserError(f"cannot read {path}: it is a folder; give the path of a JSONL file")
        yield fd
    finally:
        os.close(fd)


class Output:
    """JSON lines, each written as it comes. A regular file appears whole, when all is done, or not at all."""

    def __init__(self, path: str, source: str):
        """`UserError` when `path` cannot be written to or is `source`, the file that is read."""
        self._path, self._part = Path(path), None if path == "-" else Path(path + ".part")
        self.lines = 0
        if path == "-":
            if sys.stdout is None:
                raise UserError("standard output is closed; give the path of a file with -o")
            self._fd = 1
            return
        if source != "-" and self._path.exists() and os.path.samefile(path, source):
            raise UserError(f"{path} is the file that is read; give another one to write to")
        if self._path.is_dir():
            raise UserError(f"cannot write {path}: it is a folder; give the path of a file")
        if self._path.exists() and not self._path.is_file():  # a pipe or a device stays what it is
            self._part = None
        try:
            self._fd = os.open(self._part or path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o666)
        except OSError as error:
            raise UserError(f"cannot write {path}: {error.strerror}; give a path in a folder of yours") from error

    def __enter__(self) -> Output:
        return self

    def __exit__(self, kind: type[BaseException] | None, *error: object) -> None:
        if self._fd == 1:
            return
        if self._part is not None and kind is None:
            os.fsync(self._fd)
            self._part.replace(self._path)
        elif self._part is not None:
            self._part.unlink(missing_ok=True)
        os.close(self._fd)

    def write(self, row: Any) -> None:
        view = memoryview(to_bytes(row))
        while view:
            view = view[os.write(self._fd, view) :]
        self.lines += 1


def end_of_reader() -> int:
    """The status when whoever reads standard output is gone; what is still to be flushed goes nowhere."""
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 1)
    os.close(null)
    return 128 + signal.SIGPIPE


def exit_status(stream: Stream[Any], written: str) -> int:
    """0, 2 when a line was no submission, 128 + the signal that ended the work; `written` is for a line about that."""
    if stream.stopped:
        print(f"stopped by {signal.Signals(stream.stopped).name}: {written}", file=sys.stderr)
        return 128 + stream.stopped
    return USER_ERROR_EXIT_STATUS if stream.invalid else 0
