"""Work that waits for a worker or is with one: a bounded number of places, and the futures that wait for each piece."""

from __future__ import annotations

import concurrent.futures
import dataclasses
import threading
from collections.abc import Hashable
from typing import Any

from o1coder_jax.errors import UserError
from sandbox.crew import Task

CLOSED = "the sandbox pool is closed; open another one"


class Gate:
    """Lets in as many as there are places; further ones wait until one leaves or the gate is closed."""

    def __init__(self, places: int):
        self._places, self._taken, self._closed = places, 0, False
        self._changed = threading.Condition()

    def enter(self, *, wait: bool) -> None:
        """Takes a place, one too many rather than wait if told so; `UserError` once the gate is closed."""
        with self._changed:
            while wait and self._taken >= self._places and not self._closed:
                self._changed.wait()
            if self._closed:
                raise UserError(CLOSED)
            self._taken += 1

    def leave(self) -> None:
        with self._changed:
            self._taken -= 1
            self._changed.notify()

    def close(self) -> None:
        with self._changed:
            self._closed = True
            self._changed.notify_all()


@dataclasses.dataclass(eq=False)
class Run:
    """The futures that wait for one piece of work. Not safe for threads: its owner holds a lock.

    A future can be cancelled until a worker has been given the work; the work is dropped when all of them are. Work of
    the same key is the same.
    """

    key: Hashable
    futures: list[concurrent.futures.Future[Any]]
    task: Task | None = None
    started: bool = False
    dropped: bool = False

    @property
    def waits(self) -> bool:
        """No worker has been given the work yet, and someone wants it."""
        return not self.started and not self.dropped

    def join(self, future: concurrent.futures.Future[Any]) -> None:
        """Has another future wait for the same work."""
        if self.started:
            future.set_running_or_notify_cancel()
        self.futures.append(future)

    def start(self) -> bool:
        """No future can be cancelled from now on; False when none is left."""
        if self.waits:
            self.futures = [future for future in self.futures if future.set_running_or_notify_cancel()]
            self.started = bool(self.futures)
            self.dropped = not self.started
        return self.started

    def leave(self, future: concurrent.futures.Future[Any]) -> bool:
        """Takes a cancelled future out; True when that was the last one, and the work is dropped with it."""
        if not self.waits:
            return False
        self.futures.remove(future)
        self.dropped = not self.futures
        return self.dropped
