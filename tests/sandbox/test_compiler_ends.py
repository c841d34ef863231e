"""What is said of a program during whose compilation the runner ended."""

from __future__ import annotations

import signal
from typing import Any

import pytest

from sandbox import compare
from sandbox.session import InfraFailure, Session, Work


class EndedRunner:
    """A zygote whose runner ends, with this wait status and CPU time, before it has compiled anything."""

    def __init__(self, status: int, cpu_seconds: float):
        self._rest = status, cpu_seconds
        self._sequence = 0

    def send(self, message: tuple[Any, ...], fds: Any = ()) -> None:
        self._sequence = message[1][0]

    def receive(self, seconds: float) -> tuple[tuple[Any, ...], list[int]]:
        return ("done", self._sequence, *self._rest), []


def judged(status: int, cpu_seconds: float) -> tuple[str, str]:
    work = Work("1", None, ["", ""], ["", ""], None, "", {}, 2.0, 6.0, 1 << 28, 1 << 20, False)
    zygote: Any = EndedRunner(status, cpu_seconds)
    verdict, compiled, passed, _, rows, _, executed = Session(
        zygote, work, work.expected, compare.matcher({}, call_form=False)
    ).run()
    assert (compiled, passed, executed) == (False, 0, 0)
    return verdict, rows[0][-1]


@pytest.mark.parametrize("cpu_seconds", [1.98, 2.0, 2.1])
def test_signal_of_the_cpu_limit_is_a_time_limit_however_the_time_is_rounded(cpu_seconds: float):
    assert judged(signal.SIGXCPU, cpu_seconds) == ("time_limit", "compilation took too long")


def test_compiler_that_crashes_is_the_programs_failure():
    assert judged(signal.SIGSEGV, 0.1) == ("runtime_error", "the compiler was ended by SIGSEGV")


@pytest.mark.parametrize("status", [0, 1 << 8, signal.SIGKILL])
def test_compiler_that_ends_for_no_reason_of_the_program_is_our_failure(status: int):
    with pytest.raises(InfraFailure):
        judged(status, 0.1)
