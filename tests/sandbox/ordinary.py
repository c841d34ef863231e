"""Runs a command as an ordinary user where the tests are run by root."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

USER = 65534
_PROJECT = Path(__file__).resolve().parents[2]
# In a mount namespace of its own: an empty folder that anyone may pass goes over the closed one ($1), and what is
# needed below that (the other arguments up to `--`) is put back at its place.
_OPEN_FOLDER = """
set -e
closed=$1; shift
mount --make-rprivate /
hidden=$(mktemp -d)
mount -t tmpfs -o mode=755 tmpfs "$hidden"
while [ "$1" != -- ]; do mkdir -p "$hidden/$1"; mount --bind "$1" "$hidden/$1"; shift; done
shift
mount --rbind "$hidden/$closed" "$closed"
umount -l "$hidden"; rmdir "$hidden"
exec "$@"
"""


def _closed_folder(path: Path) -> Path | None:
    """The uppermost folder above `path` that others may not pass."""
    return next((folder for folder in reversed(path.parents) if not folder.stat().st_mode & 0o001), None)


def run_as_ordinary_user(arguments: list[str], seconds: float) -> subprocess.CompletedProcess[str]:
    """Runs `python ARGUMENTS` as `USER`; skips the test where that cannot be had."""
    if os.geteuid() != 0:
        pytest.skip("the tests are run by an ordinary user already")
    needed = [Path(sys.base_prefix).resolve(), Path(sys.prefix).resolve(), _PROJECT]
    needed += [Path(entry).resolve() for entry in sys.path if Path(entry).is_dir()]
    lost = [path for path in dict.fromkeys(needed) if _closed_folder(path) is not None]
    closed = {_closed_folder(path) for path in lost}
    become = ["setpriv", f"--reuid={USER}", f"--regid={USER}", "--clear-groups", "--"]
    command = [*become, sys.executable, *arguments]
    if closed:
        command = ["sh", "-c", _OPEN_FOLDER, "sh", str(closed.pop()), *map(str, lost), "--", *command]
        command = ["unshare", "--mount", "--", *command]
    if closed:
        pytest.skip("the interpreter lies below several folders that an ordinary user may not pass")
    for tool in ("setpriv", *(("unshare", "mount", "umount") if lost else ())):
        if shutil.which(tool) is None:
            pytest.skip(f"becoming an ordinary user needs {tool} (util-linux)")
    reached = subprocess.run([*command[: -len(arguments)], "-c", "import sandbox.pool"], **_OPTIONS, check=False)  # type: ignore[call-overload]
    if reached.returncode != 0:
        reason = reached.stderr.strip().rpartition("\n")[2]
        pytest.skip(f"an ordinary user cannot run this interpreter here: {reason}")
    return subprocess.run(command, **_OPTIONS, timeout=seconds, check=False)  # type: ignore[call-overload, no-any-return]


_OPTIONS = {
    "capture_output": True,
    "text": True,
    "cwd": _PROJECT,
    "env": {"PATH": os.environ["PATH"], "LC_ALL": "C.UTF-8"},
}
