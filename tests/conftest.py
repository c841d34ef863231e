"""What all tests share: JAX on the CPU and quiet, whatever the machine has."""

from __future__ import annotations

import os

# Before JAX is imported anywhere. Tests that need several devices start processes of their own.
os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import jax

# Said before JAX meets its devices, which test modules do when they are collected: `Session.open` may say it again.
jax.config.update("jax_num_cpu_devices", 1)
