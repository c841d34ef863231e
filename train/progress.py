"""Progress of a stage: a bar with rate and time left on a terminal, a plain line every few seconds elsewhere."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Iterator
from typing import Protocol

import rich.console
import rich.progress

_LINE_SECONDS = 15.0


class Progress(Protocol):
    """What `bar` hands out."""

    def advance(self, count: int = 1, note: str = "") -> None:
        """Tells of `count` more units done; `note` is shown beside the bar."""


@contextlib.contextmanager
def bar(total: int, description: str, *, silent: bool = False) -> Iterator[Progress]:
    """Shows the progress towards `total` units while the context lasts."""
    if silent:
        yield _Silent()
    elif sys.stdout.isatty():
        with _rich() as display:
            yield _Bar(display, display.add_task(description, total=total, note=""))
    else:
        lines = _Lines(total, description)
        yield lines
        lines.close()


def _rich() -> rich.progress.Progress:
    return rich.progress.Progress(
        rich.progress.TextColumn("{task.description}"),
        rich.progress.BarColumn(),
        rich.progress.MofNCompleteColumn(),
        _RateColumn(),
        rich.progress.TimeRemainingColumn(),
        rich.progress.TextColumn("{task.fields[note]}"),
        console=rich.console.Console(file=sys.stdout),
    )


class _RateColumn(rich.progress.ProgressColumn):
    def render(self, task: rich.progress.Task) -> rich.progress.Text:
        return rich.progress.Text(f"{task.speed:.3g}/s" if task.speed else "")


class _Silent:
    def advance(self, count: int = 1, note: str = "") -> None:
        """Every process but the first counts for itself."""


class _Bar:
    def __init__(self, display: rich.progress.Progress, task: rich.progress.TaskID):
        self._display, self._task = display, task

    def advance(self, count: int = 1, note: str = "") -> None:
        self._display.update(self._task, advance=count, note=note)


class _Lines:
    def __init__(self, total: int, description: str):
        self._total, self._description = total, description
        self._done, self._note = 0, ""
        self._said = -1
        self._began = self._shown = time.monotonic()

    def advance(self, count: int = 1, note: str = "") -> None:
        self._done, self._note = self._done + count, note
        if time.monotonic() - self._shown > _LINE_SECONDS:
            self.show()

    def show(self) -> None:
        """Prints `DESCRIPTION: DONE/TOTAL in SECONDS s, RATE/s, SECONDS s left, NOTE`."""
        self._shown, self._said = time.monotonic(), self._done
        elapsed = self._shown - self._began
        rate = self._done / max(elapsed, 1e-9)
        left = f", {(self._total - self._done) / rate:.0f} s left" if 0 < self._done < self._total else ""
        note = f", {self._note}" if self._note else ""
        done = f"{self._done}/{self._total} in {elapsed:.1f} s, {rate:.3g}/s"
        print(f"{self._description}: {done}{left}{note}", flush=True)

    def close(self) -> None:
        """Prints how it ended, unless the last line told it already."""
        if self._said != self._done:
            self.show()
