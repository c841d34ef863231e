"""What a run ran on: versions, devices and the commit, written to its `environment.json`."""

from __future__ import annotations

import collections
import importlib.metadata
import platform
import subprocess
from pathlib import Path
from typing import Any

import jax

_PACKAGES = (
    "o1coder-jax jax jaxlib flax optax orbax-checkpoint numpy grain transformers tokenizers sentencepiece safetensors"
)

_WRITTEN = (":(exclude)docs", ":(exclude)benchmarks/results")


def describe() -> dict[str, Any]:
    """Versions, device kinds with their counts, processes and the git commit, as JSON values."""
    kinds = collections.Counter(device.device_kind for device in jax.devices())
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "packages": {name: _version(name) for name in _PACKAGES.split()},
        "backend": jax.default_backend(),
        "devices": dict(kinds),
        "processes": jax.process_count(),
        "commit": commit(Path(__file__).resolve().parent.parent),
    }


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None  # run from a checkout, or a package that this run does without


def commit(checkout: Path) -> str | None:
    """The checkout's commit, with a `+` where tracked files differ from it; None outside a checkout.

    Documents and kept results do not count: an ablation writes them, and they hold no code.
    """
    if not (checkout / ".git").exists():
        return None
    try:
        found = _git(checkout, "rev-parse", "HEAD")
        changed = _git(checkout, "status", "--porcelain", "--untracked-files=no", "--", ".", *_WRITTEN)
        return found + ("+" if changed else "")
    except (OSError, subprocess.SubprocessError):
        return None  # no git here: the commit is unknown, which is what None says


def _git(root: Path, *arguments: str) -> str:
    command = ["git", "-C", str(root), *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True, timeout=10).stdout.strip()
