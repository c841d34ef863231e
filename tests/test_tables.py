"""Tables are whole, however narrow the terminal."""

from __future__ import annotations

import pytest

from train.tables import print_table


def test_no_cell_is_cut(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("COLUMNS", "30")
    print_table("A title", ["", "a long heading", "another"], [["a name that is long", "+0.123 [+0.001, +0.245]", "1"]])
    out = capsys.readouterr().out
    title, heads, row = (
        next(line for line in out.splitlines() if text in line) for text in ("A t", "long h", "a name")
    )
    assert title.strip() == "A title"
    assert "a long heading" in heads and heads.rstrip().endswith("another")
    assert "a name that is long" in row and "+0.123 [+0.001, +0.245]" in row and row.rstrip().endswith("1")
