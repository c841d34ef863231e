"""Tiny searches spend their time in the compiler: tests ask it not to optimise."""

from __future__ import annotations

import os

FLAGS = "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true"
os.environ.setdefault("XLA_FLAGS", FLAGS)  # read when JAX meets its devices
