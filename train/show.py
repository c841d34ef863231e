"""Looks into a run folder, finished or not, without holding it.

    python -m train.show runs/tiny

Prints the stages with their seconds, what they came to by iteration, the arrays of the checkpoints, and the summary.
"""

from __future__ import annotations

import argparse
import math
import re
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import rich.box
import rich.console
import rich.table

from o1coder_jax import checkpoint
from o1coder_jax.errors import UserError, run_command
from train.run import METRICS
from train.run_files import read_json, read_lines
from train.run_stages import FinishedStage, committed_sizes, finished_stages

_SHOWN_TEXTS = ("kept",)  # which generator, the old or the new one
_ITERATION = re.compile(r"(\d+)-(.+)")


def show(folder: Path, console: rich.console.Console) -> None:
    """Prints all there is to tell of a run; raises `UserError` when `folder` is none."""
    if not (folder / "config.yaml").exists():
        raise UserError(f"{folder} is no run folder: it has no config.yaml; give one such as runs/NAME")
    stages = finished_stages(folder)
    environment = read_json(folder / "environment.json") if (folder / "environment.json").exists() else {}
    console.print(f"[bold]{folder}[/bold]  {_environment_line(environment)}", highlight=False)
    console.print(_stage_table(folder, stages))
    if under_way := _last_metrics(folder):
        console.print(f"not finished: {_pairs(under_way)}", highlight=False)
    if any(_shown(stage) for stage in stages):
        console.print(_metric_table(stages))
    for path in sorted((folder / "checkpoints").glob("*")):
        _show_checkpoint(path, console)
    if (folder / "summary.json").exists():
        console.print(_two_columns("summary", _numbers(read_json(folder / "summary.json"), texts=True).items()))
    else:
        console.print("no summary yet: the run is not finished")


def _environment_line(environment: dict[str, Any]) -> str:
    devices = ", ".join(f"{count} x {kind}" for kind, count in environment.get("devices", {}).items())
    commit = environment.get("commit")
    known = {"devices": devices, "commit": commit and commit[:10], "isolation": environment.get("isolation")}
    return ", ".join(f"{name} {value}" for name, value in known.items() if value)


def _stage_table(folder: Path, stages: list[FinishedStage]) -> rich.table.Table:
    table = _table("stage", "seconds", "lines of metrics")
    logged = Counter(row["stage"] for row in read_lines(folder / METRICS, committed_sizes(folder, 0).get(METRICS, 0)))
    for stage in stages:
        table.add_row(stage.name, f"{stage.seconds:.1f}", str(logged[stage.name]))
    table.add_section()
    table.add_row("all", f"{sum(stage.seconds for stage in stages):.1f}", str(sum(logged.values())))
    return table


def _last_metrics(folder: Path) -> dict[str, Any] | None:
    """The last whole line that a stage under way, or one that was stopped, logged."""
    path, committed = folder / METRICS, committed_sizes(folder, 0).get(METRICS, 0)
    if not path.exists():
        return None
    with path.open("rb") as file:
        file.seek(committed)
        whole = file.read().rpartition(b"\n")[0]
    if not whole:
        return None
    size = committed + len(whole) + 1
    return list(read_lines(path, size))[-1]


def _metric_table(stages: list[FinishedStage]) -> rich.table.Table:
    """Results by iteration: a stage `001-sft` adds rows `sft.*` to column `001`, any other stands under `start`."""
    columns: dict[str, dict[str, Any]] = {}
    for stage in stages:
        match = _ITERATION.fullmatch(stage.name)
        column, kind = match.groups() if match else ("start", stage.name)
        columns.setdefault(column, {}).update({f"{kind}.{name}": value for name, value in _shown(stage).items()})
    table = _table("result", *columns)
    for name in dict.fromkeys(name for column in columns.values() for name in column):
        table.add_row(name, *(_text(column[name]) if name in column else "" for column in columns.values()))
    return table


def _show_checkpoint(path: Path, console: rich.console.Console) -> None:
    try:
        arrays, facts = checkpoint.describe(path), checkpoint.metadata(path)
    except UserError as error:
        console.print(f"checkpoint {path.name}: {error}", highlight=False, markup=False)
        return
    count = sum(math.prod(array.shape) for array in arrays)
    console.print(f"[bold]checkpoint {path.name}[/bold]: {count:,} numbers; {_pairs(facts)}", highlight=False)
    table = _table("array", "shape", "dtype", "bytes", left=3)
    for array in arrays:
        table.add_row(array.name, " x ".join(map(str, array.shape)) or "scalar", array.dtype, f"{array.size_bytes:,}")
    table.add_section()
    table.add_row("all", "", "", f"{sum(array.size_bytes for array in arrays):,}")
    console.print(table)


def _shown(stage: FinishedStage) -> dict[str, Any]:
    """Of a stage's result the numbers, and a few texts."""
    return _numbers(stage.result) | {name: stage.result[name] for name in _SHOWN_TEXTS if name in stage.result}


def _numbers(result: dict[str, Any], prefix: str = "", *, texts: bool = False) -> dict[str, Any]:
    """The numbers in nested JSON objects, by dotted name; lists are left out."""
    found: dict[str, Any] = {}
    for name, value in result.items():
        if isinstance(value, dict):
            found |= _numbers(value, f"{prefix}{name}.", texts=texts)
        elif value is None or isinstance(value, int | float) or (texts and isinstance(value, str)):
            found[prefix + name] = value
    return found


def _text(value: Any) -> str:
    if value is None:
        return "-"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _pairs(values: dict[str, Any]) -> str:
    return ", ".join(f"{name} {_text(value)}" for name, value in values.items())


def _two_columns(title: str, rows: Iterable[tuple[str, Any]]) -> rich.table.Table:
    table = _table(title, "")
    for name, value in rows:
        table.add_row(name, _text(value))
    return table


def _table(*columns: str, left: int = 1) -> rich.table.Table:
    """A table with numbers to the right in all columns but the first `left`."""
    table = rich.table.Table(box=rich.box.SIMPLE_HEAD)
    for number, name in enumerate(columns):
        table.add_column(name, justify="left" if number < left else "right", overflow="fold")
    return table


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(prog="python -m train.show", description="Looks into a run folder.")
    parser.add_argument("folder", type=Path, help="such as runs/tiny")
    show(parser.parse_args().folder, rich.console.Console())


if __name__ == "__main__":
    run_command(main)
