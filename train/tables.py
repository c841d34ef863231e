"""Tables for the terminal, whole also where nobody says how wide it is."""

from __future__ import annotations

from collections.abc import Sequence

import rich.box
import rich.console
import rich.table


def print_table(title: str, head: Sequence[str], lines: Sequence[Sequence[str]]) -> None:
    """Prints cells as they are; a line that is longer than the terminal's is not cut."""
    table = rich.table.Table(title=title, title_justify="left", box=rich.box.SIMPLE_HEAD)
    for column in head:
        table.add_column(column, justify="right" if column else "left", no_wrap=True)
    for line in lines:
        table.add_row(*line)
    needed = rich.console.Console(width=1000).measure(table).maximum
    rich.console.Console(width=max(rich.console.Console().width, needed)).print(table)
