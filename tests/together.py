"""Several processes of one module at a time, joined through a port of this machine."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent


def free_port() -> int:
    """A port that nobody listens at now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def all_ended(
    commands: Sequence[Sequence[str]], environment: Mapping[str, str], *, seconds: float
) -> list[tuple[int, str, str]]:
    """Status, stdout and stderr of modules (with their arguments) that run at the same time; none outlives this."""
    running = [
        subprocess.Popen(
            [sys.executable, "-m", *command],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, **environment},
        )
        for command in commands
    ]
    try:
        said = [process.communicate(timeout=seconds) for process in running]
    finally:
        for process in running:
            process.kill()
    return [(process.returncode, *texts) for process, texts in zip(running, said, strict=True)]


def printed(commands: Sequence[Sequence[str]], environment: Mapping[str, str]) -> list[dict[str, Any]]:
    """The JSON that each prints last; all must end well."""
    out = []
    for status, said, errors in all_ended(commands, environment, seconds=900):
        assert status == 0, errors[-3000:]
        out.append(json.loads(said.splitlines()[-1]))  # a library may say something before
    return out
