"""Runs the cells of an ablation that are missing, and writes the report.

    python -m train.ablate --config configs/ablate.yaml --seeds 5
    python -m train.ablate --config configs/ablate.yaml --seeds 5 --report     # only writes what is there

Starting points (the bootstrap, the generator, the first trees, ...) are made once per seed and shared by a hash of all
that they depend on. Each cell runs in a process of its own with a time limit, writes one file, and is never run twice;
the command may be interrupted and given again. Plots need matplotlib: `pip install -e '.[ablate]'`.
"""

from __future__ import annotations

from o1coder_jax.config import Flag, parse_with_flags
from o1coder_jax.errors import UserError, run_command
from train.ablate.config import AblateConfig
from train.ablate.report import write_report
from train.ablate.runner import Runner, plan


def main() -> None:
    flags = {
        "seeds": Flag(int, 1, "how many seeds, from first_seed on"),
        "only": Flag(str, "", "only these cells, as a,b, and those whose costs they may spend"),
        "jobs": Flag(int, 1, "cells at once, each on its share of the cores"),
        "report": Flag(bool, False, "run nothing, write the report"),
    }
    title = (__doc__ or "").split("\n")[0]
    ablation, options = parse_with_flags(AblateConfig, None, flags, prog="python -m train.ablate", description=title)
    if options["seeds"] < 1:
        raise UserError(f"--seeds is {options['seeds']}; give at least 1")
    planned = plan(ablation, options["seeds"])
    wanted = _wanted(ablation, options["only"])
    if not options["report"]:
        with Runner(ablation, planned, options["jobs"]) as runner:
            for line in runner.run_all([one for one in planned if one.name in wanted]):
                print(line, flush=True)
    for line in write_report(ablation, planned):
        print(line)


def _wanted(ablation: AblateConfig, only: str) -> set[str]:
    """The cells that are asked for, with those that they need."""
    cells = ablation.all_cells()
    names = {name for name in only.split(",") if name} or set(cells)
    if unknown := sorted(names - set(cells)):
        raise UserError(f"--only names {unknown[0]}, which is no cell; there are {', '.join(cells)}")
    for name in reversed(cells):
        if name in names and cells[name].equal_to:
            names.add(cells[name].equal_to)
    return names


if __name__ == "__main__":
    run_command(main)
