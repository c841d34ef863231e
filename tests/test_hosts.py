"""Processes that run together leave together, and each says why in one line."""

from __future__ import annotations

import signal
import time

import pytest

from o1coder_jax.errors import UserError
from o1coder_jax.hosts import LOST_EXIT_STATUS, DistributedConfig, barrier, gather
from tests.together import all_ended, free_port

SECONDS = 90.0  # from start to end, of which most are to import JAX on a busy machine; nothing waits that long


def ended(kind: str) -> list[tuple[int, str, list[str]]]:
    """Status, stdout and the lines of stderr of the two programs of `tests/leaving.py`."""
    port, began = str(free_port()), time.monotonic()
    commands = [["tests.leaving", index, port, kind] for index in "01"]
    both = all_ended(commands, {"JAX_PLATFORMS": "cpu"}, seconds=200)
    assert time.monotonic() - began < SECONDS
    return [
        (status, out, [line for line in errors.splitlines() if not line.startswith("[Gloo]")])
        for status, out, errors in both
    ]


def test_processes_share_values_and_only_the_first_prints():
    first, second = ended("well")
    assert (first[0], first[2], second[0], second[2]) == (0, [], 0, [])
    assert "['x', 'xx']" in first[1] and "xx" not in second[1]


def test_kill_of_one_process_ends_the_other():
    first, second = ended("killed")
    assert (first[0], second[0]) == (LOST_EXIT_STATUS, -signal.SIGKILL)
    [line] = first[2]
    assert line.startswith("error: process 1 is gone") and "what was finished is kept" in line


def test_pre_emption_of_one_process_ends_the_other():
    first, second = ended("pre-empted")
    assert (first[0], second[0]) == (130, 130)
    assert second[2] == ["stopped; the same command goes on from the last finished stage"]
    assert len(first[2]) == 1 and first[2][0].startswith("error: process 1 has left: stopped; ")


def test_error_of_one_process_is_told_by_the_other():
    first, second = ended("error")
    assert (first[0], second[0]) == (2, 2)
    assert second[2] == ["error: the disk of process 1 is full; free space"]
    assert len(first[2]) == 1 and "process 1 has left: the disk of process 1 is full" in first[2][0]


def test_process_that_cannot_say_why_it_leaves_ends_the_other_all_the_same():
    first, second = ended("unheard")
    assert (first[0], second[0], second[2]) == (2, 2, [])
    assert len(first[2]) == 1 and "process 1 has left: nobody hears this" in first[2][0]


def test_defect_of_one_process_keeps_its_traceback_there():
    first, second = ended("defect")
    assert (first[0], second[0]) == (1, 1)
    assert second[2][0].startswith("Traceback") and second[2][-1] == "ZeroDivisionError: a defect"
    assert len(first[2]) == 1 and "process 1 has left: ZeroDivisionError: a defect" in first[2][0]


def test_one_process_alone_waits_for_nobody():
    barrier("alone")
    assert gather(3) == [3]


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"coordinator": "host"}, "give HOST:PORT, or auto"),
        ({"coordinator": "host:1", "processes": 2, "process": 2}, "distributed.process is 2 of 2 processes"),
        ({"coordinator": "host:1", "processes": 0}, "processes must be at least 1"),
        ({"coordinator": "host:1", "wait_seconds": 0}, "distributed.wait_seconds is 0"),
    ],
)
def test_bad_settings_are_refused(settings: dict[str, object], told: str):
    with pytest.raises(UserError, match=told):
        DistributedConfig(**settings)  # type: ignore[arg-type]
