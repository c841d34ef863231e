"""Attacks the real pool, so that a tier is what it claims to be on this machine.

    python -m sandbox.selftest

prints the tier that `auto` takes, its layers, whether programs find numpy, and for each tier that is not to be had
what is missing and the mend.
"""

from __future__ import annotations

import argparse
import concurrent.futures
import os
import threading
from typing import Any, get_args

from o1coder_jax.errors import UserError, run_command
from sandbox import channel, isolation
from sandbox.crew import Crew, Task
from sandbox.limits import Limits

_LIMITS = Limits(cpu_seconds=2.0, wall_seconds=10.0, memory_mb=256, output_mb=1.0)
_BLOCKED = "blocked"

# Each runs as a program of its own and prints `blocked` only if the attempt was refused. In place of CANARY stands a
# file that everyone may read, in place of PARENT the process that holds the pool.
PROBES: dict[str, str] = {
    "read a file": "open(CANARY).read()",
    "list a folder": "os.listdir(os.path.dirname(CANARY))",
    "write a file": "open(CANARY + '-written', 'w').write('x')",
    "write to the working directory": "open('o1coder-probe', 'w').write('x')",
    "write to shared memory": "open('/dev/shm/o1coder-probe', 'w').write('x')",
    "fork": "os.fork() or os._exit(0)",
    "run a command": "os.execv('/bin/sh', ['sh', '-c', 'echo escaped'])",
    "start a process": "import subprocess; subprocess.Popen(['/bin/true'])",
    "open a socket": "import socket; socket.socket()",
    "open a local socket": "import socket; socket.socketpair()",
    "signal its parent": "os.kill(os.getppid(), 0)",
    "signal the pool": "os.kill(PARENT, 0)",
    "read its parent's memory": "open(f'/proc/{os.getppid()}/mem', 'rb').read(1)",
    "read the pool's environment": "open('/proc/PARENT/environ', 'rb').read(1)",
    "make a memory file": "os.memfd_create('x')",
    "become root": "os.setuid(0)",
    "raise a limit": "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 40, 1 << 40))",
    "trace another process": "call('ptrace', 0x4206, os.getppid(), 0, 0)",
    "make name spaces": "call('unshare', 0x10000000)",
}
# What an OSError looks like to each of them; ImportError where no file can be opened.
_PROBE = """
import ctypes, os
def call(name, *arguments):
    libc = ctypes.CDLL(None, use_errno=True)
    if getattr(libc, name)(*arguments) != 0:
        raise OSError(ctypes.get_errno(), name)
try:
    {attempt}
except (OSError, ValueError, ImportError):
    print("blocked")
else:
    print("escaped")
"""
_SANE = "import sys\nprint(sum(map(int, sys.stdin.buffer.read().split())))"
# Layers are tried once in a process: what is wrong with them, empty when they hold.
_tried: dict[isolation.Layers, str] = {}
_lock = threading.Lock()


def _run(crew: Crew, code: str, stdin: str) -> concurrent.futures.Future[tuple[str, str]]:
    """(verdict, printed text or detail) of a script."""
    future: concurrent.futures.Future[tuple[str, str]] = concurrent.futures.Future()

    def finish(answer: tuple[Any, ...] | Exception) -> None:
        if isinstance(answer, Exception):
            future.set_exception(answer)
        else:
            printed = answer[5][0] if answer[5] else None
            future.set_result((answer[0], printed if printed is not None else answer[4][0][4]))

    bounds = (_LIMITS.cpu_seconds, _LIMITS.wall_seconds, _LIMITS.memory_bytes, _LIMITS.output_bytes)
    crew.submit(Task(channel.pack((code, None, [stdin], None, None, "", {}, *bounds, False)), finish))
    return future


def findings(crew: Crew) -> list[str]:
    """What is wrong with a crew's isolation; empty when every attack is refused and a right program is accepted."""
    with isolation.canary() as file:
        probes = {}
        for name, attempt in PROBES.items():
            attempt = attempt.replace("CANARY", repr(file)).replace("PARENT", str(os.getpid()))
            probes[name] = _run(crew, _PROBE.format(attempt=attempt), "")
        sane = _run(crew, _SANE, "1 2 3\n")
        found = [
            f"a program can {name} ({future.result()[1].strip() or 'no output'})"
            for name, future in probes.items()
            if future.result() != ("accepted", _BLOCKED + "\n")
        ]
    if sane.result() != ("accepted", "6\n"):
        found.append(f"a right program fails: {sane.result()}")
    return found


def numpy_line(crew: Crew) -> str:
    """What a program finds that imports numpy."""
    verdict, text = _run(crew, "import numpy\nprint(numpy.__version__)", "").result()
    if verdict == "accepted":
        return f"numpy {text.strip()}: preloaded for programs that import it"
    return f"numpy: programs cannot import it ({text})"


def _crew_of(tier: isolation.Tier, workers: int) -> tuple[Crew, isolation.Layers]:
    """A crew of one tier that has passed the self-test in this process; `UserError` otherwise."""
    chosen = isolation.layers(tier)
    if _tried.get(chosen):
        raise UserError(_tried[chosen])
    crew = Crew(chosen, workers)
    if tier == "trusted" or chosen in _tried:
        return crew, chosen
    try:
        wrong = findings(crew)
    except BaseException:  # Ctrl-C
        crew.close()
        raise
    _tried[chosen] = f"sandbox isolation {tier!r} does not hold here: {'; '.join(wrong)}" if wrong else ""
    if wrong:
        crew.close()
        raise UserError(_tried[chosen])
    return crew, chosen


def trusty_crew(wish: str, workers: int) -> tuple[Crew, isolation.Layers]:
    """A crew of the tier that is wished for; `auto` is the best one that holds, and never `trusted`."""
    with _lock:
        if wish != "auto":
            return _crew_of(_tier(wish), workers)
        reasons = []
        for tier in ("full", "reduced"):
            try:
                return _crew_of(_tier(tier), workers)
            except UserError as error:
                reasons.append(str(error))
    raise UserError(
        f"no safe sandbox on this machine: {' | '.join(reasons)}. Mend one of these, or set isolation to 'trusted' to"
        " run programs with no protection at all"
    )


def _tier(name: str) -> isolation.Tier:
    for tier in get_args(isolation.Tier):
        if tier == name:
            return tier  # type: ignore[no-any-return]
    raise UserError(f"sandbox isolation {name!r} is unknown; use auto, full, reduced or trusted")


def main() -> int:
    """Tries the tiers from the best on; status 0 when there is a safe one."""
    taken = ""
    for tier in ("full", "reduced"):
        try:
            crew, chosen = _crew_of(_tier(tier), 1)
        except UserError as error:
            print(f"{tier}: no. {error}")
            continue
        numpy = numpy_line(crew)
        crew.close()
        mark = "auto takes this one" if not taken else "holds, too"
        taken = taken or tier
        print(f"{tier}: {len(PROBES)} attacks refused, a right program accepted; {mark}")
        for line in [*chosen.describe(), numpy]:
            print(f"  {line}")
    if not taken:
        raise UserError("no safe sandbox on this machine; see above for what is missing and the mend")
    return 0


if __name__ == "__main__":
    argparse.ArgumentParser(
        prog="python -m sandbox.selftest", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    ).parse_args()
    run_command(main)
