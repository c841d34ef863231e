"""A file of submissions, worked through in order with a bounded number under way, until its end or a signal."""

from __future__ import annotations

import collections
import concurrent.futures
import contextlib
import dataclasses
import os
import queue
import signal
import sys
import threading
import types
from collections.abc import Callable, Generator, Iterator
from typing import Generic, TypeVar

from o1coder_jax.errors import UserError
from sandbox.limits import Limits
from sandbox.rows import parse_line, parse_submission
from sandbox.submission import Submission

_UNDER_WAY = 256
_MAX_LINE_BYTES = 64 << 20
_READ_BYTES = 1 << 20

Result = TypeVar("Result")


@dataclasses.dataclass(frozen=True)
class _UnderWay(Generic[Result]):
    number: int
    submission: Submission
    future: concurrent.futures.Future[Result]


def raw_lines(fd: int, max_bytes: int = _MAX_LINE_BYTES) -> Iterator[bytes | None]:
    """The lines of a file as they come, None for one that is too long.

    Reads the descriptor itself: a thread that waits in a buffered reader keeps the process from ending.
    """
    pieces: list[bytes] = []
    size = 0
    while data := os.read(fd, _READ_BYTES):
        *ends, rest = data.split(b"\n")
        for end in ends:
            yield b"".join([*pieces, end]) if size + len(end) <= max_bytes else None
            pieces, size = [], 0
        size += len(rest)
        if size <= max_bytes:
            pieces.append(rest)
        else:
            pieces = []
    if size:
        yield b"".join(pieces) if size <= max_bytes else None


class Stream(Generic[Result]):
    """Submissions read in the background, and what became of them, in their order.

    A line that is no submission is reported on stderr with its number, and the rest goes on.

    Attributes:
      invalid: lines that were no submissions.
      stopped: the signal that ended the work, 0 when none did.
    """

    def __init__(
        self,
        name: str,
        fd: int,
        limits: Limits,
        submit: Callable[[Submission], concurrent.futures.Future[Result]],
    ):
        """`submit` raises a `UserError` for a submission that is invalid; `name` stands for the file in messages."""
        self.invalid = 0
        self.stopped = 0
        self._name, self._fd, self._limits, self._submit = name, fd, limits, submit
        self._places = threading.Semaphore(_UNDER_WAY)
        # What the main thread waits for: a signal, a reader's error, or nothing but a look at what is under way.
        # Unlike a lock, a SimpleQueue can be used by a signal handler while the same thread waits for it.
        self._events: queue.SimpleQueue[Exception | None] = queue.SimpleQueue()
        self._under_way: collections.deque[_UnderWay[Result]] = collections.deque()
        self._at_end = False
        self._left = False

    def results(self) -> Generator[tuple[Submission, Result], None, None]:
        """What was submitted and what came of it. After a signal, only what is done by then."""
        threading.Thread(target=self._read, name="submissions", daemon=True).start()
        try:
            while not self.stopped and not (self._at_end and not self._under_way):
                error = self._events.get()
                if error is not None:
                    raise error
                while not self.stopped and self._under_way and self._under_way[0].future.done():
                    yield from self._next()
            while self._under_way:
                self._under_way[0].future.cancel()
                yield from self._next()
        finally:
            self._left = True

    def _next(self) -> Iterator[tuple[Submission, Result]]:
        """The oldest one under way, unless it has no result."""
        first = self._under_way.popleft()
        self._places.release()
        if not first.future.done() or first.future.cancelled():
            return
        error = first.future.exception()
        if isinstance(error, UserError):
            self._report(first.number, error)
        else:
            yield first.submission, first.future.result()

    def _report(self, number: int, error: UserError) -> None:
        self.invalid += 1
        print(f"error: {self._name}, line {number}: {error}", file=sys.stderr)

    def stop(self, number: int) -> None:
        """Ends the work; a signal handler may call it."""
        self.stopped = number
        self._events.put(None)

    # Below: the reading thread.

    def _read(self) -> None:
        try:
            for number, line in enumerate(raw_lines(self._fd), 1):
                if self.stopped or self._left:
                    return
                if line is None or line.strip():
                    self._take(number, line)
        except Exception as error:  # noqa: BLE001 - the main thread, which waits for us, raises it
            self._events.put(error)
            return  # not at its end: the error might be overlooked then
        self._at_end = True
        self._events.put(None)

    def _take(self, number: int, line: bytes | None) -> None:
        self._places.acquire()
        try:
            if line is None:
                raise UserError(f"longer than {_MAX_LINE_BYTES >> 20} MiB; split or remove it")
            submission = parse_submission(parse_line(line), self._limits)
            future = self._submit(submission)
        except UserError as error:
            self._places.release()
            if not self.stopped and not self._left:
                self._report(number, error)
            return
        self._under_way.append(_UnderWay(number, submission, future))
        future.add_done_callback(lambda future: self._events.put(None))


@contextlib.contextmanager
def stopped_by_signals(stop: Callable[[int], None]) -> Iterator[None]:
    """Has the first Ctrl-C or SIGTERM call `stop`; a second one ends the process at once."""
    numbers = (signal.SIGINT, signal.SIGTERM)

    def handle(number: int, frame: types.FrameType | None) -> None:
        for each in numbers:
            signal.signal(each, signal.SIG_DFL)
        stop(number)

    before = {number: signal.signal(number, handle) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
