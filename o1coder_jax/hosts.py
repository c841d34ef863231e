"""Several processes that run one program: joining them, waiting for each other, sharing values, and leaving together.

    with joined(DistributedConfig("10.0.0.1:7000", processes=2, process=0)):
        ...

Every process gives the same command, but for its own number. What ends one of them (an error, Ctrl-C, a pre-emption's
SIGTERM, a kill) ends all: it is told through the store of JAX's coordination service, where each process also shows
that it is alive, and each says in one line why it leaves. Process 0 holds that service: when it is killed outright, JAX
itself ends the others, with lines of its own.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import pickle
import signal
import sys
import threading
import time
import traceback
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NoReturn, TypeVar

import jax
import numpy as np
from jax._src.distributed import global_state as _state  # its store has no public name; Orbax takes it from here, too
from jax.experimental import multihost_utils

from o1coder_jax.errors import UserError, told

T = TypeVar("T")
AUTO = "auto"
LOST_EXIT_STATUS = 3
SILENCE_SECONDS = 15.0  # without a sign of life a process is taken for dead
_SUSPECT_SILENCE_SECONDS = 4.0  # the same once something has failed here, as when a connection broke
_BEAT_SECONDS = 0.5
_POLL_SECONDS = 0.02
_LEAVING_SECONDS = 5.0  # that process 0 waits for the others to hear why it leaves
_ROOM = "o1coder"
_barriers = itertools.count()


@dataclass(frozen=True)
class DistributedConfig:
    """Which processes run together.

    Attributes:
      coordinator: HOST:PORT of process 0, a free port there; `auto` where JAX finds all by itself (TPU pods, Slurm,
        Open MPI, Kubernetes); empty for one process alone.
      processes: how many there are, and `process`, which of them this is, from 0; unused with `auto`.
      wait_seconds: for the others to come.
    """

    coordinator: str = ""
    processes: int = 1
    process: int = 0
    wait_seconds: int = 300

    def __post_init__(self) -> None:
        if self.coordinator in ("", AUTO):
            return
        host, _, port = self.coordinator.rpartition(":")
        if not host or not port.isdigit():
            raise UserError(f"distributed.coordinator is {self.coordinator!r}; give HOST:PORT, or auto")
        if self.processes < 1 or not 0 <= self.process < self.processes:
            raise UserError(
                f"distributed.process is {self.process} of {self.processes} processes; "
                "processes must be at least 1, and process from 0 to one less"
            )
        if self.wait_seconds < 1:
            raise UserError(f"distributed.wait_seconds is {self.wait_seconds}; it must be at least 1")


@contextlib.contextmanager
def joined(config: DistributedConfig) -> Iterator[None]:
    """Joins the processes for as long as the context lasts; must be entered before JAX meets its devices.

    Only process 0 prints to stdout. An error within the context ends this process here, and all others.

    Raises:
      UserError: the others did not come.
    """
    if not config.coordinator:
        yield
        return
    _initialize(config)
    watch = _Watch()
    watch.start()
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)  # a pre-emption ends a run as Ctrl-C does
    try:
        with _silence() if _state.process_id else contextlib.nullcontext():
            yield
        barrier("end")
    except BaseException as error:
        watch.leave(error)
        raise
    watch.stop()
    signal.signal(signal.SIGTERM, before)
    jax.distributed.shutdown()


@contextlib.contextmanager
def _silence() -> Iterator[None]:
    with open(os.devnull, "w", encoding="utf-8") as nowhere, contextlib.redirect_stdout(nowhere):
        yield


def _initialize(config: DistributedConfig) -> None:
    jax.config.update("jax_enable_preemption_service", False)  # it would take SIGTERM for itself
    try:
        if config.coordinator == AUTO:
            jax.distributed.initialize(initialization_timeout=config.wait_seconds)
        else:
            jax.distributed.initialize(
                config.coordinator, config.processes, config.process, initialization_timeout=config.wait_seconds
            )
    except (RuntimeError, ValueError) as error:
        if jax.distributed.is_initialized():
            raise
        where = "auto found no cluster" if config.coordinator == AUTO else f"{config.coordinator} brings none together"
        raise UserError(
            f"distributed.coordinator: {where} ({str(error).splitlines()[0]}); "
            "start all processes, with the same HOST:PORT of process 0 and different `distributed.process`"
        ) from error


# Waiting and sharing.


def barrier(name: str) -> None:
    """Waits until every process has come here; an interrupt ends the waiting, which may be long."""
    count, client = _state.num_processes, _state.client
    if count == 1 or client is None:
        return
    room = f"{_ROOM}/barrier/{next(_barriers)}"
    client.key_value_set(f"{room}/{_state.process_id}", name)
    while len(here := client.key_value_dir_get(f"{room}/")) < count:
        time.sleep(_POLL_SECONDS)
    if len({given for _, given in here}) > 1:
        raise RuntimeError(f"the processes have come to different places: {sorted(here)}")


def gather(value: T) -> list[T]:
    """The values of all processes, in their order. They are pickled: the processes trust each other, as JAX's do."""
    if _state.num_processes == 1:
        return [value]
    barrier("gather")  # what one waits for may take longer than a collective may last
    data = np.frombuffer(pickle.dumps(value), np.uint8)
    sizes = multihost_utils.process_allgather(np.array([data.size], np.int32)).reshape(-1)
    padded = np.zeros(1 << int(sizes.max() - 1).bit_length(), np.uint8)  # few shapes, so that few are compiled
    padded[: data.size] = data
    rows = multihost_utils.process_allgather(padded).reshape(len(sizes), -1)
    return [pickle.loads(row[:size].tobytes()) for row, size in zip(rows, sizes, strict=True)]


# Leaving.


class _Watch:
    """A thread that shows that this process is alive, and ends it when another one has left or is silent."""

    def __init__(self) -> None:
        self._me, self._count = _state.process_id, _state.num_processes
        self._client: Any = _state.client
        self._stopped = threading.Event()
        self._suspects = False
        self._leaving = threading.Lock()  # whoever has it says why this process leaves, and nobody else
        self._thread = threading.Thread(target=self._run, name="watch", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stopped.set()
        self._thread.join()

    def leave(self, error: BaseException) -> None:
        """Ends this process for an error of its own, and has the others told; does not return."""
        known = told(error)
        if known is None:
            # Most likely the end of another process, felt here as a broken connection: then the watch ends this one.
            self._suspects = True
            time.sleep(_SUSPECT_SILENCE_SECONDS + 4 * _BEAT_SECONDS)
        self._leaving.acquire()
        line, status = known or (f"{type(error).__name__}: {error}".splitlines()[0], 1)
        try:
            _say(line if known else "".join(traceback.format_exception(error)).rstrip())
            self._tell(line, status)
            deadline = time.monotonic() + _LEAVING_SECONDS
            while self._me == 0 and len(self._left()) < self._count and time.monotonic() < deadline:
                time.sleep(_POLL_SECONDS)
        finally:
            _end(status)

    def _run(self) -> None:
        seen: dict[str, tuple[str, float]] = {}
        for beat in itertools.count():
            if self._stopped.wait(_BEAT_SECONDS):
                return
            try:
                self._client.key_value_set(f"{_ROOM}/alive/{self._me}", str(beat), allow_overwrite=True)
                alive, left = self._client.key_value_dir_get(f"{_ROOM}/alive/"), self._left()
            except jax.errors.JaxRuntimeError:
                self._follow("process 0 is gone, and with it what brought the processes together", LOST_EXIT_STATUS)
            now = time.monotonic()
            for key, sign in alive:
                if key not in seen or seen[key][0] != sign:
                    seen[key] = (sign, now)
            for key, reason in left:
                line, status = json.loads(reason)
                self._follow(f"process {_number(key)} has left: {line.removeprefix('error: ')}", status)
            patience = _SUSPECT_SILENCE_SECONDS if self._suspects else SILENCE_SECONDS
            for key, (_, at) in seen.items():
                if now - at > patience:
                    self._follow(f"process {_number(key)} is gone: no sign of life for {patience:.0f} s", None)

    def _follow(self, why: str, status: int | None) -> NoReturn:
        self._leaving.acquire()
        status = LOST_EXIT_STATUS if status is None else status
        try:
            _say(f"error: {why}; start all {self._count} processes again, what was finished is kept")
            self._tell(why, status)
            if self._me == 0:
                time.sleep(3 * _BEAT_SECONDS)  # the store goes with this process; the others shall read it first
        finally:
            _end(status)

    def _tell(self, line: str, status: int) -> None:
        self._client.key_value_set(f"{_ROOM}/left/{self._me}", json.dumps([line, status]), allow_overwrite=True)

    def _left(self) -> list[tuple[str, str]]:
        found: list[tuple[str, str]] = self._client.key_value_dir_get(f"{_ROOM}/left/")
        return found


def _number(key: str) -> str:
    return key.rpartition("/")[2]


def _say(line: str) -> None:
    with contextlib.suppress(OSError):  # nobody may listen any more
        print(line, file=sys.stderr, flush=True)


def _end(status: int) -> NoReturn:
    """Ends this process at once: other threads may wait for a process that is gone."""
    with contextlib.suppress(OSError):
        sys.stdout.flush()
    os._exit(status)
