"""Run folders of an ablation: starting points, and cells as copies of them."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from train.run_files import writing
from train.run_stages import finished_stages

_LEFT = shutil.ignore_patterns("tensorboard", ".lock", "config.yaml", "underway", "summary.json", "*.part")


def fork(source: Path, target: Path) -> None:
    """Makes a run folder with all that another has finished; nothing is done where the target exists.

    The copy has no configuration, so that it may be opened with another one. Checkpoints are never written to again,
    so they are shared as hard links where the file system can.
    """
    if target.exists():
        return
    part = target.with_name(target.name + ".part")
    with writing(target):
        shutil.rmtree(part, ignore_errors=True)
        shutil.copytree(source, part, ignore=_LEFT, copy_function=_copied)
        part.rename(target)


def _copied(source: str, target: str) -> None:
    if "checkpoints" in Path(source).parts:
        try:
            os.link(source, target)
            return
        except OSError:  # another file system, or one without links
            pass
    shutil.copy2(source, target)


def is_done(folder: Path, stage: str) -> bool:
    """Whether a run folder has finished a stage."""
    return any(one.name == stage for one in finished_stages(folder))


def remove(folder: Path) -> None:
    """Removes a run folder."""
    with writing(folder):
        shutil.rmtree(folder, ignore_errors=True)
