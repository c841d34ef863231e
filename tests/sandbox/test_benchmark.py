"""The benchmark's arithmetic, and that what it compares does what it says."""

from __future__ import annotations

import subprocess
import time

import pytest

from benchmarks import sandbox as benchmark
from benchmarks.measure import Round, alternate, speedup, timed
from sandbox.pool import Pool


def test_a_quiet_machine_is_measured_by_wall_time() -> None:
    result = speedup([Round(100, 1.0, 1.0)] * 3, [Round(10, 1.0, 0.95)] * 3)
    assert (result["value"], result["by"]) == (10.0, "wall time")


def test_a_busy_machine_is_measured_by_cpu_time() -> None:
    result = speedup([Round(100, 4.0, 1.0)] * 3, [Round(10, 1.0, 1.0)] * 3)
    assert (result["value"], result["wall"], result["by"]) == (10.0, 2.5, "CPU time, the machine was busy")


def test_several_cores_are_measured_by_wall_time_and_say_when_they_were_shared() -> None:
    quiet = speedup([Round(100, 1.0, 2.0)], [Round(100, 2.0, 2.0)], cores=2)
    busy = speedup([Round(100, 1.5, 2.0)], [Round(100, 2.0, 2.0)], cores=2)
    assert (quiet["value"], quiet["by"]) == (2.0, "wall time")
    assert (busy["value"], busy["by"]) == (1.333, "wall time, the machine was busy")


def test_one_odd_round_changes_nothing() -> None:
    steady, odd = Round(10, 1.0, 1.0), Round(10, 60.0, 60.0)
    assert speedup([steady, odd, steady], [steady] * 3)["value"] == 1.0


def test_rounds_alternate_after_a_warm_up() -> None:
    order: list[str] = []
    actions = {name: lambda name=name: order.append(name) or 1 for name in "ab"}  # type: ignore[misc]
    found = alternate(actions, 2)
    assert order == list("ababab")
    assert {name: len(rounds) for name, rounds in found.items()} == {"a": 2, "b": 2}


def test_cpu_time_of_children_is_counted() -> None:
    def action() -> int:
        loop = "i=0; while [ $i -lt 100000 ]; do i=$((i+1)); done"
        subprocess.run(["sh", "-c", loop], check=True)
        time.sleep(0.2)
        return 1

    done = timed(action)
    assert 0.02 <= done.cpu_seconds <= done.wall_seconds - 0.1


def test_the_floor_forks_as_often_as_it_is_told() -> None:
    with benchmark.forking(20) as fork:
        assert (fork(), fork()) == (20, 20)


def test_what_is_judged_is_right_and_is_counted(trusted: Pool) -> None:
    assert benchmark.judging(trusted, benchmark.scripts(2, 3))() == 6
    assert benchmark.judging(trusted, benchmark.functions(3, 4))() == 12
    with pytest.raises(benchmark.UserError, match="not accepted"):
        benchmark.judging(trusted, benchmark.scripts(1, 1, "print(0)"))()


def test_a_missing_figure_does_not_meet_its_target() -> None:
    assert " no " in benchmark.Row("x", None, 1.0, "", {}).line()
    assert " no " in benchmark.Row("x", 0.9, 1.0, "", {}).line()
    assert " yes " in benchmark.Row("x", 1.0, 1.0, "", {}).line()
