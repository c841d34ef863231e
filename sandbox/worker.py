"""A worker: takes submissions from the pool, has them run by its zygote, and compares what they gave.

The worker holds the expected outputs and never runs foreign code. It reads frames (`sandbox.channel`) on descriptor 0
and answers on descriptor 1. A failure of our own machinery is met by a new zygote and another try; after some of these
the submission's verdict is `infra_error`.
"""

from __future__ import annotations

import operator
import os
import re
import resource
import select
import sys
from typing import Any

from sandbox import cgroup, channel, compare, isolation
from sandbox.afterwards import Afterwards
from sandbox.caller import REPORT_ROOM
from sandbox.host import InfraFailure, Kind, Zygote
from sandbox.runner import MAX_RESULTS
from sandbox.session import Session, Work

# The longest integer that is read from a program's result; conversion takes quadratic time.
_MAX_INTEGER_DIGITS = 50_000
_ATTEMPTS = 5  # zygotes, or processes below them, that may die at a program
_STARTS = 20  # of a zygote; one that is killed while it starts says nothing of the program
_ZYGOTES_BYTES = 512 << 20
_NUMPY = re.compile(r"\bnumpy\b")
_PARENT_CHECK_MS = 1000
_READ_BYTES = 1 << 20


class Worker:
    """Serves one pool until it closes the pipe."""

    def __init__(self, settings: dict[str, Any]):
        self._settings = settings
        self._zygotes: dict[Kind, Zygote] = {}
        self._group: cgroup.Group | None = None

    def start(self) -> None:
        if self._settings["landlock"]:
            isolation.restrict_files(self._settings)
        if self._settings["memory_group"] is not None:
            self._group = cgroup.Group(**self._settings["memory_group"])
        self._zygote(Kind())

    def close(self) -> None:
        """Ends the zygotes and removes the memory group."""
        for kind in list(self._zygotes):
            self._drop_zygote(kind)
        if self._group is not None:
            self._group.remove()

    def handle(self, message: tuple[Any, ...]) -> bytes:
        """The answer to one submission, packed."""
        try:
            work = Work(*message)
            expected = None if work.expected is None else [compare.normal(value) for value in work.expected]
        except (TypeError, ValueError) as error:
            return channel.pack(("refused", f"not JSON values: {error}"))
        kind = self._kind(work)
        failure = ""
        if self._group is not None:
            self._group.limit(memory_bytes(work))
        for _ in range(_ATTEMPTS):
            try:
                return channel.pack(self._judge(self._zygote(kind), work, expected))
            except InfraFailure as error:
                failure = str(error)
                self._drop_zygote(kind)
            except (TypeError, ValueError, RecursionError) as error:
                return channel.pack(("refused", f"not JSON values: {error}"))
        row = ("infra_error", 0.0, 0.0, 0, failure)
        return channel.pack(("infra_error", False, 0, len(work.inputs) or len(work.asserts or ()), [row], [], 0))

    def _judge(self, zygote: Zygote, work: Work, expected: list[Any] | None) -> tuple[Any, ...]:
        matches = compare.matcher(work.compare, call_form=work.fn_name is not None)
        if expected is None or (matches is not None and not work.keep_values):
            return Session(zygote, work, expected, matches or operator.eq).run()
        return Afterwards(zygote, work, expected, matches).run()

    def _kind(self, work: Work) -> Kind:
        return Kind(bool(self._settings["numpy"]) and names_numpy(work), work.asserts is not None)

    def _zygote(self, kind: Kind) -> Zygote:
        """The zygote of a kind, started when a program asks for it; `InfraFailure` when none can be any more."""
        for start in range(_STARTS):
            if kind in self._zygotes:
                break
            try:
                self._zygotes[kind] = Zygote(self._settings, kind, self._group)
            except InfraFailure:
                if start == _STARTS - 1:
                    raise
        return self._zygotes[kind]

    def _drop_zygote(self, kind: Kind) -> None:
        if kind in self._zygotes:
            self._zygotes.pop(kind).close()


def memory_bytes(work: Work) -> int:
    """What a submission may use at once: runner and program, their files, and two zygotes."""
    longest = max((len(value) for value in work.inputs if isinstance(value, str)), default=0)
    files = (MAX_RESULTS + REPORT_ROOM) * work.output_bytes + 4 * longest  # a character takes up to 4 bytes
    return _ZYGOTES_BYTES + 2 * work.memory_bytes + files


def names_numpy(work: Work) -> bool:
    """Whether the text of a program, its tests or its checker has the word numpy, without which it is not imported."""
    texts = (work.code, work.setup, *(work.asserts or ()), work.compare.get("checker", ""))
    return any(_NUMPY.search(text) for text in texts)


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
    try:
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
    except BrokenPipeError:  # the pool is gone
        pass
    finally:
        if worker is not None:
            worker.close()
