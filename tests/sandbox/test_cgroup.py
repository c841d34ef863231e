"""Memory cgroups: one for each worker, where they can be made, and none is left behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from o1coder_jax.errors import UserError
from sandbox import cgroup
from sandbox.pool import Pool, SandboxConfig
from sandbox.processes import descendants
from tests.sandbox.processes import remaining

V1_MOUNTS = "35 31 0:32 / /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory\n"
V2_MOUNTS = "30 23 0:26 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate\n"


@pytest.fixture
def place() -> cgroup.Place:
    found = cgroup.find_place() if os.geteuid() == 0 else None
    if found is None:
        pytest.skip("no memory cgroup can be made here")
    return found


def groups(place: cgroup.Place) -> set[str]:
    """Of this process's pools."""
    return {path.name for path in Path(place.folder).glob(f"o1coder-{os.getpid()}-*")}


def full_pool() -> Pool:
    try:
        return Pool(SandboxConfig(workers=1, isolation="full"))
    except UserError as error:
        pytest.skip(str(error))


@pytest.mark.parametrize(
    ("mounts", "membership", "expected"),
    [
        (V1_MOUNTS, "4:memory:/a/b\n0::/\n", ("/sys/fs/cgroup/memory/a/b", "/sys/fs/cgroup/memory/a/b")),
        (V1_MOUNTS, "4:memory:/\n", ("/sys/fs/cgroup/memory", "/sys/fs/cgroup/memory")),
        (
            V2_MOUNTS,
            "0::/user.slice/shell.scope\n",
            ("/sys/fs/cgroup/user.slice", "/sys/fs/cgroup/user.slice/shell.scope"),
        ),
        (V2_MOUNTS, "0::/\n", None),  # a group that has processes has none below it
        (V1_MOUNTS + V2_MOUNTS, "0::/a\n4:memory:/b\n", ("/sys/fs/cgroup/memory/b", "/sys/fs/cgroup/memory/b")),
        ("", "0::/\n", None),
    ],
)
def test_place_is_read_from_proc(mounts: str, membership: str, expected: tuple[str, str] | None) -> None:
    assert cgroup.locate(mounts, membership) == (None if expected is None else cgroup.Place(*expected))


def test_what_is_beyond_a_group_is_killed(place: cgroup.Place) -> None:
    group = cgroup.Group(**cgroup.new_group(place))
    try:
        group.limit(64 << 20)
        with group.joined():
            process = subprocess.Popen([sys.executable, "-S", "-c", "b'x' * (256 << 20)"])
        assert process.wait() == -signal.SIGKILL
    finally:
        group.remove()
    assert not groups(place)


def test_workers_have_a_group_and_leave_none_behind(place: cgroup.Place) -> None:
    with full_pool() as pool:
        [name] = groups(place)
        members = set(map(int, (Path(place.folder) / name / "cgroup.procs").read_text().split()))
        [worker] = pool.processes()
        assert members == descendants(worker)
        assert any("memory cgroup: one" in line for line in pool.layers)
    assert not groups(place)


def test_group_of_a_killed_worker_is_removed(place: cgroup.Place) -> None:
    with full_pool() as pool:
        [worker] = pool.processes()
        below = descendants(worker)
        os.kill(worker, signal.SIGKILL)
        assert not remaining(below, 5.0)
        [(result, _)] = pool.outputs("print(1)", [""])
        assert result.verdict == "accepted"
        assert len(groups(place)) == 1
    assert not groups(place)


def test_groups_of_dead_pools_are_removed(place: cgroup.Place) -> None:
    process = subprocess.Popen(["true"])
    process.wait()
    stale = Path(place.folder) / f"o1coder-{process.pid}-0"
    stale.mkdir()
    cgroup.find_place()
    assert not stale.exists()


def test_where_there_is_none_it_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cgroup, "find_place", lambda: None)
    with full_pool() as pool:
        assert any("no memory cgroup" in line for line in pool.layers)


def test_full_group_is_our_failure_and_not_the_programs(place: cgroup.Place) -> None:
    with full_pool() as pool:
        pool.outputs("print(1)", [""])  # after which the limit stays
        [name] = groups(place)
        group = Path(place.folder) / name
        next(group / file for file in cgroup.LIMIT_FILES if (group / file).exists()).write_text(str(96 << 20))
        [(result, value)] = pool.outputs("print(len(b'x' * (150 << 20)))", [""])
        assert (result.verdict, value) == ("infra_error", None)
        assert "killed from outside" in result.detail


def test_what_is_left_in_a_group_ends_with_it(place: cgroup.Place) -> None:
    group = cgroup.Group(**cgroup.new_group(place))
    with group.joined():
        process = subprocess.Popen(["sleep", "60"])
    group.remove()
    assert process.wait() == -signal.SIGKILL
    assert not groups(place)
