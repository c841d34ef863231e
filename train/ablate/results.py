"""What the results of an ablation say: figures of cells, and differences between them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from jaxtyping import Float

from o1coder_jax.significance import Difference, difference, holm, two_level_interval, two_level_ratio_interval
from train.ablate.config import STARTS, Comparison, Target, start_key
from train.ablate.points import Point
from train.ablate.runner import Planned
from train.config import Config

Marks = Float[np.ndarray, " n"]
COSTS = ("tokens", "executions", "updates", "seconds")
LEVEL = 0.05


@dataclass(frozen=True)
class Found:
    """The results of one cell, by seed, and the configuration of its starting points."""

    name: str
    title: str
    results: dict[int, dict[str, Any]]
    start: Config = field(default_factory=Config)

    def points(self, seed: int) -> list[Point]:
        return [Point(**point) for point in self.results[seed]["points"]]

    def last(self, seed: int) -> Point:
        """What the cell came to."""
        return self.points(seed)[-1]

    def at(self, seed: int, budgets: str) -> list[Point]:
        """The points that a comparison asks for, see `Comparison`."""
        return self.points(seed) if budgets == "all" else [self.last(seed)]

    def cores(self, seed: int) -> set[int]:
        """On how many cores it was made, and what it began from where that was written down: mostly one number."""
        found = self.results[seed]
        return {found["cores"], *found.get("earlier_cores", ())}

    @property
    def searches(self) -> bool:
        """Whether it is a method of search."""
        return any(self.last(seed).outcomes for seed in self.results)

    @property
    def policies(self) -> bool:
        """Whether it is a policy."""
        return any(self.last(seed).fared for seed in self.results)


@dataclass(frozen=True)
class Rate:
    """A rate: its mean over seeds, that of each seed, and 95 % over resampled seeds and problems."""

    mean: float
    seeds: tuple[float, ...]
    interval: tuple[float, float]


@dataclass(frozen=True)
class Judged:
    """A comparison and what was found; None where no seed has both cells.

    Attributes:
      apart: by seed, the first stage that both cells began with and that did not come to the same weights.
      costs: those of the better cell over those of the other one, by name, where both have any.
    """

    comparison: Comparison
    difference: Difference | None
    adjusted: float | None
    apart: dict[int, str] = field(default_factory=dict)
    costs: dict[str, float] = field(default_factory=dict)

    @property
    def verdict(self) -> str:
        """What is shown: both tests have to say so, the corrected one of seeds and problems and that of seeds alone."""
        assert self.difference is not None and self.adjusted is not None
        low, high = self.difference.interval
        doubtful = self.difference.seeds_p is not None and self.difference.seeds_p >= LEVEL
        if self.adjusted >= LEVEL or doubtful or low <= 0 <= high:
            return "not shown"
        return "holds" if low > 0 else "does not hold: the other is better"


@dataclass(frozen=True)
class Met:
    """A target, the figure as it was found (None: not yet), and whether its mean reaches it."""

    target: Target
    rate: Rate | None

    @property
    def reached(self) -> bool:
        if self.rate is None:
            return False
        low, high = self.target.at_least, self.target.at_most
        return (low is None or self.rate.mean >= low) and (high is None or self.rate.mean <= high)


def collect(planned: Sequence[Planned]) -> list[Found]:
    """The cells with the results that are there."""
    names = dict.fromkeys(one.name for one in planned)
    return [
        Found(
            name,
            next(one.cell.title for one in planned if one.name == name),
            {one.seed: result for one in planned if one.name == name and (result := one.result()) is not None},
            next(one.start for one in planned if one.name == name),
        )
        for name in names
    ]


def rate(values: Sequence[Marks], *, resamples: int) -> Rate | None:
    """The rate over seeds of marks by problem; None when no seed has any."""
    known = [marks for one in values if len(marks := one[~np.isnan(one)])]
    if not known:
        return None
    seeds = tuple(float(one.mean()) for one in known)
    return Rate(float(np.mean(seeds)), seeds, two_level_interval(known, seed=0, resamples=resamples))


def rate_of(points: Sequence[Point], measure: str, *, resamples: int) -> Rate | None:
    """The rate of a measure over the points of seeds, one each; of shares the counts over what they are of."""
    if not points or any(measure not in point.shares for point in points):
        return rate([point.marks(measure) for point in points], resamples=resamples)
    counts, of = ([np.array(p.shares[measure][part], float) for p in points] for part in ("counts", "of"))
    seeds = tuple(float(one.sum() / max(total.sum(), 1.0)) for one, total in zip(counts, of, strict=True))
    return Rate(float(np.mean(seeds)), seeds, two_level_ratio_interval(counts, of, seed=0, resamples=resamples))


def compare(found: Sequence[Found], comparisons: Sequence[Comparison], *, resamples: int) -> list[Judged]:
    """Differences, paired by seed and problem; all but the primary one are corrected together."""
    cells = {one.name: one for one in found}
    differences = [_difference(cells[one.better], cells[one.than], one, resamples) for one in comparisons]
    family = [i for i, one in enumerate(comparisons) if not one.primary and differences[i] is not None]
    adjusted = dict(zip(family, holm([_p(differences[i]) for i in family]), strict=True))
    return [
        Judged(
            one,
            differences[i],
            adjusted.get(i, None if differences[i] is None else _p(differences[i])),
            _apart(cells[one.better], cells[one.than]),
            _costs(cells[one.better], cells[one.than], one.budgets),
        )
        for i, one in enumerate(comparisons)
    ]


def meet(found: Sequence[Found], targets: Sequence[Target], *, resamples: int) -> list[Met]:
    """Targets against the last points of their cells; `seconds` and other costs have one value a seed."""
    cells = {one.name: one for one in found}
    out = []
    for target in targets:
        cell = cells[target.cell]
        seeds = [seed for seed in sorted(cell.results) if not target.cores or cell.cores(seed) == {target.cores}]
        points = [cell.last(seed) for seed in seeds]
        if target.measure in COSTS:
            taken = [cost for point in points if (cost := point.costs[target.measure])]  # 0: it was not measured
            found_rate = rate([np.array([cost]) for cost in taken], resamples=resamples)
        elif target.difficulty:
            found_rate = rate([_chosen(cell, seed, target) for seed in seeds], resamples=resamples)
        else:
            found_rate = rate_of(points, target.measure, resamples=resamples)
        out.append(Met(target, found_rate))
    return out


def _apart(one: Found, other: Found) -> dict[int, str]:
    """By seed the first stage that both cells began with and whose weights are not the same to the bit. The bases are
    always compared; of later stages those that have the same settings, where another machine rounds sums differently,
    or a stage was done anew and not shared."""
    same = [stage for stage in STARTS if start_key(one.start, stage) == start_key(other.start, stage)]
    found = {}
    for seed in sorted(one.results.keys() & other.results.keys()):
        mine, its = (cell.results[seed].get("start", {}) for cell in (one, other))
        shared = [stage for stage in dict.fromkeys(("bootstrap", *same)) if stage in mine and stage in its]
        if differs := [stage for stage in shared if mine[stage] != its[stage]]:
            found[seed] = differs[0]
    return found


def _costs(better: Found, than: Found, budgets: str) -> dict[str, float]:
    """Ratios of what the two cells took, over the seeds for which both are known."""
    ratios = {}
    for name in ("tokens", "executions", "updates"):
        both = [
            [sum(point.costs.get(name, 0) for point in cell.at(seed, budgets)) for cell in (better, than)]
            for seed in better.results.keys() & than.results.keys()
        ]
        if known := [pair for pair in both if all(pair)]:
            ratios[name] = sum(mine for mine, _ in known) / sum(its for _, its in known)
    return ratios


def _chosen(cell: Found, seed: int, target: Target) -> Marks:
    """Marks of the problems of some difficulties."""
    marks = cell.last(seed).marks(target.measure)
    return marks[np.isin(cell.results[seed]["difficulty"][: len(marks)], target.difficulty)]


def _p(one: Difference | None) -> float:
    assert one is not None
    return one.p


def _marks(points: Sequence[Point], measure: str) -> Marks:
    """The mean of the points' marks by problem; empty where one has none."""
    every = [point.marks(measure) for point in points]
    return np.mean(every, axis=0) if len({len(marks) for marks in every}) == 1 else np.zeros(0)


def _difference(better: Found, than: Found, comparison: Comparison, resamples: int) -> Difference | None:
    values = []
    for seed in sorted(better.results.keys() & than.results.keys()):
        one, other = (_marks(cell.at(seed, comparison.budgets), comparison.measure) for cell in (better, than))
        if len(one) > 1 and len(one) == len(other):  # a figure without marks by problem says nothing of its noise
            gained = one - other
            if len(gained := gained[~np.isnan(gained)]):
                values.append(gained)
    return difference(values, seed=0, resamples=resamples) if values else None


def by_difficulty(found: Found, measure: str = "greedy") -> dict[str, float]:
    """The mean over seeds of a policy's rate for each difficulty."""
    rates: dict[str, list[float]] = {}
    for seed, result in found.results.items():
        marks = found.last(seed).marks(measure)
        names = np.array(result["difficulty"][: len(marks)])
        for name in sorted(set(names.tolist())):
            some = marks[names == name]
            some = some[~np.isnan(some)]
            if len(some):
                rates.setdefault(name, []).append(float(some.mean()))
    return {name: sum(values) / len(values) for name, values in sorted(rates.items())}


def mean_cost(found: Found, name: str) -> float:
    """The mean over seeds of what the cell took in the end."""
    return float(np.mean([found.last(seed).costs[name] for seed in found.results]))
