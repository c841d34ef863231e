"""Trees from O1-CODER's answer sheets, records from its reward-model examples, and back.

    python -m search.convert SHEETS --to trees -o OUT [--preset o1coder]           OUT/trees.jsonl and the rest
    python -m search.convert EXAMPLES.json --to records -o OUT                     OUT/process.jsonl
    python -m search.convert TREES.jsonl --to records -o OUT [--margin 0.1]        OUT/{process,pairs}.jsonl
    python -m search.convert TREES.jsonl --to o1coder -o FOLDER [--problems FILE]  answer sheets
    python -m search.convert TREES.jsonl --to prm -o FILE [--labels hard]          examples

Values of sheets are Q / N for every step; `--preset o1coder` gives them as the published exporter wrote them, which
divides a program's single reward by its visits.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from o1coder_jax.errors import UserError, run_command
from o1coder_jax.records import read_problems, write_jsonl
from search.examples import examples, read_examples
from search.harvest import Provenance
from search.sheets import read_sheets, write_sheet
from search.store import StoredTree, read_trees, records_and_pairs


def from_sheets(folder: Path, out: Path, *, published: bool, margin: float) -> None:
    """Reads answer sheets into trees, records, pairs, and the problems of those that have an answer file."""
    provenance = Provenance(f"o1coder:{folder.name}", 0, "", "", search={"preset": "o1coder" if published else "own"})
    sheets = list(read_sheets(folder))
    trees = [StoredTree(sheet.tree(published=published), provenance) for sheet in sheets]
    problems = [stored.tree.problem for stored in trees if stored.tree.problem.tests]
    _write(out, "trees", trees)
    _write(out, "problems", problems)
    _write_records(trees, out, margin)
    if different := sum(sheet.differences() for sheet in sheets):
        print(f"{different} steps have another value on record than their rollouts give under the published rule")


def from_examples(path: Path, out: Path) -> None:
    """Reads reward-model examples into records."""
    _write(out, "process", read_examples(path))


def to_sheets(trees: Iterable[StoredTree], out: Path, problems: Path | None) -> None:
    """Writes answer sheets, with answer files for the problems that are known."""
    known = {problem.id: problem for problem in read_problems(problems)} if problems else {}
    out.mkdir(parents=True, exist_ok=True)
    count = 0
    for stored in trees:
        write_sheet(out, stored.tree, known.get(stored.tree.problem.id))
        count += 1
    print(f"{out}: the answer sheets of {count} trees")


def _write_records(trees: Iterable[StoredTree], out: Path, margin: float) -> None:
    records, pairs = records_and_pairs(trees, margin)
    _write(out, "process", records)
    _write(out, "pairs", pairs)


def _write(out: Path, name: str, rows: Iterable[Any]) -> None:
    out.mkdir(parents=True, exist_ok=True)
    path = out / f"{name}.jsonl"
    print(f"{path}: {write_jsonl(path, rows)} rows")


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m search.convert", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("source", type=Path, help="a folder of answer sheets, a .json of examples, or a trees.jsonl")
    parser.add_argument("--to", required=True, choices=("trees", "records", "o1coder", "prm"))
    parser.add_argument("-o", "--output", type=Path, required=True)
    parser.add_argument("--preset", choices=("own", "o1coder"), default="own", help="how sheets are valued")
    parser.add_argument("--labels", choices=("soft", "hard"), default="soft", help="of examples that are written")
    parser.add_argument("--margin", type=float, default=0.1, help="between the values of a pair")
    parser.add_argument("--problems", type=Path, help="problems.jsonl, for answer files")
    arguments = parser.parse_args()
    source, out = arguments.source, arguments.output
    if not 0 <= arguments.margin <= 1:
        raise UserError(f"--margin is {arguments.margin}; it must lie in [0, 1]")
    if not source.exists():
        raise UserError(f"there is no {source}; give a folder of answer sheets, a .json of examples, or a trees.jsonl")
    if source.is_dir():
        if arguments.to != "trees":
            raise UserError(f"{source} is a folder of answer sheets, which become trees; give --to trees")
        from_sheets(source, out, published=arguments.preset == "o1coder", margin=arguments.margin)
    elif source.suffix == ".json":
        if arguments.to != "records":
            raise UserError(f"{source} holds examples, which become records; give --to records")
        from_examples(source, out)
    elif arguments.to == "records":
        _write_records(read_trees(source), out, arguments.margin)
    elif arguments.to == "o1coder":
        to_sheets(read_trees(source), out, arguments.problems)
    elif arguments.to == "prm":
        out.parent.mkdir(parents=True, exist_ok=True)
        rows = list(examples(read_trees(source), arguments.labels))
        write_jsonl(out, [rows])
        print(f"{out}: {len(rows)} examples")
    else:
        raise UserError(f"{source} holds trees already; give --to records, o1coder or prm")


if __name__ == "__main__":
    run_command(main)
