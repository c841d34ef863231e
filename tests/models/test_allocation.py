"""Memory that is freed and taken again costs no page faults; objects that stay are seldom looked through."""

from __future__ import annotations

import subprocess
import sys

import pytest

TAKEN_AGAIN = """
import resource, sys, threading
from o1coder_jax.allocation import keep_freed_memory

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(20):
        block = bytearray(64 * 2**20)
        del block
    found.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)

found = []
if not keep_freed_memory():
    sys.exit(5)
for _ in range(2):  # as a library's threads do it, not the first one
    thread = threading.Thread(target=faults)
    thread.start()
    thread.join()
print(found[1])
"""
PAGE_BYTES = 4096

COLLECTIONS = """
import gc
from o1coder_jax.mesh import MeshConfig, prepare_cpu

prepare_cpu(MeshConfig())
runs = []
gc.callbacks.append(lambda phase, facts: runs.append(phase))
kept = [[i] for i in range(200_000)]
print(runs.count("start"))
"""


def test_a_block_that_is_freed_is_taken_again_without_page_faults() -> None:
    ran = subprocess.run([sys.executable, "-c", TAKEN_AGAIN], capture_output=True, text=True, check=False)
    if ran.returncode == 5:
        pytest.skip("this system's allocator has no such settings")
    assert ran.returncode == 0, ran.stderr
    assert int(ran.stdout) < 20 * 64 * 2**20 / PAGE_BYTES / 10


def test_objects_that_stay_are_seldom_looked_through() -> None:
    """By default Python would do it about 280 times."""
    ran = subprocess.run([sys.executable, "-c", COLLECTIONS], capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    assert 1 <= int(ran.stdout) <= 10
