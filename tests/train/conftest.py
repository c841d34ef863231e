"""One run of the tiny loop, shared by all tests and all test processes."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from pathlib import Path

import jax
import pytest
from jax.experimental.compilation_cache import compilation_cache

from tests.train import world

_CHANGED = (
    "jax_disable_most_optimizations",
    "jax_persistent_cache_min_compile_time_secs",
    "jax_compilation_cache_dir",
)


@pytest.fixture(autouse=True, scope="module")
def _quick_compiler(shared: Path) -> Iterator[None]:
    """Compiles without optimising, and remembers what was compiled, as the shared run does."""
    before = {name: jax.config.values[name] for name in _CHANGED}
    for name, value in zip(_CHANGED, (True, 0, str(shared / "compiled")), strict=True):
        jax.config.update(name, value)
    compilation_cache.reset_cache()
    yield
    for name, value in before.items():
        jax.config.update(name, value)
    compilation_cache.reset_cache()


@pytest.fixture(scope="session")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that all test processes of this session share."""
    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "train"
    folder.mkdir(exist_ok=True)
    return folder


@pytest.fixture(scope="session")
def settings(shared: Path) -> Path:
    """The settings file of the tiny loop; give it after configs/taco.yaml."""
    with (shared / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        path = shared / "wee.yaml"
        return path if path.exists() else world.write_files(shared)


@pytest.fixture(scope="session")
def wee(shared: Path, settings: Path) -> Path:
    """The folder of the tiny loop's run, finished. Do not write there: copy it."""
    with (shared / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        run = shared / "runs" / "wee"
        if not (run / "summary.json").exists():
            done = world.finish(world.start(settings))
            assert done.status == 0, done.err
            (shared / "wee.out").write_text(done.out)
        return run


@pytest.fixture
def runs(tmp_path: Path, shared: Path) -> Path:
    """An empty folder for runs, with the shared store of what was compiled."""
    folder = tmp_path / "runs"
    folder.mkdir()
    (shared / "runs" / ".compiled").mkdir(parents=True, exist_ok=True)
    (folder / ".compiled").symlink_to(shared / "runs" / ".compiled")
    return folder
