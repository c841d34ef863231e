"""A memory cgroup for each worker: what its programs use together, with the kernel's own memory and memory files.

The limits of each process come first and are the lower ones; this is for what they do not count. A process that the
kernel ends because a group is full was ended by us, not by the program's limit, so it makes an `infra_error`.
Groups are called `o1coder-PID-NUMBER`, PID being the pool's process; those of pools that are gone are removed.
"""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

_PREFIX = "o1coder-"
LIMIT_FILES = ("memory.limit_in_bytes", "memory.max")  # of version 1 and 2
_MEMBERS = "cgroup.procs"
_PROBE_BYTES = 1 << 30
_STEP_BYTES = 64 << 20  # limits are whole steps, so that they seldom change
_REMOVE_SECONDS = 2.0
_count = itertools.count()


@dataclasses.dataclass(frozen=True)
class Place:
    """Where groups can be made: `folder`; `home` is the group that we are in ourselves."""

    folder: str
    home: str


def find_place() -> Place | None:
    """Where this process can make memory groups; None where it cannot. Removes the groups of dead pools."""
    place = locate(Path("/proc/self/mountinfo").read_text(), Path("/proc/self/cgroup").read_text())
    if place is None or not os.access(place.folder, os.W_OK):
        return None
    _remove_stale(place)
    try:
        group = Group(**new_group(place))
    except OSError:
        return None
    try:
        group.limit(_PROBE_BYTES)
        # Another process tries to join it: ours may have threads at work.
        tried = subprocess.run(["/bin/sh", "-c", 'echo $$ >"$0"', group.members], stderr=subprocess.DEVNULL)
        if tried.returncode != 0:
            return None
    except OSError:
        return None
    finally:
        group.remove()
    return place


def locate(mountinfo: str, membership: str) -> Place | None:
    """The place that these texts of /proc speak of; it may not be writable.

    In version 1 groups are made below our own. In version 2 a group that has processes has no groups below it, so they
    are made beside it, where the memory controller has been handed on to them.
    """
    mounts = {1: "", 2: ""}
    for line in mountinfo.splitlines():
        fields, _, system = line.partition(" - ")
        kind, _, options = system.split(" ")[:3]
        if kind == "cgroup" and "memory" in options.split(","):
            mounts[1] = fields.split(" ")[4]
        elif kind == "cgroup2":
            mounts[2] = fields.split(" ")[4]
    for line in membership.splitlines():
        _, controllers, path = line.split(":", 2)
        if mounts[1] and "memory" in controllers.split(","):
            home = mounts[1] + path.rstrip("/")
            return Place(folder=home, home=home)
        if mounts[2] and not mounts[1] and not controllers and path != "/":
            home = mounts[2] + path
            return Place(folder=os.path.dirname(home), home=home)
    return None


def _remove_stale(place: Place) -> None:
    for folder in Path(place.folder).glob(_PREFIX + "*"):
        pid = folder.name.split("-")[1]
        if not os.path.exists(f"/proc/{pid}"):
            with contextlib.suppress(OSError):  # it is not empty, or another pool was faster
                folder.rmdir()


def new_group(place: Place) -> dict[str, str]:
    """The arguments of a new worker's `Group`, as marshal values."""
    return {"folder": place.folder, "home": place.home, "name": f"{_PREFIX}{os.getpid()}-{next(_count)}"}


def remove_group(folder: str, home: str, name: str) -> None:
    """Removes a worker's group if it has not done so itself."""
    _remove(Path(folder) / name)


class Group:
    """A memory group, made here.

    Attributes:
      members: the file that takes the process ids of those who join.
    """

    def __init__(self, folder: str, home: str, name: str):
        """Of a `Place`, with a new name; OSError where it cannot be made, or has no memory controller."""
        self._home, self._path, self._bytes = Path(home), Path(folder) / name, 0
        self._path.mkdir()
        found = [file for file in LIMIT_FILES if (self._path / file).exists()]
        if not found:
            self.remove()
            raise FileNotFoundError(f"no memory controller in {self._path}")
        self._limit_file = self._path / found[0]
        self.members = str(self._path / _MEMBERS)

    def limit(self, wanted: int) -> None:
        """Lets its processes use `wanted` bytes together, or a little more."""
        wanted = -(-wanted // _STEP_BYTES) * _STEP_BYTES
        if wanted != self._bytes:
            self._limit_file.write_text(str(wanted))
            self._bytes = wanted

    @contextlib.contextmanager
    def joined(self) -> Iterator[None]:
        """What is started inside belongs to the group; the calling process does not stay in it."""
        Path(self.members).write_text(str(os.getpid()))
        try:
            yield
        finally:
            (self._home / _MEMBERS).write_text(str(os.getpid()))

    def remove(self) -> None:
        """Removes it as soon as its processes, which have been killed, are gone."""
        _remove(self._path)


def _remove(path: Path) -> None:
    """Ends what is left in a group, which is no one's any more, and removes it.

    bubblewrap leaves a process behind when it is killed before it has told that process to end with it.
    """
    deadline = time.monotonic() + _REMOVE_SECONDS
    while path.exists():
        with contextlib.suppress(OSError):
            path.rmdir()
            return
        with contextlib.suppress(OSError):
            for pid in map(int, (path / _MEMBERS).read_text().split()):
                if pid > 0:  # 0: in another process name space
                    os.kill(pid, signal.SIGKILL)
        if time.monotonic() > deadline:
            return
        time.sleep(0.01)
