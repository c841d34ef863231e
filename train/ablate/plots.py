"""The figures of an ablation's report: every seed, and the mean."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from o1coder_jax.errors import UserError
from train.ablate.results import Found, rate

NO_MATPLOTLIB = "figures need matplotlib, which is not installed: pip install -e '.[ablate]'"
COLOURS = [f"C{i}" for i in range(10)]


def pyplot() -> Any:
    """matplotlib without a display; `NO_MATPLOTLIB` when there is none."""
    try:
        import matplotlib
    except ModuleNotFoundError as error:
        raise UserError(NO_MATPLOTLIB) from error
    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    return plt


def draw(found: Sequence[Found], folder: Path, *, resamples: int) -> list[tuple[str, str]]:
    """Draws what there is to draw; returns file names and captions."""
    plt = pyplot()
    folder.mkdir(parents=True, exist_ok=True)
    policies = [one for one in found if one.policies]
    searches = [one for one in found if one.searches]
    curves = [one for one in policies if any(len(one.points(seed)) > 1 for seed in one.results)]
    drawn = []
    for name, caption, some, paint in (
        ("policies.png", "Greedy pass@1 on held-out problems: every seed, mean and 95 %", policies, _policies),
        ("rounds.png", "Greedy pass@1 by generated tokens: every seed thin, mean thick", curves, _rounds),
        ("searches.png", "Hidden tests passed by tokens per problem: every seed thin, mean thick", searches, _searches),
    ):
        if some:
            figure, axes = plt.subplots(figsize=(8, max(3.0, 0.35 * len(some) + 1.5) if paint is _policies else 5))
            paint(axes, some, resamples)
            figure.tight_layout()
            figure.savefig(folder / name, dpi=100, metadata={"Software": None})
            plt.close(figure)
            drawn.append((name, caption))
    return drawn


def _policies(axes: Any, found: Sequence[Found], resamples: int) -> None:
    for row, one in enumerate(found):
        known = rate([one.last(seed).marks("greedy") for seed in sorted(one.results)], resamples=resamples)
        if known is not None:
            axes.plot(known.interval, [row, row], color="C0", linewidth=2)
            axes.plot(known.seeds, [row] * len(known.seeds), "o", color="C1", markersize=4)
            axes.plot([known.mean], [row], "|", color="C0", markersize=14, markeredgewidth=2)
    axes.set_yticks(range(len(found)), [one.name for one in found])
    axes.invert_yaxis()
    axes.set_xlabel("greedy pass@1")
    axes.grid(axis="x", alpha=0.3)


def _rounds(axes: Any, found: Sequence[Found], resamples: int) -> None:
    _curves(axes, found, "greedy")
    axes.set_xlabel("tokens generated")
    axes.set_ylabel("greedy pass@1")


def _searches(axes: Any, found: Sequence[Found], resamples: int) -> None:
    _curves(axes, found, "passed")
    axes.set_xlabel("tokens generated per problem")
    axes.set_ylabel("hidden tests passed")
    axes.set_xscale("log")


def _curves(axes: Any, found: Sequence[Found], measure: str) -> None:
    for number, one in enumerate(found):
        colour, style = COLOURS[number % 10], "-" if number < 10 else "--"
        lines = []
        for seed in sorted(one.results):
            points = [point for point in one.points(seed) if point.label != "end" and len(point.marks(measure))]
            if points:
                tokens = [point.costs["tokens"] for point in points]
                lines.append((tokens, [float(np.nanmean(point.marks(measure))) for point in points]))
                axes.plot(*lines[-1], style, color=colour, alpha=0.3, linewidth=1)
        whole = [line for line in lines if len(line[0]) == max(len(tokens) for tokens, _ in lines)]
        if whole:
            means = np.mean(whole, axis=0)
            axes.plot(*means, style, color=colour, linewidth=2.5, marker=".", label=one.name)
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8)
