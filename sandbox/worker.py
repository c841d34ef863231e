"""A worker: takes submissions from the pool, has them run by its zygote, and compares what they gave.

The worker holds the expected outputs and never runs foreign code. It reads frames (`sandbox.channel`) on descriptor 0
and answers on descriptor 1. A failure of our own machinery is met by a new zygote and one more try; after that the
submission's verdict is `infra_error`.
"""

from __future__ import annotations

import contextlib
import os
import resource
import select
import sys
from typing import Any

from sandbox import channel, compare, isolation
from sandbox.host import InfraFailure, Zygote
from sandbox.session import Session, Work

# The longest integer that is read from a program's result; conversion takes quadratic time.
_MAX_INTEGER_DIGITS = 50_000
_ATTEMPTS = 2
_PARENT_CHECK_MS = 1000
_READ_BYTES = 1 << 20


class Worker:
    """Serves one pool until it closes the pipe."""

    def __init__(self, settings: dict[str, Any]):
        self._settings = settings
        self._zygote: Zygote | None = None

    def start(self) -> None:
        if self._settings["landlock"]:
            isolation.restrict_files(self._settings)
        self._zygote = Zygote(self._settings)

    def handle(self, message: tuple[Any, ...]) -> bytes:
        """The answer to one submission, packed."""
        try:
            work = Work(*message)
            expected = None if work.expected is None else [compare.normal(value) for value in work.expected]
        except (TypeError, ValueError) as error:
            return channel.pack(("refused", f"not JSON values: {error}"))
        matches = compare.matcher(work.compare, call_form=work.fn_name is not None)
        failure = ""
        for _ in range(_ATTEMPTS):
            try:
                if self._zygote is None:
                    self._zygote = Zygote(self._settings)
                return channel.pack(Session(self._zygote, work, expected, matches).run())
            except InfraFailure as error:
                failure = str(error)
                self._drop_zygote()
            except (TypeError, ValueError) as error:
                return channel.pack(("refused", f"not JSON values: {error}"))
        row = ("infra_error", 0.0, 0.0, 0, failure)
        return channel.pack(("infra_error", False, 0, len(work.inputs) or len(work.asserts or ()), [row], [], 0))

    def _drop_zygote(self) -> None:
        if self._zygote is not None:
            self._zygote.close()
            self._zygote = None


def _write(data: bytes) -> None:
    view = memoryview(channel.framed(data))
    while view:
        view = view[os.write(1, view) :]


def _read(buffer: bytearray, parent: int) -> bool:
    """Waits for more input; False when the pool is gone, even if another process still holds its pipe."""
    poll = select.poll()
    poll.register(0, select.POLLIN)
    while not poll.poll(_PARENT_CHECK_MS):
        if os.getppid() != parent:
            return False
    data = os.read(0, _READ_BYTES)
    buffer += data
    return bool(data)


def main() -> None:
    """Runs with the folders to import from as its argument; the first frame holds the settings."""
    sys.set_int_max_str_digits(_MAX_INTEGER_DIGITS)
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    files = 512 if hard == resource.RLIM_INFINITY else min(512, hard)
    resource.setrlimit(resource.RLIMIT_NOFILE, (files, files))
    parent, buffer = os.getppid(), bytearray()
    worker: Worker | None = None
    with contextlib.suppress(BrokenPipeError):  # the pool is gone
        while True:
            while (data := channel.take_frame(buffer)) is not None:
                message = channel.unpack(data)
                if worker is not None:
                    _write(worker.handle(message))
                    continue
                worker = Worker(message)
                try:
                    worker.start()
                except (InfraFailure, OSError) as error:
                    _write(channel.pack(("failed", str(error))))
                    return
                _write(channel.pack(("ready", "")))
            if not _read(buffer, parent):
                return
