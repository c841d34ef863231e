"""What a process under test left behind, as the worker reads it: how it ended, and the lines of its report."""

from __future__ import annotations

import dataclasses
import fcntl
import itertools
import os
import signal

from sandbox import child, compare, program

# A row is (verdict, cpu seconds, wall seconds, memory bytes, detail); verdicts are the values of `records.Verdict`.
Row = tuple[str, float, float, int, str]

ACCEPTED, WRONG, FAILED, MEMORY = "accepted", "wrong_answer", "runtime_error", "memory_limit"
TIME, IDLE, OUTPUT = "time_limit", "idle_limit", "output_limit"

_SEALS = fcntl.F_SEAL_SEAL | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE
_COMPILE_VERDICTS = ("compile_error", FAILED, MEMORY)


@dataclasses.dataclass(frozen=True)
class Line:
    """One line of the call form's report: a claim of the program about one test."""

    kind: bytes
    cpu_seconds: float
    payload: bytes


@dataclasses.dataclass(frozen=True)
class Batch:
    """The report of one child: how it ended, the lines that it wrote, and the verdict on a test that it did not end."""

    ended: child.Ended
    report: list[Line]
    unfinished: Row

    @property
    def about_loading(self) -> list[Line]:
        return self.report[:2]

    @property
    def loaded(self) -> bool:
        """The program is compiled and its entry point was found."""
        return [line.kind for line in self.about_loading] == [program.COMPILED, program.READY]

    @property
    def lines(self) -> list[Line]:
        """Those of the tests, in the order in which they were run."""
        return self.report[2:]


def sealed_file(parts: list[bytes]) -> int:
    """A memory file of `child.Job`'s layout that no one can change any more."""
    offsets = list(itertools.accumulate(map(len, parts), initial=8 * (len(parts) + 1)))
    fd = os.memfd_create("job", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    with open(fd, "wb", closefd=False) as file:
        file.write(b"".join(offset.to_bytes(8, "little") for offset in offsets))
        file.writelines(parts)
    fcntl.fcntl(fd, fcntl.F_ADD_SEALS, _SEALS)
    return fd


def read_all(fd: int, size: int) -> bytes:
    pieces, position = [], 0
    while position < size and (piece := os.pread(fd, size - position, position)):
        pieces.append(piece)
        position += len(piece)
    return b"".join(pieces)


def how_it_ended(ended: child.Ended) -> tuple[str, str]:
    if ended.cause == child.WALL_SPENT:
        return IDLE, f"{ended.wall_seconds:.1f} s on the wall clock"
    if os.WIFSIGNALED(ended.status):
        name = signal.Signals(os.WTERMSIG(ended.status)).name
        if ended.cause == child.CPU_SPENT or name in ("SIGKILL", "SIGXCPU"):
            return TIME, f"{ended.cpu_seconds:.1f} s of CPU time"
        return FAILED, f"ended by {name}"
    status = os.WEXITSTATUS(ended.status)
    return (FAILED, f"exit status {status}") if status else (ACCEPTED, "")


def ended_row(ended: child.Ended) -> Row:
    """The verdict on a test during which the process ended."""
    verdict, detail = how_it_ended(ended)
    if verdict == ACCEPTED:
        verdict, detail = WRONG, "the process ended before the function returned"
    return verdict, ended.cpu_seconds, ended.wall_seconds, ended.memory_bytes, detail


def broken(line: Line) -> tuple[str, str]:
    """Verdict and detail of a program that does not compile."""
    verdict, _, detail = text_of(line).partition(" ")
    return (verdict if verdict in _COMPILE_VERDICTS else FAILED), detail


def text_of(line: Line) -> str:
    try:
        return str(compare.parse(line.payload))[:300]
    except ValueError:
        return ""


def lines_of(data: bytes, indices: list[int]) -> list[Line]:
    """The report's lines as far as they make sense: those of loading, then the tests' in order."""
    lines: list[Line] = []
    wanted = [program.LOADING, program.LOADING, *indices]
    for raw, index in zip(data.split(b"\n")[:-1], wanted, strict=False):
        words = raw.split(b" ", 3)
        if len(words) != 4 or words[1] != b"%d" % index or not words[2].isdigit():
            break
        lines.append(Line(words[0], int(words[2][:15]) / 1e6, words[3]))
    return lines
