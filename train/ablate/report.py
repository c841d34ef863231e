"""The report of an ablation: a Markdown file of what there is, and of what is missing."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from o1coder_jax.errors import UserError
from train.ablate import plots
from train.ablate.config import AblateConfig
from train.ablate.results import (
    COSTS,
    Found,
    Judged,
    Met,
    Rate,
    by_difficulty,
    collect,
    compare,
    mean_cost,
    meet,
    rate,
    rate_of,
)
from train.ablate.runner import Planned
from train.run_files import write_text


def write_report(ablation: AblateConfig, planned: Sequence[Planned]) -> list[str]:
    """Writes the report and its figures from the results that are there; returns lines that say so."""
    path = Path(ablation.document)
    found = collect(planned)
    done = sum(len(one.results) for one in found)
    judged = compare(found, ablation.all_comparisons(), resamples=ablation.resamples)
    drawn, said = [], ""
    if done:
        try:
            drawn = plots.draw(found, path.with_suffix(""), resamples=ablation.resamples, judged=judged)
        except UserError as error:
            said = str(error)
    targets = meet(found, ablation.all_targets(), resamples=ablation.resamples)
    every = sorted({one.seed for one in planned})
    seeds = len(every)
    parts = [_head(ablation, found, every, done), _comparisons(judged, seeds), _targets(targets, seeds)]
    parts += [_notes(ablation.notes)]
    parts += [f"![{caption}]({path.stem}/{name})\n\n{caption}.\n" for name, caption in drawn]
    parts += [_policies(found, ablation.resamples), _lengths(found), _searches(found, ablation.resamples)]
    parts += [_models(found, ablation.resamples), _missing(found, every), _commits(found)]
    write_text(path, "\n".join(part for part in parts if part))
    lines = [f"{path}: {done} of {len(planned)} results, {len(drawn)} figures", said]
    return [line for line in lines if line]


def _head(ablation: AblateConfig, found: Sequence[Found], seeds: Sequence[int], done: int) -> str:
    limits = {name: cell.limit_seconds for name, cell in ablation.all_cells().items()}
    longer = ", ".join(f"{name} {limit} s" for name, limit in limits.items() if limit > ablation.limit_seconds)
    return (
        "# Results\n\n"
        "Written by `python -m train.ablate --config ... --seeds N --report` from the files in "
        f"`{ablation.results}/`; do not edit. What the cells are: docs/ablations.md.\n\n"
        f"{done} of {len(found) * len(seeds)} results (seeds {seeds[0]} to {seeds[-1]}). Intervals are 95 %, "
        "bootstrapped over seeds and problems (one seed: problems alone, which says nothing of other seeds); "
        "differences are paired by seed and problem. p is two-sided; the primary claim is tested by itself, the others "
        "are corrected together (Holm). Where seeds differ more than problems do such intervals are too narrow (of "
        "five seeds they cover 84 %), so `p by seeds` stands beside it, uncorrected: a t test of the seeds' "
        "differences alone, which knows nothing of problems. A claim holds where both are below 0.05; verdicts are "
        "given where all seeds are there. Ratios are tokens, executions and updates of the first cell over those of "
        "the other one.\n\n"
        f"A cell may take {ablation.limit_seconds} s before it is stopped and gone on with later"
        f"{f'; others: {longer}' if longer else ''}.\n"
    )


def _notes(notes: Sequence[str]) -> str:
    return "## Notes\n\n" + "".join(f"- {note}\n" for note in notes) if notes else ""


def _comparisons(judged: Sequence[Judged], seeds: int) -> str:
    if not judged:
        return ""
    rows = []
    for one in sorted(judged, key=lambda one: not one.comparison.primary):
        claim = one.comparison
        text = f"{claim.title or f'{claim.better} beats {claim.than}'} ({claim.better} - {claim.than})"
        text = f"**{text}**" if claim.primary else text
        if one.difference is None or one.adjusted is None:
            rows.append([text, claim.measured, "-", "-", "-", "-", "-", "not measured"])
            continue
        low, high = one.difference.interval
        few = f" ({len(one.difference.seeds)} of {seeds} seeds)" if len(one.difference.seeds) < seeds else ""
        rows.append(
            [
                text,
                claim.measured,
                f"{one.difference.mean:+.3f} [{low:+.3f}, {high:+.3f}]{few}",
                " ".join(f"{value:+.3f}" for value in one.difference.seeds),
                f"{one.adjusted:.4f}",
                "-" if one.difference.seeds_p is None else f"{one.difference.seeds_p:.4f}",
                " ".join(f"{one.costs[name]:.2f}" if name in one.costs else "-" for name in COSTS[:3]),
                f"{len(one.difference.seeds)} of {seeds} seeds" if few else one.verdict,
            ]
        )
    head = ["claim", "measure", "difference [95 %]", "by seed", "p", "p by seeds", "ratios", ""]
    return "## Claims\n\n" + _table(head, rows) + _bases(judged)


def _bases(judged: Sequence[Judged]) -> str:
    """Which cells are compared though what they began with is not the same."""
    bases: dict[str, None] = {}
    later: dict[str, None] = {}
    for one in judged:
        if one.apart and one.difference is not None:
            pair = f"{one.comparison.better} - {one.comparison.than}"
            stages = sorted(set(one.apart.values()))
            said = f"{pair} ({{}}seeds {', '.join(map(str, one.apart))})"
            if "bootstrap" in stages:
                bases[said.format("")] = None
            else:
                later[said.format(f"{', '.join(stages)}, ")] = None
    text = ""
    if bases:
        text += (
            "\nHere each has a base of its own, of other settings, or made on another machine or number of cores (the "
            "same seed, sums rounded differently), so that what bases differ by is in the difference: "
            f"{'; '.join(bases)}.\n"
        )
    if later:
        text += (
            "\nHere both have the same base, but did a later stage of the same settings each by itself, with other "
            f"weights as its outcome: {'; '.join(later)}.\n"
        )
    return text


def _targets(judged: Sequence[Met], count: int) -> str:
    rows = []
    for one in judged:
        target = one.target
        bound = f">= {target.at_least:g}" if target.at_least is not None else f"<= {target.at_most:g}"
        bound += f", {_cores({target.cores})}" if target.cores else ""
        name = f"{target.title or target.cell} ({target.cell})"
        if one.rate is None:
            rows.append([name, target.measure, bound, "-", "-", "not measured"])
        else:
            seeds = " ".join(map(_figure, one.rate.seeds))
            said = "reached" if one.reached else "not reached"
            said += f" ({len(one.rate.seeds)} of {count} seeds)" if len(one.rate.seeds) < count else ""
            rows.append([name, target.measure, bound, _rate(one.rate), seeds, said])
    head = ["target", "measure", "asked", "mean [95 %]", "by seed", ""]
    return "## Targets\n\nJudged by the mean over seeds.\n\n" + _table(head, rows) if rows else ""


def _policies(found: Sequence[Found], resamples: int) -> str:
    rows = []
    for one in found:
        if not one.policies:
            continue
        last = [one.last(seed) for seed in sorted(one.results)]
        rates = [rate([p.marks(m) for p in last], resamples=resamples) for m in ("greedy", "pass@1", "pass@8")]
        rows.append(
            [
                f"{one.name}: {one.title}",
                str(len(last)),
                _rate(rates[0]),
                " ".join(f"{value:.3f}" for value in rates[0].seeds) if rates[0] else "-",
                *(f"{found_rate.mean:.3f}" if found_rate else "-" for found_rate in rates[1:]),
                *(f"{mean_cost(one, name):.0f}" for name in COSTS),
                ", ".join(str(number) for number in sorted({one.results[seed]["cores"] for seed in one.results})),
            ]
        )
    head = ["cell", "seeds", "greedy [95 %]", "by seed", "pass@1", "pass@8", *COSTS, "cores"]
    return (
        "## Policies\n\nHeld-out problems, hidden tests; costs are means over seeds.\n\n" + _table(head, rows)
        if rows
        else ""
    )


def _lengths(found: Sequence[Found]) -> str:
    rates = {one.name: by_difficulty(one) for one in found if one.policies}
    names = sorted({name for by in rates.values() for name in by})
    rows = [[cell, *(f"{by[name]:.3f}" if name in by else "-" for name in names)] for cell, by in rates.items()]
    return "## By length\n\nGreedy, mean over seeds.\n\n" + _table(["cell", *names], rows) if rows else ""


def _searches(found: Sequence[Found], resamples: int) -> str:
    rows = []
    for one in found:
        if not one.searches:
            continue
        seeds = sorted(one.results)
        for place, point in enumerate(one.points(seeds[0])):
            same = [one.points(seed)[place] for seed in seeds if place < len(one.points(seed))]
            tokens, executions = (sum(p.costs[name] for p in same) / len(same) for name in ("tokens", "executions"))
            rates = [rate([p.marks(m) for p in same], resamples=resamples) for m in ("passed", "solved")]
            rows.append(
                [one.name, point.label, str(len(same)), f"{tokens:.0f}", f"{executions:.1f}", *map(_rate, rates)]
            )
    head = ["method", "budget", "seeds", "tokens", "executions", "hidden tests passed", "own tests passed"]
    return "## Search by tokens\n\nTokens and programs run are per problem.\n\n" + _table(head, rows) if rows else ""


def _models(found: Sequence[Found], resamples: int) -> str:
    rows = []
    for one in found:
        last = [one.last(seed) for seed in sorted(one.results)]
        for name in dict.fromkeys(name for point in last for name in point.figures):
            known = rate_of([one for one in last if name in one.figures], name, resamples=resamples)
            assert known is not None
            mean, low, high, *seeds = map(_figure, (known.mean, *known.interval, *known.seeds))
            rows.append([one.name, name, str(len(seeds)), f"{mean} [{low}, {high}]", " ".join(seeds)])
        took: dict[str, list[float]] = {}
        for seed, point in zip(sorted(one.results), last, strict=True):
            if point.figures and point.costs["seconds"]:
                took.setdefault(f"seconds, {_cores(one.cores(seed))}", []).append(point.costs["seconds"])
        for name, taken in took.items():
            rows.append(
                [one.name, name, str(len(taken)), _figure(sum(taken) / len(taken)), " ".join(map(_figure, taken))]
            )
    if not rows:
        return ""
    titles = "".join(f"- {one.name}: {one.title}\n" for one in found if any(row[0] == one.name for row in rows))
    table = _table(["cell", "figure", "seeds", "mean [95 %]", "by seed"], rows)
    said = "Intervals are over seeds, and over problems for a generator's validity and kill rate."
    return f"## Other models\n\n{titles}\n{said}\n\n{table}"


def _cores(numbers: set[int]) -> str:
    """As "2 cores"; stages that ran on different numbers of them have several."""
    return f"{' and '.join(map(str, sorted(numbers)))} core{'s' * (numbers != {1})}"


def _figure(value: float) -> str:
    return f"{value:.3f}" if abs(value) < 100 else f"{value:.0f}"


def _missing(found: Sequence[Found], seeds: Sequence[int]) -> str:
    lines = [
        f"- {one.name}: seeds {', '.join(str(seed) for seed in seeds if seed not in one.results)}"
        for one in found
        if len(one.results) < len(seeds)
    ]
    return "## Missing\n\n" + "\n".join(lines) + "\n" if lines else ""


def _commits(found: Sequence[Found]) -> str:
    """At which commits the cells were run."""
    run: dict[str, dict[str, list[str]]] = {}
    for one in found:
        for seed in sorted(one.results):
            commit = str(one.results[seed]["commit"])
            short = commit[:10] + ("+" if commit.endswith("+") else "")
            run.setdefault(short, {}).setdefault(one.name, []).append(str(seed))
    rows = [
        [commit, "; ".join(f"{name} {' '.join(seeds)}" for name, seeds in cells.items())]
        for commit, cells in run.items()
    ]
    head = "## Commits\n\n`+`: files of the checkout differed from it.\n\n"
    return head + _table(["commit", "cells and seeds"], rows) if rows else ""


def _rate(one: Rate | None) -> str:
    return "-" if one is None else f"{one.mean:.3f} [{one.interval[0]:.3f}, {one.interval[1]:.3f}]"


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    return "".join(f"| {' | '.join(row)} |\n" for row in (head, ["---"] * len(head), *rows))
