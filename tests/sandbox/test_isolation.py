"""Tiers: what each machine gets, and what holds where a layer is missing."""

from __future__ import annotations

import os
import shutil

import pytest

from o1coder_jax.errors import UserError
from o1coder_jax.records import TestCase
from sandbox import isolation
from sandbox.pool import Pool, SandboxConfig, Submission


@pytest.fixture
def closed(monkeypatch: pytest.MonkeyPatch) -> Pool:
    """A `reduced` pool as on a kernel without Landlock."""
    monkeypatch.setattr(isolation, "landlock_abi", lambda: 0)
    try:
        return Pool(SandboxConfig(workers=1, isolation="reduced"))
    except UserError as error:
        pytest.skip(str(error))


def test_without_landlock_no_file_is_opened(closed: Pool) -> None:
    with closed:
        [(result, _)] = closed.outputs("open('/etc/passwd')", [""])
        assert "PermissionError" in result.detail


def test_without_landlock_modules_are_imported_beforehand(closed: Pool) -> None:
    code = "def f():\n    import statistics\n    return statistics.median([1, 2, 4])"
    with closed:
        [judgement] = closed.judge([Submission("s", code, (TestCase([], 2),), "f")])
        assert judgement.accepted


def test_without_landlock_it_is_said(closed: Pool) -> None:
    with closed:
        assert any("no Landlock" in line for line in closed.layers)


def test_auto_takes_the_best_tier_that_holds(pool: Pool) -> None:
    with Pool(SandboxConfig(workers=1)) as auto:
        assert auto.isolation == "full" or pool.isolation != "full"


def test_without_bubblewrap_auto_takes_reduced(pool: Pool, monkeypatch: pytest.MonkeyPatch) -> None:
    if pool.isolation != "reduced":
        pytest.skip("needs tier reduced")
    monkeypatch.setattr(shutil, "which", lambda name: None)
    with Pool(SandboxConfig(workers=1)) as auto:
        assert auto.isolation == "reduced"


def test_what_is_missing_is_said_with_its_mend(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: None)
    with pytest.raises(UserError, match=r"missing: .*bubblewrap: install"):
        Pool(SandboxConfig(workers=1, isolation="full"))


def test_root_gives_each_worker_a_user_of_its_own(pool: Pool) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root can give users away")
    code = "import os, time; time.sleep(0.3); print(os.getuid(), os.getgid(), os.getgroups())"
    futures = [pool.submit_outputs(code, [""]) for _ in pool.processes()]
    users = {future.result()[0][1] for future in futures}
    assert len(users) == len(futures)
    assert not any(user.startswith("0 ") or " 0 " in user for user in users)
