"""Worker processes and the one thread that talks to them. No task is lost when a worker dies."""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import os
import selectors
import subprocess
import threading
from collections.abc import Callable
from typing import Any

from o1coder_jax.errors import UserError
from o1coder_jax.records import Verdict
from sandbox import cgroup, channel, isolation

_IN_FLIGHT = 2  # tasks that a worker has at a time: the one that it is at, and the next, so that it never waits
ATTEMPTS = 5  # workers that may die at a program, which need not be its fault, before it is given up
_READ_BYTES = 1 << 20
_START_SECONDS = 60.0
_END_SECONDS = 5.0
_MAX_STARTS_IN_VAIN = 20

Answer = tuple[Any, ...]
"""(verdict, compiled, passed, total, rows, values, tests run), as `session.Session.run` gives it."""


def _wanted() -> bool:
    return True


@dataclasses.dataclass(eq=False)
class Task:
    """A packed `session.Work`, and what to do with its answer. Both functions are called in the crew's thread.

    Attributes:
      finish: takes the answer; called once, or never if `begin` said no.
      begin: called before the task is given to a worker, again if that one dies; False when no one wants it any more.
    """

    data: bytes
    finish: Callable[[Answer | Exception], None]
    begin: Callable[[], bool] = _wanted
    attempts: int = 0


class _Member:
    """One worker process: its pipes, and the tasks it has been sent, in order."""

    def __init__(self, settings: dict[str, Any]):
        self._memory_group = settings["memory_group"]
        folders = ":".join(isolation.import_folders())
        self.process = subprocess.Popen(
            [settings["interpreter"], *isolation.INTERPRETER_FLAGS, "-c", isolation.WORKER_BOOT, folders],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={"LC_ALL": "C.UTF-8"},
            start_new_session=True,  # Ctrl-C is for the caller
            bufsize=0,
        )
        assert self.process.stdin is not None and self.process.stdout is not None
        self.stdin, self.stdout = self.process.stdin.fileno(), self.process.stdout.fileno()
        os.set_blocking(self.stdin, False)
        os.set_blocking(self.stdout, False)
        self.outgoing = bytearray(channel.frame(settings))
        self.incoming = bytearray()
        self.tasks: collections.deque[Task] = collections.deque()
        self.ready = False

    def write(self) -> None:
        """Sends what the pipe takes."""
        with contextlib.suppress(BlockingIOError, BrokenPipeError):  # a broken pipe shows up when reading
            sent = os.write(self.stdin, self.outgoing[:_READ_BYTES])
            del self.outgoing[:sent]

    def read(self) -> bool:
        """Takes in what has come; False at the end of the stream."""
        try:
            data = os.read(self.stdout, _READ_BYTES)
        except BlockingIOError:
            return True
        self.incoming += data
        return bool(data)

    def end(self, seconds: float) -> None:
        """Closes the pipes, upon which the worker leaves; kills it if it does not."""
        assert self.process.stdin is not None and self.process.stdout is not None
        self.process.stdin.close()
        try:
            self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.process.stdout.close()
        if self._memory_group is not None:
            cgroup.remove_group(**self._memory_group)


class Crew:
    """A fixed number of workers of one tier."""

    def __init__(self, layers: isolation.Layers, workers: int):
        """Starts the workers and waits for them; `UserError` says why none gets ready."""
        self._layers = layers
        self._lock = threading.Lock()
        self._queue: collections.deque[Task] = collections.deque()
        self._closing = False
        self._failure = ""
        self._starts_in_vain = 0
        self._started = threading.Event()
        self._selector = selectors.DefaultSelector()
        self._wake_read, self._wake_write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self._selector.register(self._wake_read, selectors.EVENT_READ)
        self._members: list[_Member] = []
        for index in range(workers):
            self._members.append(self._start_member(index))
        self._thread = threading.Thread(target=self._serve, name="sandbox-crew", daemon=True)
        self._thread.start()
        try:
            started = self._started.wait(_START_SECONDS)
        except BaseException:  # Ctrl-C
            self.close()
            raise
        if not started or not self._members:
            reason = self._failure or f"no worker was ready after {_START_SECONDS:.0f} s"
            self.close()
            raise UserError(f"sandbox isolation {layers.tier!r} does not work here: {reason}")

    def submit(self, task: Task) -> None:
        with self._lock:
            if self._closing:
                raise UserError("the sandbox pool is closed; open another one")
            if not self._members:
                reason = f"no sandbox worker can be started any more ({self._failure})"
                raise UserError(f"{reason}; python -m sandbox.selftest says what is missing")
            self._queue.append(task)
        self._wake()

    def discard(self, task: Task) -> None:
        """Takes a task back that no worker has been given yet."""
        with self._lock, contextlib.suppress(ValueError):
            self._queue.remove(task)

    @property
    def own_thread(self) -> bool:
        """Whether the caller is the crew's own thread, in which answers arrive: it must never wait for one."""
        return threading.current_thread() is self._thread

    def processes(self) -> list[int]:
        return [member.process.pid for member in self._members]

    def close(self) -> None:
        with self._lock:
            if self._closing:
                return
            self._closing = True
        self._wake()
        self._thread.join()
        for member in self._members:
            member.end(_END_SECONDS)
        for fd in (self._wake_read, self._wake_write):
            os.close(fd)
        self._selector.close()

    def _wake(self) -> None:
        with contextlib.suppress(BlockingIOError):  # the pipe is full of wake-ups already
            os.write(self._wake_write, b"!")

    # Below: the crew's thread.

    def _start_member(self, index: int) -> _Member:
        member = _Member(isolation.worker_settings(self._layers, index))
        self._selector.register(member.stdout, selectors.EVENT_READ, member)
        return member

    def _serve(self) -> None:
        writing: set[int] = set()
        while not self._closing:
            if not self._members:
                self._abandon(self._failure)
            self._hand_out()
            for member in self._members:
                if member.outgoing and member.stdin not in writing:
                    member.write()
                if bool(member.outgoing) != (member.stdin in writing):
                    self._watch_writing(member, writing)
            for key, _ in self._selector.select():
                if key.fd == self._wake_read:
                    with contextlib.suppress(BlockingIOError):
                        os.read(self._wake_read, _READ_BYTES)
                elif key.data in self._members:
                    self._attend(key.data, key.fd, writing)
        self._abandon("the pool was closed")

    def _watch_writing(self, member: _Member, writing: set[int]) -> None:
        if member.outgoing:
            self._selector.register(member.stdin, selectors.EVENT_WRITE, member)
            writing.add(member.stdin)
        else:
            self._selector.unregister(member.stdin)
            writing.discard(member.stdin)

    def _attend(self, member: _Member, fd: int, writing: set[int]) -> None:
        if fd == member.stdin:
            member.write()
            return
        alive = member.read()
        while (data := channel.take_frame(member.incoming)) is not None:
            self._answered(member, channel.unpack(data))
        if not alive:
            self._replace(member, writing)

    def _answered(self, member: _Member, message: tuple[Any, ...]) -> None:
        if message[0] == "ready":
            member.ready = True
            self._starts_in_vain = 0
            self._note_start()
        elif message[0] == "failed":
            self._failure = message[1]
        else:
            task = member.tasks.popleft()
            if message[0] == "refused":
                task.finish(UserError(f"a submission cannot be judged: {message[1]}"))
            else:
                task.finish(message)

    def _note_start(self) -> None:
        if all(member.ready for member in self._members):
            self._started.set()

    def _hand_out(self) -> None:
        """Gives waiting tasks to the workers with the fewest."""
        while True:
            free = [member for member in self._members if member.ready and len(member.tasks) < _IN_FLIGHT]
            if not free:
                return
            with self._lock:
                if not self._queue:
                    return
                task = self._queue.popleft()
            if not task.begin():
                continue
            member = min(free, key=lambda member: len(member.tasks))
            member.tasks.append(task)
            member.outgoing += channel.framed(task.data)

    def _replace(self, member: _Member, writing: set[int]) -> None:
        """A worker is gone: its tasks go back, the one that it was at counts an attempt, another worker starts."""
        self._selector.unregister(member.stdout)
        if member.stdin in writing:
            self._selector.unregister(member.stdin)
            writing.discard(member.stdin)
        member.end(0.0)
        if not member.ready:
            self._starts_in_vain += 1
            self._failure = self._failure or f"a worker ended with status {member.process.returncode}"
        self._take_back(member)
        index = self._members.index(member)
        if self._starts_in_vain >= _MAX_STARTS_IN_VAIN or (self._failure and not self._started.is_set()):
            self._members.remove(member)
            self._note_start()
            return
        self._members[index] = self._start_member(index)

    def _take_back(self, member: _Member) -> None:
        tasks = list(member.tasks)
        if tasks:
            tasks[0].attempts += 1
            if tasks[0].attempts >= ATTEMPTS:
                tasks.pop(0).finish(infra_answer(f"{ATTEMPTS} sandbox workers died over this program"))
        with self._lock:
            self._queue.extendleft(reversed(tasks))

    def _abandon(self, reason: str) -> None:
        tasks = [task for member in self._members for task in member.tasks]
        with self._lock:
            tasks += self._queue
            self._queue.clear()
        for member in self._members:
            member.tasks.clear()
        for task in tasks:
            task.finish(infra_answer(reason))


def infra_answer(reason: str) -> Answer:
    """The answer to a task that could not be done."""
    return (str(Verdict.INFRA_ERROR), False, 0, 0, [(str(Verdict.INFRA_ERROR), 0.0, 0.0, 0, reason)], [], 0)
