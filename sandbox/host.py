"""The worker's handle on its zygote: starts it, talks to it, and ends it with everything below it."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import subprocess
import sys
import time
from typing import Any, NamedTuple

from sandbox import cgroup, channel, isolation

_START_SECONDS = 30.0
_POLL_MS = 1000
_LOG_BYTES = 2000


class InfraFailure(Exception):
    """Our own machinery failed; nothing can be said of the program."""


class Kind(NamedTuple):
    """What a zygote has loaded beyond the common part: every fork pays for it, so only those who need it do."""

    numpy: bool = False
    asserts: bool = False


class Zygote:
    """A running zygote."""

    def __init__(self, settings: dict[str, Any], kind: Kind, group: cgroup.Group | None = None):
        self._parent = os.getppid()
        self.end, theirs = channel.packet_pair()
        self._log = os.memfd_create("zygote-log", os.MFD_CLOEXEC)
        dummies = [os.memfd_create("nothing", os.MFD_CLOEXEC) for _ in range(2)]
        try:
            with group.joined() if group is not None else contextlib.nullcontext():
                self._process = subprocess.Popen(
                    isolation.zygote_command(settings, theirs.fileno(), kind.numpy),
                    stdin=dummies[0],
                    stdout=dummies[1],  # files, as the programs' descriptors 0 and 1 will be
                    stderr=self._log,
                    pass_fds=(theirs.fileno(),),
                    env=isolation.ZYGOTE_ENVIRONMENT | (isolation.NUMPY_ENVIRONMENT if kind.numpy else {}),
                )
        except OSError as error:
            raise InfraFailure(f"cannot start {settings['interpreter']}: {error}") from error
        finally:
            theirs.close()
            for fd in dummies:
                os.close(fd)
        try:
            numpy = settings["numpy"][0] if kind.numpy else None
            channel.send(self.end, {**settings["start"], "numpy": numpy, "asserts": kind.asserts})
            self.receive(_START_SECONDS)
        except (InfraFailure, OSError) as error:
            reason = self._said() or str(error)
            self.close()
            raise InfraFailure(f"the sandbox did not start: {reason}") from error

    def _said(self) -> str:
        """The last line that the starting zygote, or bubblewrap, wrote on stderr."""
        lines = os.pread(self._log, _LOG_BYTES, max(0, os.fstat(self._log).st_size - _LOG_BYTES)).split(b"\n")
        return next((line.decode("utf-8", "replace") for line in reversed(lines) if line.strip()), "")

    def send(self, value: Any, fds: tuple[int, ...] = ()) -> None:
        try:
            channel.send(self.end, value, fds)
        except OSError as error:
            raise InfraFailure(f"the sandbox's zygote is gone: {error}") from error

    def receive(self, seconds: float) -> tuple[Any, list[int]]:
        """The next message; `InfraFailure` when the zygote is gone or silent. Leaves with the pool."""
        deadline = time.monotonic() + seconds
        poll = select.poll()
        poll.register(self.end, select.POLLIN)
        poll.register(0, 0)  # only whether the pool has hung up
        while True:
            left = deadline - time.monotonic()
            if left <= 0:
                raise InfraFailure(f"the sandbox's zygote was silent for {seconds:.0f} s")
            events = dict(poll.poll(min(_POLL_MS, max(1, int(left * 1000)))))
            if 0 in events or os.getppid() != self._parent:
                self.close()
                sys.exit(0)
            if events:
                try:
                    return channel.receive(self.end)
                except (EOFError, OSError) as error:
                    raise InfraFailure(f"the sandbox's zygote is gone: {error}") from error

    def close(self) -> None:
        """Ends the zygote; the kernel ends what it started."""
        self.end.close()
        with contextlib.suppress(ProcessLookupError):
            self._process.send_signal(signal.SIGKILL)
        self._process.wait()
        with contextlib.suppress(OSError):
            os.close(self._log)
