"""What an ablation consists of: cells as data, comparisons between them."""

from __future__ import annotations

import dataclasses
import functools
import itertools
import json
from dataclasses import dataclass, field
from typing import Any

import yaml

from o1coder_jax.config import parse, to_dict
from o1coder_jax.errors import UserError
from o1coder_jax.records import content_hash
from search.comparison import flat
from train.config import Config

FORMAT = 1
"""Of a result. A new number makes all results old, hours of them: raise it where a default of the configuration
changes, since a key holds no defaults, or where results of before should not stand beside new ones (other problems). A
change of what the same settings come to that leaves it alone is told by the commit that each result names, and in the
notes."""
STARTS = ("bootstrap", "tcg", "001-search", "001-sft", "001-prm")
"""What cells may begin from: a run with the stages up to this one."""
SECTIONS = {
    "bootstrap": ("seed", "problems", "tokenizer", "model", "policy", "bootstrap", "generation"),
    "tcg": ("tcg",),
    "001-search": ("search", "drawing", "labels"),
    "001-sft": ("sft",),
    "001-prm": ("prm",),
}
"""The parts of a configuration that decide what each of these stages comes to, beside those of the stages before."""
EARLY = {"tcg": ("template", "trace", "split_values", "checkpoint"), "prm": ("checkpoint",)}
"""Those of later parts that the bootstrap depends on: it fits the vocabulary to tests as they are written, and takes
models over."""
LATER = ("iterations", "rl", "evaluate", "rivals", "stopping")
"""Those that decide nothing before a cell begins."""
NO_MATTER = ("name", "runs", "checkpoint_every", "sandbox", "distributed", "mesh")
MATTER: dict[str, tuple[str, ...] | None] = {
    "loop": None,
    "rival": None,
    "rl": ("rl", "evaluate"),  # what is measured is drawn `evaluate.samples` at a time
    "measure": ("evaluate",),
    "search": ("search",),
    "prm": (),
    "tcg": (),
}
"""What cells do, and the parts of a configuration that matter to it beside those of the starting point; None: all."""
ALONE: dict[str, tuple[str, ...]] = {"search": ("search",)}
"""Parts that a cell sets for what it does and not for its starting point: methods of search meet the same policy."""


@dataclass(frozen=True)
class Cell:
    """One cell.

    Attributes:
      title: a line for the report.
      procedure: what is done, see `train/ablate/procedures.py`.
      start: which stages of the loop it finds done, one of `STARTS`.
      settings: of the run, beyond those of the ablation; nested keys.
      options: of the procedure.
      equal_to: the cell whose costs this one may spend, for the same seed.
      base: a file in place of the ablation's `base` and `settings`; empty: those.
      limit_seconds: where it is more than the ablation's, in place of that.
    """

    title: str
    procedure: str
    start: str = "tcg"
    settings: dict[str, Any] = field(default_factory=dict)
    options: dict[str, Any] = field(default_factory=dict)
    equal_to: str = ""
    base: str = ""
    limit_seconds: int = 0


@dataclass(frozen=True)
class Comparison:
    """A claim: one cell is better than another.

    Attributes:
      better, than: names of cells.
      measure: `greedy`, `pass@1`, `pass@8`; for searches `passed`, `solved`; for a generator `validity`, `kill_rate`.
      title: the claim in words.
      primary: the one that all this is for; it is tested by itself, the others together (Holm).
      budgets: at the `last` one, or of two searches at `all`, where a problem's mark is the mean over them.
    """

    better: str
    than: str
    measure: str = "greedy"
    title: str = ""
    primary: bool = False
    budgets: str = "last"

    @property
    def measured(self) -> str:
        """The measure in words."""
        return self.measure if self.budgets == "last" else f"{self.measure}, all budgets"


@dataclass(frozen=True)
class Target:
    """A bound that a cell's figure shall keep, by its mean over seeds: one of `at_least` and `at_most`.

    Attributes:
      cell: its name.
      measure: as in a `Comparison`, any figure, or a cost such as `seconds`.
      difficulty: problems of these alone; empty: of all.
      cores: results that were made on so many cores alone, starting points included where it is known; 0: all.
      title: the target in words.
    """

    cell: str
    measure: str
    at_least: float | None = None
    at_most: float | None = None
    difficulty: tuple[str, ...] = ()
    cores: int = 0
    title: str = ""


@dataclass(frozen=True)
class AblateConfig:
    """An ablation.

    Attributes:
      base: the file that all runs are configured by; `settings` are laid over it, nested keys.
      cells: by name, the fields of a `Cell`; `like` names an earlier cell whose fields it has but for its own;
        keys of `settings` and `options` are laid over that one's.
      comparisons: each the fields of a `Comparison`.
      targets: each the fields of a `Target`.
      notes: lines for the report, what its tables do not tell.
      first_seed: the first of the seeds.
      samples: answers to a held-out problem beside the greedy one, for pass@k.
      sampled_problems: held-out problems that get them, the first so many; 0: all.
      limit_seconds: of a cell, wall clock; what is done by then is kept, and the next call goes on from there.
      start_limit_seconds: of a starting point.
      resamples: of the bootstrap.
      runs: folder of run folders; those of starting points stay, those of finished cells are removed.
      results: folder of results, CELL/seed-N.json.
      document: the file that is written; its figures lie in a folder of the same name without ending.
    """

    base: str
    cells: dict[str, dict[str, Any]]
    comparisons: list[dict[str, Any]] = field(default_factory=list)
    targets: list[dict[str, Any]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    settings: dict[str, Any] = field(default_factory=dict)
    first_seed: int = 0
    samples: int = 8
    sampled_problems: int = 0
    limit_seconds: int = 180
    start_limit_seconds: int = 900
    resamples: int = 10_000
    runs: str = "runs/ablate"
    results: str = "benchmarks/results/ablate"
    document: str = "docs/results.md"

    def __post_init__(self) -> None:
        for name in ("samples", "limit_seconds", "start_limit_seconds", "resamples"):
            if getattr(self, name) < 1:
                raise UserError(f"{name} is {getattr(self, name)}; it must be at least 1")
        for name in ("first_seed", "sampled_problems"):
            if getattr(self, name) < 0:
                raise UserError(f"{name} is {getattr(self, name)}; it must not be negative")
        if not self.cells:
            raise UserError("cells is empty; name at least one cell")
        cells = self.all_cells()
        for name, cell in cells.items():
            if cell.procedure not in MATTER:
                raise UserError(f"cells.{name}: procedure is {cell.procedure!r}; choose one of {', '.join(MATTER)}")
            if cell.start not in STARTS:
                raise UserError(f"cells.{name}: start is {cell.start!r}; choose one of {', '.join(STARTS)}")
            if cell.limit_seconds < 0:
                raise UserError(f"cells.{name}: limit_seconds is {cell.limit_seconds}; it must not be negative")
            if cell.equal_to and cell.equal_to not in list(cells)[: list(cells).index(name)]:
                raise UserError(f"cells.{name}: equal_to is {cell.equal_to!r}; name a cell that stands before it")
        for one in self.all_comparisons():
            if one.budgets not in ("last", "all"):
                raise UserError(f"comparisons: budgets is {one.budgets!r}; use last or all")
            for name in (one.better, one.than):
                if name not in cells:
                    raise UserError(f"comparisons: there is no cell {name!r}")
                if one.budgets == "all" and cells[name].procedure != "search":
                    raise UserError(f"comparisons: budgets is all, but {name} is no search; leave it out")
            first, other = (cells[name].options.get("rollouts") for name in (one.better, one.than))
            if one.budgets == "all" and first != other:
                raise UserError(
                    f"comparisons: budgets is all; give {one.better} and {one.than} the same options.rollouts"
                )
        for number, target in enumerate(self.all_targets(), 1):
            if target.cell not in cells:
                raise UserError(f"targets: there is no cell {target.cell!r}")
            if (target.at_least is None) == (target.at_most is None):
                raise UserError(f"targets, entry {number}: give at_least or at_most")
            if target.cores < 0:
                raise UserError(f"targets, entry {number}: cores is {target.cores}; it must not be negative")

    def all_cells(self) -> dict[str, Cell]:
        """The cells by name, in order."""
        made: dict[str, Cell] = {}
        for name, values in self.cells.items():
            own = {key: value for key, value in values.items() if key != "like"}
            if (like := values.get("like")) is not None:
                if not isinstance(like, str) or like not in made:
                    raise UserError(f"cells.{name}: like is {like!r}; name a cell that stands before it")
                own = _laid_over(made[like], own)
            made[name] = _made(Cell, own, f"cells.{name}")
        return made

    def all_comparisons(self) -> list[Comparison]:
        return [_made(Comparison, values, f"comparisons, entry {i + 1}") for i, values in enumerate(self.comparisons)]

    def all_targets(self) -> list[Target]:
        return [_made(Target, values, f"targets, entry {i + 1}") for i, values in enumerate(self.targets)]

    def start_config(self, cell: Cell, config: Config, where: str) -> Config:
        """The configuration of a cell's starting point, from that of its run."""
        usual = self.run_config(dataclasses.replace(cell, settings={}), where)
        return dataclasses.replace(config, **{name: getattr(usual, name) for name in ALONE.get(cell.procedure, ())})

    def run_config(self, cell: Cell, where: str) -> Config:
        """The configuration of a cell's run; a `UserError` in one line names the cell and the key that is wrong."""
        settings = flat({} if cell.base else self.settings) | flat(cell.settings)
        flags = [f"--{key}={value if isinstance(value, str) else json.dumps(value)}" for key, value in settings.items()]
        try:
            return _parsed(("--config", cell.base or self.base, *flags, "--runs", self.runs))
        except UserError as error:
            raise UserError(f"{where}: {error}") from error


WANTED: dict[str, Any] = {
    "dict[str, Any]": dict,
    "bool": bool,
    "int": int,
    "float | None": (int, float),
    "tuple[str, ...]": list,
}
SAID = {dict: "keys", bool: "bool", int: "int", (int, float): "a number", list: "a list"}
"""What a field of a cell, comparison or target takes, and how that is said."""


@functools.cache
def _parsed(arguments: tuple[str, ...]) -> Config:
    """A run's configuration; many cells have the same."""
    return parse(Config, list(arguments))


def _laid_over(cell: Cell, values: dict[str, Any]) -> dict[str, Any]:
    """The fields of a cell that is like another one but for these."""
    merged = {**vars(cell), **values}
    if isinstance(own := merged["settings"], dict):
        merged["settings"] = flat(cell.settings) | flat(own)
    if isinstance(own := merged["options"], dict):
        merged["options"] = cell.options | own
    return merged


def _made(cls: Any, values: dict[str, Any], where: str) -> Any:
    """A dataclass from plain values."""
    fields = {one.name: one for one in dataclasses.fields(cls)}
    if unknown := [name for name in values if name not in fields]:
        raise UserError(f"{where}: unknown key {unknown[0]}; known here: {', '.join(fields)}")
    needed = [
        name
        for name, one in fields.items()
        if one.default is dataclasses.MISSING and one.default_factory is dataclasses.MISSING
    ]
    if missing := [name for name in needed if name not in values]:
        raise UserError(f"{where}: {missing[0]} is not given")
    for name, value in values.items():
        wanted = WANTED.get(str(fields[name].type), str)
        if not isinstance(value, wanted) or (wanted is not bool and isinstance(value, bool)):
            shown = yaml.safe_dump(value).splitlines()[0]
            raise UserError(f"{where}: {name} is {shown}; expected {SAID.get(wanted, 'str')}")
    return cls(**values)


def start_key(config: Config, stage: str) -> str:
    """Identifies a starting point by all that it depends on."""
    return content_hash(FORMAT, stage, _deciding(_chosen(config), stage))


def _deciding(values: dict[str, Any], stage: str) -> dict[str, Any]:
    """Of the chosen settings those that decide what the stages up to this one come to."""
    names = itertools.chain.from_iterable(SECTIONS[one] for one in STARTS[: STARTS.index(stage) + 1])
    found = {name: values[name] for name in names if name in values}
    early = {
        part: {name: value for name, value in values[part].items() if name in EARLY[part]}
        for part in EARLY.keys() & values.keys() - found.keys()
    }
    return {part: own for part, own in early.items() if own} | found


def _chosen(config: Config) -> dict[str, Any]:
    """The settings that are not left at their defaults, so that a key that comes to the configuration makes no result
    old."""
    return _different(to_dict(config), to_dict(Config()))


def _different(values: dict[str, Any], defaults: dict[str, Any]) -> dict[str, Any]:
    """The values that are not their defaults, nested as they are."""
    found: dict[str, Any] = {}
    for name, value in values.items():
        usual = defaults.get(name)
        if isinstance(value, dict) and isinstance(usual, dict):
            value, usual = _different(value, usual), {}
        if value != usual:
            found[name] = value
    return found


def cell_key(
    cell: Cell, config: Config, start: Config, *, samples: int, sampled_problems: int = 0, equal_to: str = ""
) -> str:
    """Identifies what a cell comes to for a seed; `start` is the configuration of its starting point, `equal_to` the
    key of the cell whose costs it may spend."""
    own, alone = _chosen(config), ALONE.get(cell.procedure, ())
    values = {name: value for name, value in own.items() if name not in (*NO_MATTER, *alone)}
    values |= {name: value for name, value in _chosen(start).items() if name in alone}
    if (matter := MATTER[cell.procedure]) is not None:
        values = {name: value for name, value in values.items() if name in matter} | _deciding(values, cell.start)
    mine = [{name: own.get(name, {}) for name in alone}] if alone else []
    if sampled_problems:
        mine.append({"sampled_problems": sampled_problems})
    return content_hash(FORMAT, cell.procedure, cell.start, cell.options, values, samples, equal_to, *mine)
