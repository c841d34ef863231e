"""What a run folder says is finished, and the rows that finished stages left: read without holding the folder."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from o1coder_jax.errors import UserError
from train.run_files import read_json, read_lines


@dataclasses.dataclass(frozen=True)
class FinishedStage:
    """A finished stage, as its file tells of it.

    Attributes:
      name: as `001-sft`.
      order: 0 for the run's first.
      seconds: of wall clock, from beginning to end.
      result: JSON values.
      sizes: of the record files in bytes, as the stage left them.
      processes: how many took part; what a process of a higher index holds of this name is of another attempt.
    """

    name: str
    order: int
    seconds: float
    result: dict[str, Any]
    sizes: dict[str, int]
    processes: int


def finished_stages(folder: Path) -> list[FinishedStage]:
    """The finished stages of a run folder (or of one host's part of it), in order."""
    stages = [_finished(path) for path in (folder / "stages").glob("*.json")]
    return sorted(stages, key=lambda stage: stage.order)


def _finished(path: Path) -> FinishedStage:
    try:
        return FinishedStage(**read_json(path))
    except TypeError as error:
        raise UserError(
            f"{path} tells of no stage ({error}); restore it, or remove it and do a stage before it --again"
        ) from error


def host_folder(folder: Path, process: int) -> Path:
    """Where a process keeps its own stages and records."""
    return folder if process == 0 else folder / "hosts" / f"{process:03d}"


def committed_sizes(folder: Path, process: int) -> dict[str, int]:
    """Bytes of each record file of a process that finished stages left; process 0 says which are finished."""
    stages = finished_stages(folder)
    if process:
        names = {stage.name for stage in stages if stage.processes > process}
        stages = [stage for stage in finished_stages(host_folder(folder, process)) if stage.name in names]
    return stages[-1].sizes if stages else {}


def read_records(folder: Path, name: str) -> Iterator[Any]:
    """The rows of a record file that finished stages left, on all hosts, host by host."""
    hosts = sorted(int(path.name) for path in (folder / "hosts").glob("*"))
    for process in [0, *hosts]:
        yield from read_lines(host_folder(folder, process) / name, committed_sizes(folder, process).get(name, 0))
