"""What all tests share: JAX on the CPU and quiet, whatever the machine has."""

from __future__ import annotations

import gc
import os
import signal
from collections.abc import Iterator

# Before JAX is imported anywhere. Tests that need several devices start processes of their own.
os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import jax
import pytest

# Said before JAX meets its devices, which test modules do when they are collected: `Session.open` may say it again.
jax.config.update("jax_num_cpu_devices", 1)

# A shell's job in the background ignores Ctrl-C, and under nohup the end of its terminal; so would the processes that
# tests interrupt and hang up.
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGHUP, signal.SIG_DFL)


@pytest.fixture(autouse=True, scope="module")
def _forget_compiled() -> Iterator[None]:
    """A process may map 65,530 pieces of memory; all that the tests compile takes more, and XLA then crashes."""
    yield
    jax.clear_caches()
    gc.collect()
