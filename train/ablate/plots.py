"""The figures of an ablation's report: every seed, the mean, and 95 %."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from o1coder_jax.errors import UserError
from train.ablate.results import Found, Judged, Marks, rate

NO_MATPLOTLIB = "figures need matplotlib, which is not installed: pip install -e '.[ablate]'"
COLOURS = 20  # that matplotlib's tab20 has; further cells have broken lines
EVERY = "every seed thin, mean and 95 % thick"

Curve = list[tuple[float, Marks]]
"""Tokens and marks by problem, point by point."""


def pyplot() -> Any:
    """matplotlib without a display; `NO_MATPLOTLIB` when there is none."""
    try:
        import matplotlib
    except ModuleNotFoundError as error:
        raise UserError(NO_MATPLOTLIB) from error
    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    return plt


def draw(
    found: Sequence[Found], folder: Path, *, resamples: int, judged: Sequence[Judged] = ()
) -> list[tuple[str, str]]:
    """Draws what there is to draw; returns file names and captions."""
    folder.mkdir(parents=True, exist_ok=True)
    plt = pyplot()
    drawn: list[tuple[str, str]] = []

    def figure(name: str, caption: str, height: float, paint: Any, *arguments: Any) -> None:
        canvas, axes = plt.subplots(figsize=(8, height))
        paint(axes, *arguments)
        canvas.tight_layout()
        canvas.savefig(folder / name, dpi=100, metadata={"Software": None})
        plt.close(canvas)
        drawn.append((name, caption))

    claims = [one for one in judged if one.difference is not None]
    policies = [one for one in found if one.policies]
    several = [one for one in policies if any(len(one.points(seed)) > 1 for seed in one.results)]
    rounds = {one.name: lines for one in several if (lines := _rounds(one, policies))}
    searches = {one.name: _budgets(one) for one in found if one.searches}
    if claims:
        figure("claims.png", "Paired differences: every seed, mean and 95 %", _tall(claims), _claims, claims)
    if policies:
        caption = "Greedy pass@1 on held-out problems: every seed, mean and 95 %"
        figure("policies.png", caption, _tall(policies), _policies, policies, resamples)
    if rounds:
        caption = f"Greedy pass@1 by generated tokens, from the base on: {EVERY}"
        figure("rounds.png", caption, 7.0, _curves, rounds, ("tokens generated", "greedy pass@1"), resamples)
    if searches:
        caption = f"Hidden tests passed by tokens per problem: {EVERY}"
        names = ("tokens generated per problem", "hidden tests passed")
        figure("searches.png", caption, 7.0, _curves, searches, names, resamples)
    return drawn


def _tall(rows: Sequence[Any]) -> float:
    """Inches for so many rows."""
    return max(3.0, 0.3 * len(rows) + 1.5)


def _row(axes: Any, row: int, mean: float, seeds: Sequence[float], interval: tuple[float, float]) -> None:
    axes.plot(interval, [row, row], color="C0", linewidth=2)
    axes.plot(seeds, [row] * len(seeds), "o", color="C1", markersize=4)
    axes.plot([mean], [row], "|", color="C0", markersize=12, markeredgewidth=2)


def _named(axes: Any, names: Sequence[str], what: str) -> None:
    axes.set_yticks(range(len(names)), names, fontsize=8)
    axes.set_ylim(len(names) - 0.5, -0.5)
    axes.set_xlabel(what)
    axes.grid(axis="x", alpha=0.3)


def _claims(axes: Any, judged: Sequence[Judged]) -> None:
    axes.axvline(0.0, color="black", linewidth=1)
    axes.set_xscale("symlog", linthresh=0.1)  # most are below a tenth, a few above a half
    for row, one in enumerate(judged):
        assert one.difference is not None
        _row(axes, row, one.difference.mean, one.difference.seeds, one.difference.interval)
    pairs = [one.comparison for one in judged]
    _named(axes, [f"{one.better} - {one.than}, {one.measured}" for one in pairs], "difference")


def _policies(axes: Any, found: Sequence[Found], resamples: int) -> None:
    for row, one in enumerate(found):
        known = rate([one.last(seed).marks("greedy") for seed in sorted(one.results)], resamples=resamples)
        if known is not None:
            _row(axes, row, known.mean, known.seeds, known.interval)
    _named(axes, [one.name for one in found], "greedy pass@1")


def _rounds(one: Found, policies: Sequence[Found]) -> list[Curve]:
    """By seed, the rounds of a cell, after the base that it began with where that was measured."""
    lines = []
    for seed, result in sorted(one.results.items()):
        line = [
            (point.costs["tokens"], marks)
            for point in one.points(seed)
            if point.label != "end" and len(marks := point.marks("greedy"))
        ]
        base = result.get("start", {}).get("bootstrap")
        measured = [
            other.last(seed).marks("greedy")
            for other in policies
            if base and other.results.get(seed, {}).get("start") == {"bootstrap": base} and not _cost(other, seed)
        ]
        if line:
            lines.append([*((0.0, marks) for marks in measured[:1]), *line])
    return lines


def _cost(one: Found, seed: int) -> float:
    costs = one.last(seed).costs
    return costs["tokens"] + costs["updates"]


def _budgets(one: Found) -> list[Curve]:
    """By seed, a search at its budgets."""
    return [[(p.costs["tokens"], p.marks("passed")) for p in one.points(seed)] for seed in sorted(one.results)]


def _curves(axes: Any, cells: dict[str, list[Curve]], names: tuple[str, str], resamples: int) -> None:
    for number, (name, lines) in enumerate(cells.items()):
        look = {"color": f"C{number % 10}" if len(cells) <= 10 else pyplot().get_cmap("tab20")(number % COLOURS)}
        look |= {"linestyle": "-" if number < COLOURS else "--"}
        for line in lines:
            axes.plot([x for x, _ in line], [float(np.nanmean(marks)) for _, marks in line], **look, alpha=0.25)
        whole = [line for line in lines if len(line) == max(map(len, lines))]
        places = [[line[i] for line in whole] for i in range(len(whole[0]))]
        rates = [rate([marks for _, marks in place], resamples=resamples) for place in places]
        means = [one.mean if one else np.nan for one in rates]
        errors = [[abs(one.interval[end] - one.mean) if one else 0.0 for one in rates] for end in (0, 1)]
        tokens = [float(np.mean([x for x, _ in place])) for place in places]
        axes.errorbar(tokens, means, errors, **look, linewidth=2.5, elinewidth=1.2, capsize=3, label=name)
    axes.set_xlabel(names[0])
    axes.set_ylabel(names[1])
    axes.grid(alpha=0.3)
    axes.legend(fontsize=7, ncols=2)
