"""The tiers of isolation: what each needs, what this machine has, and how a zygote is started inside it.

full      bubblewrap: own mount, process, network, ipc and host name spaces, a read-only root that holds the
          interpreter and nothing else; a system call filter; a user of its own when started by root.
reduced   no name spaces. The same filter; Landlock lets only the interpreter's files be read, or, on a kernel without
          Landlock, the filter lets programs open no file at all; a user of its own when started by root.
trusted   nothing but limits and timeouts. Only on explicit request.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import importlib.util
import os
import platform
import random
import shutil
import sys
import sysconfig
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

from o1coder_jax.errors import UserError
from sandbox import cgroup, syscalls

Tier = Literal["full", "reduced", "trusted"]

# The worker's first line; its argument is the folders to import from.
WORKER_BOOT = "import sys; sys.path[:0] = sys.argv[1].split(chr(58)); from sandbox.worker import main; main()"
# The zygote's; its arguments are this package's folder and its own. The package is made by hand, because where files
# are restricted the folder around it cannot be listed.
ZYGOTE_BOOT = """
import sys, types
package = sys.modules["sandbox"] = types.ModuleType("sandbox")
package.__path__ = [sys.argv[1]]
from sandbox.zygote import main
main()
"""
INTERPRETER_FLAGS = ("-S", "-s", "-P", "-B", "-X", "utf8")
# glibc gives each thread an arena of 64 MB of address space, which would count against the memory limit.
ZYGOTE_ENVIRONMENT = {"PYTHONHASHSEED": "0", "MALLOC_ARENA_MAX": "1", "LD_BIND_NOW": "1", "LC_ALL": "C.UTF-8"}

# One thread, since each of OpenBLAS's takes much address space, and programs are given one core each.
NUMPY_ENVIRONMENT = dict.fromkeys(("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"), "1")

_INSIDE = "/opt/sandbox"  # where this package is in a `full` zygote's tree
_FIRST_UID_LARGE, _UIDS_LARGE = 1_000_000_000, 200_000_000
_FIRST_UID_SMALL, _UIDS_SMALL = 40_000, 20_000


@dataclasses.dataclass(frozen=True)
class Layers:
    """What stands between a program and the machine, in one tier on this machine.

    Attributes:
      tier: its name.
      bubblewrap: path of `bwrap` when name spaces are used.
      landlock: the kernel restricts which files can be opened.
      files_closed: the filter lets programs open no file (used where there is neither of the above).
      own_user: each worker's programs run as a user that owns nothing.
      memory_place: where each worker's programs get a memory cgroup (root only).
    """

    tier: Tier
    bubblewrap: str | None = None
    landlock: bool = False
    files_closed: bool = False
    own_user: bool = False
    memory_place: cgroup.Place | None = None

    def describe(self) -> list[str]:
        """One line for each layer."""
        if self.tier == "trusted":
            return ["none: programs can do what you can; limits and timeouts only"]
        lines = []
        if self.bubblewrap:
            lines.append(f"name spaces (mount, pid, net, ipc, uts) and a read-only root: {self.bubblewrap}")
        if self.landlock:
            lines.append("Landlock: only the interpreter's files can be read, nothing written")
        if self.files_closed:
            lines.append("no Landlock in this kernel: the filter lets programs open no file")
        lines.append("seccomp: allow-list of system calls; no fork, exec, socket, signal")
        lines.append("user: one of its own for each worker" if self.own_user else "user: yours")
        if self.memory_place is not None:
            lines.append(f"memory cgroup: one for each worker, in {self.memory_place.folder}")
        elif self.bubblewrap:
            lines.append("no memory cgroup can be made here: memory is limited for each process only")
        lines.append("limits: cpu, wall clock, address space, output, descriptors")
        return lines


@functools.cache
def landlock_abi() -> int:
    """Version of the kernel's Landlock, 0 when it has none."""
    import landlockpy

    try:
        return int(landlockpy.abi_version())
    except (landlockpy.LandlockError, OSError):
        return 0


def missing(tier: Tier) -> list[str]:
    """What a tier lacks here, each with its mend; empty when it can be tried."""
    lacks: list[str] = []
    if not sys.platform.startswith("linux"):
        lacks.append(f"Linux (this is {platform.system()}): run inside a Linux machine or container")
    if tier == "trusted":
        return lacks
    problem = syscalls.problem()
    if problem:
        lacks.append(problem)
    if tier == "reduced" and importlib.util.find_spec("landlockpy") is None:
        lacks.append("the Python package landlockpy: pip install landlockpy")
    if tier == "full" and shutil.which("bwrap") is None:
        lacks.append("bubblewrap: install the package `bubblewrap` of your distribution")
    return lacks


def layers(tier: Tier) -> Layers:
    """The layers of a tier on this machine; `UserError` when something it needs is missing."""
    lacks = missing(tier)
    if lacks:
        raise UserError(f"sandbox isolation {tier!r} is not to be had here; missing: {'; '.join(lacks)}")
    own_user = os.geteuid() == 0 and tier != "trusted"
    if tier == "full":
        place = cgroup.find_place() if own_user else None
        return Layers(tier, bubblewrap=shutil.which("bwrap"), own_user=own_user, memory_place=place)
    if tier == "reduced":
        landlock = landlock_abi() > 0
        return Layers(tier, landlock=landlock, files_closed=not landlock, own_user=own_user)
    return Layers(tier)


@functools.cache
def _first_uid() -> int:
    """Start of a range of uids that are mapped here and are no one's."""
    mapped = sum(int(line.split()[2]) for line in Path("/proc/self/uid_map").read_text().splitlines())
    if mapped > _FIRST_UID_LARGE + _UIDS_LARGE:
        return _FIRST_UID_LARGE + random.SystemRandom().randrange(_UIDS_LARGE)
    return _FIRST_UID_SMALL + random.SystemRandom().randrange(_UIDS_SMALL)


def worker_settings(chosen: Layers, index: int) -> dict[str, Any]:
    """Everything that worker number `index` must know, as marshal values."""
    confined = chosen.tier != "trusted"
    return {
        "bubblewrap": chosen.bubblewrap,
        "landlock": chosen.landlock,
        "interpreter": interpreter(),
        "code": str(package_folder()),
        "libraries": [str(path) for path in library_paths()],
        "numpy": numpy_paths(),
        "memory_group": cgroup.new_group(chosen.memory_place) if chosen.memory_place is not None else None,
        "start": {
            "zygote_filter": syscalls.zygote_filter() if confined else None,
            "child_filter": syscalls.child_filter(open_files=not chosen.files_closed) if confined else None,
            "uid": _first_uid() + index if chosen.own_user else None,
            "relative_imports": chosen.own_user and not chosen.bubblewrap,
            "library": sysconfig.get_path("stdlib"),
        },
    }


def interpreter() -> str:
    """The interpreter itself, outside any virtual environment."""
    return os.path.realpath(sys.executable)


def package_folder() -> Path:
    return Path(__file__).resolve().parent


def import_folders() -> list[str]:
    """Where a worker imports from: this project, and Landlock's library."""
    folders = [str(package_folder().parent)]
    spec = importlib.util.find_spec("landlockpy")
    if spec is not None and spec.origin is not None:
        folders.append(str(Path(spec.origin).parent.parent))
    return list(dict.fromkeys(folders))


def library_paths() -> list[Path]:
    """Folders and files that the interpreter reads; all a program can see of the file system."""
    candidates = [
        Path(interpreter()),
        Path(sysconfig.get_path("stdlib")),
        # The base interpreter's: a virtual environment's holds nothing but its packages.
        Path(sysconfig.get_path("platstdlib", vars={"platbase": sys.base_exec_prefix})),
        Path(sys.base_prefix) / "lib",
        *(Path(name) for name in ("/lib", "/lib64", "/usr/lib", "/usr/lib64", "/usr/local/lib")),
        Path("/etc/ld.so.cache"),
    ]
    return list(dict.fromkeys(path for path in candidates if path.exists()))


def numpy_paths() -> list[str]:
    """numpy's folder and that of its libraries, of the environment that we run in; empty where it is not installed."""
    spec = importlib.util.find_spec("numpy")
    if spec is None or spec.origin is None:
        return []
    folder = Path(os.path.realpath(spec.origin)).parent
    libraries = folder.with_name("numpy.libs")  # where it comes as a wheel
    return [str(folder), *([str(libraries)] if libraries.is_dir() else [])]


def zygote_command(settings: dict[str, Any], descriptor: int, numpy: bool) -> list[str]:
    """The command that starts a zygote with its socket at `descriptor`."""
    libraries = settings["libraries"] + (settings["numpy"] if numpy else [])
    python = settings["interpreter"]
    if not settings["bubblewrap"]:
        return [python, *INTERPRETER_FLAGS, "-c", ZYGOTE_BOOT, settings["code"], str(descriptor)]
    wrap = [settings["bubblewrap"], "--die-with-parent", "--new-session", "--as-pid-1"]
    wrap += ["--unshare-ipc", "--unshare-pid", "--unshare-net", "--unshare-uts", "--unshare-cgroup-try"]
    if settings["start"]["uid"] is not None:
        wrap += ["--cap-drop", "ALL", "--cap-add", "CAP_SETUID", "--cap-add", "CAP_SETGID"]
    else:
        wrap += ["--unshare-user", "--uid", "65534", "--gid", "65534"]
    # bubblewrap makes parents for its owner only; a program that runs as another user must get through.
    parents = {parent for path in [*libraries, _INSIDE, os.devnull] for parent in Path(path).parents}
    for parent in sorted(parents - {Path("/")} - set(map(Path, libraries))):
        wrap += ["--dir", str(parent)]
    for path in libraries:
        if os.path.islink(path):
            wrap += ["--symlink", os.readlink(path), path]
        else:
            wrap += ["--ro-bind", path, path]
    wrap += ["--ro-bind", settings["code"], _INSIDE, "--dev-bind", "/dev/null", "/dev/null"]
    wrap += ["--remount-ro", "/", "--chdir", "/"]
    return [*wrap, python, *INTERPRETER_FLAGS, "-c", ZYGOTE_BOOT, _INSIDE, str(descriptor)]


def restrict_files(settings: dict[str, Any]) -> None:
    """Landlock on the calling process and all that it starts: reads the interpreter's files, writes nothing."""
    from landlockpy import AccessFS, Ruleset

    reading = AccessFS.READ_FILE | AccessFS.EXECUTE
    with Ruleset() as rules:
        for path in [*settings["libraries"], *settings["numpy"], settings["code"]]:
            rules.allow_path(path, reading | AccessFS.READ_DIR if os.path.isdir(path) else reading)
        rules.allow_path(os.devnull, AccessFS.READ_FILE | AccessFS.WRITE_FILE)
        rules.restrict()


@contextlib.contextmanager
def canary() -> Iterator[str]:
    """A file that anyone may read, in a folder that anyone may write to: what a self-test tries to do."""
    with tempfile.TemporaryDirectory(prefix="o1coder-canary-") as folder:
        os.chmod(folder, 0o777)
        file = Path(folder) / "canary"
        file.write_text("not for programs\n")
        file.chmod(0o644)
        yield str(file)
