"""What all tests share: JAX on the CPU, quiet and reproducible, whatever the machine has."""

from __future__ import annotations

import os

# Before JAX is imported anywhere: tests must not depend on an accelerator. Two devices are not asked for here, since
# the tests of sharding start processes of their own.
os.environ.setdefault("JAX_PLATFORMS", "cpu")
# A test's arrays are small: more threads than cores only get in each other's way under `pytest -n 2`.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
