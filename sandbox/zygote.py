"""The process that is forked for every program: a small warm interpreter that has given up all it can.

It reads no code and no input. Started by the worker as

    python -S -s -P -B -c BOOT FOLDER DESCRIPTOR

with the descriptor of a packet socket, on which the first message says how to confine itself.
Standard library only.
"""

from __future__ import annotations

import _sitebuiltins
import atexit
import builtins
import contextlib
import gc
import importlib.machinery
import importlib.util
import os
import resource
import select
import socket
import sys
import types
import warnings
from collections.abc import Callable
from typing import Any

from sandbox import caller, channel, child, confine, program, runner, source

# What most programs import; the rest is imported by the runner of the program that uses it.
WARM = "bisect collections functools heapq itertools math operator random re string typing".split()
# Of numpy, what programs use and `import numpy` leaves out.
NUMPY_PARTS = "char ctypeslib fft lib.stride_tricks linalg ma polynomial random rec strings testing".split()
_MAX_TASKS = 128
_REHEARSALS = 20
_REHEARSAL = """
import sys
def main():
    a, b = map(int, input().split())
    print(a + b, *[str(n) for n in range(3)])
main()
print("%d" % 1, f"{2}", end="")
"""


def warm_up(numpy: str | None) -> None:
    """Loads modules, numpy from its folder if given, restores what `-S` leaves out, and seeds random numbers."""
    with source.without_fork_hooks():
        for name in WARM:
            __import__(name)
        if numpy is not None:
            load_numpy(numpy)
    quitters = {name: _sitebuiltins.Quitter(name, "Ctrl-D") for name in ("exit", "quit")}
    for name, quitter in quitters.items():
        setattr(builtins, name, quitter)
    warnings.simplefilter("ignore")
    atexit._clear()
    sys.modules["random"].seed(0)
    sys.set_int_max_str_digits(0)  # the CPU limit is the guard here
    os.environ.clear()


def load_numpy(folder: str) -> None:
    """Imports numpy and what it would import later: its folder may be out of reach then."""
    # By hand, because where files are restricted the folder around it cannot be listed.
    spec = importlib.util.spec_from_file_location("numpy", f"{folder}/__init__.py", submodule_search_locations=[folder])
    if spec is None or spec.loader is None:
        raise ImportError(f"no numpy in {folder}")
    numpy: Any = importlib.util.module_from_spec(spec)
    sys.modules["numpy"] = numpy
    spec.loader.exec_module(numpy)
    for name in NUMPY_PARTS:
        __import__(f"numpy.{name}")
    numpy.random.seed(0)
    # OpenBLAS takes its memory at the first product, and it shall not count as the program's.
    numpy.linalg.solve(numpy.eye(64) @ numpy.eye(64), numpy.ones(64))


def rehearse() -> None:
    """Does what nearly every program does, so that the interpreter's caches are filled before the forks."""
    code = compile(_REHEARSAL, "<rehearsal>", "exec")
    stdin, stdout = sys.stdin, sys.stdout
    with open(child.memory_file("in", b"1 2\n" * _REHEARSALS)) as sys.stdin, open(os.devnull, "w") as sys.stdout:
        for _ in range(_REHEARSALS):
            namespace = {"__builtins__": builtins}
            exec(code, namespace)
            program.flush_files(namespace)
            confine.die_with_parent()
    sys.stdin, sys.stdout = stdin, stdout


class _RelativeFinder(importlib.machinery.FileFinder):
    """A finder whose paths stay relative, where the library's own makes them absolute."""

    def __init__(self, path: str, *details: Any):
        super().__init__(path, *details)
        self.path = path

    def find_spec(self, fullname: str, target: types.ModuleType | None = None) -> importlib.machinery.ModuleSpec | None:
        spec = super().find_spec(fullname, target)
        path = getattr(spec.loader, "path", None) if spec is not None else None
        if spec is not None and path is not None:
            spec.origin = path  # extension modules are loaded from here
        return spec


def import_from_working_directory(library: str) -> None:
    """Makes the standard library importable through the working directory.

    After the uid is dropped an interpreter below a 0700 home can no longer be reached by its absolute path, but paths
    relative to an open directory still work.
    """
    os.chdir(library)
    loaders = [
        (importlib.machinery.ExtensionFileLoader, importlib.machinery.EXTENSION_SUFFIXES),
        (importlib.machinery.SourceFileLoader, importlib.machinery.SOURCE_SUFFIXES),
        (importlib.machinery.SourcelessFileLoader, importlib.machinery.BYTECODE_SUFFIXES),
    ]

    def hook(path: str) -> _RelativeFinder:
        if not path.startswith("."):
            raise ImportError(f"{path} is not in the standard library")
        return _RelativeFinder(path, *loaders)

    for name, module in list(sys.modules.items()):
        # Packages that are loaded already must find their submodules, too.
        if getattr(module, "__path__", None):
            module.__path__ = ["./" + name.replace(".", "/")]
    sys.path_hooks[:] = [hook]
    sys.path_importer_cache.clear()
    sys.path[:] = [".", "./lib-dynload"]


def confine_zygote(start: dict[str, Any]) -> confine.SystemCallFilter | None:
    """Gives up what the tier asks for; returns the filter that children add."""
    for which in (resource.RLIMIT_CORE, resource.RLIMIT_MEMLOCK):
        confine.lower_limit(which, 0)
    confine.lower_limit(resource.RLIMIT_NOFILE, child.MAX_FDS)
    if start["relative_imports"]:
        import_from_working_directory(start["library"])
    if start["uid"] is not None:
        confine.lower_limit(resource.RLIMIT_NPROC, _MAX_TASKS)
        confine.become(start["uid"])
    confine.die_with_parent()
    confine.adopt_orphans()
    if start["child_filter"] is None:
        return None
    confine.undumpable()
    confine.no_new_privileges()
    confine.SystemCallFilter(start["zygote_filter"]).install()
    return confine.SystemCallFilter(start["child_filter"])


def load_asserter() -> Callable[..., bool]:
    """What the assert form needs, which only its zygotes hold."""
    with source.without_fork_hooks():
        from sandbox.asserter import run_asserts
    return run_asserts


def forget_sandbox() -> None:
    """Our own modules are not importable by programs."""
    for name in [name for name in sys.modules if name.partition(".")[0] == "sandbox"]:
        del sys.modules[name]


def serve(
    end: socket.socket,
    child_filter: confine.SystemCallFilter | None,
    base_bytes: int,
    run_asserts: Callable[..., bool] | None,
) -> None:
    """Forks a runner for each job and says how it ended; returns when the worker is gone."""
    zygote = os.getpid()
    while True:
        try:
            message, fds = channel.receive(end)
        except EOFError:
            return
        if message[0] not in ("scripts", "calls", "asserts"):  # a wish for a runner that is no more
            continue
        job, (job_fd, *tests_fd) = child.Job(*message[1]), map(child.move_high, fds)
        if message[0] == "asserts":
            assert run_asserts is not None
            alive = run_asserts(end, job, (job_fd, *tests_fd), message[2], child_filter, base_bytes)
        elif message[0] == "calls":
            alive = caller.run_calls(end, job, job_fd, message[2], child_filter, base_bytes)
        else:
            pid = os.fork()
            if pid == 0:
                _become_runner(end, job, job_fd, child_filter, base_bytes, zygote)
            alive = _finish_runner(pid, job, end)
        for fd in (job_fd, *tests_fd):
            os.close(fd)
        if not alive:
            return


def _finish_runner(pid: int, job: child.Job, end: socket.socket) -> bool:
    """Waits for a runner and says how it ended; False when the worker is gone first.

    `die_with_parent` is not enough: bubblewrap, our parent, has no right to signal the user that we became.
    """
    pidfd = os.pidfd_open(pid)
    poll = select.poll()
    poll.register(pidfd, select.POLLIN)
    poll.register(end, 0)  # only whether the worker has hung up
    events = dict(poll.poll())
    os.close(pidfd)
    if pidfd not in events:
        return False
    _, status, usage = os.wait4(pid, 0)
    _reap()
    channel.send(end, ("done", job.sequence, status, usage.ru_utime + usage.ru_stime))
    return True


def _become_runner(
    end: socket.socket,
    job: child.Job,
    job_fd: int,
    child_filter: confine.SystemCallFilter | None,
    base_bytes: int,
    zygote: int,
) -> None:
    status = 1
    try:
        confine.die_with_parent()
        if os.getppid() == zygote:
            runner.Runner(end, job, job_fd, child_filter).serve(base_bytes)
            status = 0
    finally:
        os._exit(status)


def _reap() -> None:
    """Collects what a runner that died has left behind; the kernel has killed it (`die_with_parent`)."""
    with contextlib.suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass


def main() -> None:
    end = socket.socket(fileno=child.move_high(int(sys.argv[2])))
    start, _ = channel.receive(end)
    warm_up(start["numpy"])
    run_asserts = load_asserter() if start["asserts"] else None
    child_filter = confine_zygote(start)
    forget_sandbox()
    rehearse()
    gc.collect()
    gc.freeze()
    base_bytes = confine.address_space_bytes()
    # From here on nothing is said on stderr: it is the programs' own.
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 2)
    os.close(null)
    channel.send(end, ("ready", 0))
    serve(end, child_filter, base_bytes, run_asserts)
