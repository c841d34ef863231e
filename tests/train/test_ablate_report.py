"""What the results of an ablation say, and the report; results made by hand."""

from __future__ import annotations

import dataclasses
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from o1coder_jax.significance import difference
from tests.train.ablations import CELLS, TINY, ablation
from train.ablate import report
from train.ablate.config import Comparison
from train.ablate.points import Point
from train.ablate.results import Found, Judged, by_difficulty, collect, compare
from train.ablate.runner import Planned
from train.config import Config, load_config


def fared(greedy: str) -> dict[str, Any]:
    counts = {"hidden": [1, 0], "hidden_checked": [2, 2], "own": [1, 0], "own_checked": [2, 2]}
    return {"greedy": greedy, "sampled": counts, "cure_rate": {}}


def result(greedy: str, *, seed: int = 0, tokens: int = 100) -> dict[str, Any]:
    costs = {"tokens": tokens, "executions": 5, "updates": 3, "seconds": 1.0}
    points = [Point("round 1", costs, fared("0" * len(greedy))), Point("end", costs, fared(greedy))]
    return {
        "key": "",
        "seed": seed,
        "commit": "abc",
        "cores": 2,
        "difficulty": ["2", "3"] * (len(greedy) // 2),
        "points": [dataclasses.asdict(point) for point in points],
    }


def test_differences_are_paired_by_seed_and_problem():
    one = Found("a", "", {0: result("1110"), 1: result("11?0")})
    other = Found("b", "", {0: result("0110"), 1: result("0000"), 2: result("1111")})
    [judged] = compare([one, other], [Comparison("a", "b")], resamples=500)
    expected = difference([np.array([1.0, 0, 0, 0]), np.array([1.0, 1, 0])], seed=0, resamples=500)
    assert judged.difference == expected and judged.difference.mean == pytest.approx((1 / 4 + 2 / 3) / 2)


def test_a_claim_on_all_budgets_is_about_the_mean_of_each_problem_over_them():
    def searched(name: str, *points: tuple[str, float]) -> Found:
        made = [Point("", {"tokens": tokens}, outcomes={"passed": passed}) for passed, tokens in points]
        return Found(name, "", {0: {**result("10"), "points": [dataclasses.asdict(point) for point in made]}})

    found = [searched("a", ("10?1", 4.0), ("1011", 8.0)), searched("b", ("0001", 2.0), ("0011", 2.0))]
    last, every = (Comparison("a", "b", "passed", budgets=budgets) for budgets in ("last", "all"))
    [at_the_end, over_all] = compare(found, [last, every], resamples=99)
    assert at_the_end.difference == difference([np.array([1.0, 0, 0, 0])], seed=0, resamples=99)
    assert over_all.difference == difference([np.array([1.0, 0, 0])], seed=0, resamples=99)  # one was not checked
    assert (at_the_end.costs["tokens"], over_all.costs["tokens"]) == (4.0, 3.0)
    assert "| passed, all budgets | " in report._comparisons([over_all], 1)


def test_primary_claim_is_tested_by_itself_and_the_others_together():
    found = [Found("a", "", {0: result("11" * 20)}), Found("b", "", {0: result("00" * 20)})]
    claims = [Comparison("a", "b", primary=True), Comparison("a", "b"), Comparison("a", "b")]
    judged = compare(found, claims, resamples=99)
    assert [one.adjusted for one in judged] == pytest.approx([0.02, 0.04, 0.04])
    [missing] = compare([found[0], Found("b", "", {})], claims[:1], resamples=99)
    assert missing.difference is None and missing.adjusted is None


def test_bases_that_differ_are_told():
    def cell(name: str, bases: str) -> Found:
        return Found(name, "", {i: {**result("1110"), "start": {"bootstrap": base}} for i, base in enumerate(bases)})

    [judged] = compare([cell("a", "xyz"), cell("b", "xxx")], [Comparison("a", "b")], resamples=99)
    assert judged.apart == {1: "bootstrap", 2: "bootstrap"}
    assert "is in the difference: a - b (seeds 1, 2)." in report._comparisons([judged], 3)
    [same] = compare([cell("a", "xyz"), cell("b", "xyz")], [Comparison("a", "b")], resamples=99)
    assert "of its own" not in report._comparisons([same], 3)


def test_stages_of_the_same_settings_that_came_to_other_weights_are_told():
    """A stage whose settings the two do not share is meant to differ; one that the cell itself did says nothing."""
    start = {"bootstrap": "x", "001-sft": "y", "001-rl": "z"}
    tiny = load_config(TINY)
    shorter = dataclasses.replace(tiny, sft=dataclasses.replace(tiny.sft, updates=1))

    def cell(name: str, weights: str, config: Config) -> Found:
        return Found(name, "", {0: {**result("1110"), "start": {**start, "001-sft": weights, "001-rl": name}}}, config)

    def judged(other: Found) -> Judged:
        return compare([cell("a", "y", tiny), other], [Comparison("a", other.name)], resamples=99)[0]

    assert judged(cell("b", "y", tiny)).apart == {} == judged(cell("b", "w", shorter)).apart
    told = judged(cell("b", "w", tiny))
    assert told.apart == {0: "001-sft"}
    assert "other weights as its outcome: a - b (001-sft, seeds 0)." in report._comparisons([told], 1)


def test_a_claim_needs_both_tests():
    """Four small differences and a large one: resampled problems leave no doubt, the seeds by themselves do."""
    seeds = {i: result("1" * (60 if i == 4 else 6) + "0" * (0 if i == 4 else 54)) for i in range(5)}
    nothing = Found("b", "", {i: result("0" * 60) for i in range(5)})
    [judged] = compare([Found("a", "", seeds), nothing], [Comparison("a", "b")], resamples=2000)
    assert judged.difference is not None and judged.difference.seeds_p is not None
    assert judged.adjusted is not None and judged.adjusted < 0.05 < judged.difference.seeds_p
    assert judged.verdict == "not shown"
    alike = Found("a", "", {i: result("1" * (30 + i) + "0" * (30 - i)) for i in range(5)})
    assert compare([alike, nothing], [Comparison("a", "b")], resamples=2000)[0].verdict == "holds"
    reverse = compare([nothing, alike], [Comparison("b", "a")], resamples=2000)[0]
    assert reverse.verdict == "does not hold: the other is better"


def test_ratios_are_of_costs_over_the_seeds_that_both_have():
    one = Found("a", "", {0: result("10", tokens=100), 1: result("10", tokens=300), 2: result("10", tokens=9)})
    other = Found("b", "", {0: result("10", tokens=100), 1: result("10", tokens=100)})
    [judged] = compare([one, other], [Comparison("a", "b")], resamples=99)
    assert judged.costs == {"tokens": 2.0, "executions": 1.0, "updates": 1.0}
    free = Found("c", "", {0: result("10", tokens=0)})
    assert "tokens" not in compare([one, free], [Comparison("a", "c")], resamples=99)[0].costs


def test_rates_by_difficulty_by_hand():
    """Seed 0 solves one of two and both; seed 1 none and one of two."""
    found = Found("a", "", {0: result("1101"), 1: result("0001")})
    assert by_difficulty(found) == {"2": 0.25, "3": 0.75}


def planned(folder: Path) -> list[Planned]:
    cell = ablation().all_cells()["rl"]
    tiny = load_config(TINY)
    return [Planned("rl", seed, cell, tiny, tiny, "", folder / f"seed-{seed}.json") for seed in range(3)]


def test_result_of_another_key_counts_as_missing(tmp_path: Path):
    made = planned(tmp_path)
    for seed, key in ((0, ""), (1, "old")):
        (tmp_path / f"seed-{seed}.json").write_text(json.dumps({**result("10"), "key": key}))
    [found] = collect(made)
    assert list(found.results) == [0]


def test_report_says_what_does_not_hold_and_what_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    (tmp_path / "seed-0.json").write_text(json.dumps(result("10" * 30)))
    (tmp_path / "b-0.json").write_text(json.dumps(result("11" * 30)))
    one = ablation(
        {"rl": {**CELLS["rl"], "limit_seconds": 700}, "b": {**CELLS["rl"], "limit_seconds": 7}},
        comparisons=[{"better": "rl", "than": "b", "title": "it helps"}],
        notes=["Mind this."],
        document=str(tmp_path / "r.md"),
        resamples=200,
    )
    other = [dataclasses.replace(planned(tmp_path)[0], name="b", path=tmp_path / "b-0.json")]
    lines = report.write_report(one, [*planned(tmp_path), *other])
    text = (tmp_path / "r.md").read_text()
    assert "| it helps (rl - b) | greedy | -0.500 [" in text and "| - | 1.00 1.00 1.00 | 1 of 3 seeds |" in text
    assert "## Notes\n\n- Mind this.\n" in text and "| abc | rl 0; b 0 |" in text and "others: rl 700 s." in text
    assert "- rl: seeds 1, 2" in text and "figures need matplotlib" in lines[1]


def test_claims_are_judged_where_all_seeds_are_there(tmp_path: Path):
    made = planned(tmp_path)
    other = [dataclasses.replace(one, name="b", path=tmp_path / f"b-{one.seed}.json") for one in made]
    for one in made:
        one.path.write_text(json.dumps(result("10" * 30, seed=one.seed)))
    for one in other:
        one.path.write_text(json.dumps(result("11" * 29 + ("10" if one.seed else "00"), seed=one.seed)))
    comparisons = [{"better": "rl", "than": "b", "title": "it helps"}]
    document = str(tmp_path / "r.md")
    config = ablation({"rl": CELLS["rl"], "b": CELLS["rl"]}, comparisons=comparisons, document=document, resamples=200)
    report.write_report(config, [*made, *other])
    [line] = [line for line in Path(document).read_text().splitlines() if "it helps" in line]
    assert line.endswith(
        "| -0.467 -0.483 -0.483 | 0.0100 | 0.0001 | 1.00 1.00 1.00 | does not hold: the other is better |"
    )


def test_targets_are_judged_by_the_mean_over_seeds(tmp_path: Path):
    made = planned(tmp_path)
    for one, greedy in zip(made, ("1110", "1010", "1110"), strict=True):
        found = result(greedy, seed=one.seed, tokens=20 * one.seed)  # 0: nobody counted
        cores = {"cores": 1 if one.seed == 0 else 2, "earlier_cores": [1] if one.seed == 2 else []}
        one.path.write_text(json.dumps({**found, **cores}))
    targets = [
        {"cell": "rl", "measure": "greedy", "at_least": 0.66},
        {"cell": "rl", "measure": "greedy", "at_least": 0.67, "title": "much"},
        {"cell": "rl", "measure": "greedy", "at_least": 1.0, "difficulty": ["2"]},
        {"cell": "rl", "measure": "seconds", "at_most": 0.5},
        {"cell": "rl", "measure": "validity", "at_least": 0.5},
        {"cell": "rl", "measure": "tokens", "at_most": 50},
        {"cell": "rl", "measure": "tokens", "at_most": 25, "cores": 2},
        {"cell": "rl", "measure": "greedy", "at_least": 0.5, "cores": 4},
    ]
    document = str(tmp_path / "r.md")
    report.write_report(ablation({"rl": CELLS["rl"]}, targets=targets, document=document, resamples=200), made)
    rows = [line for line in Path(document).read_text().splitlines() if line.startswith("| ") and "=" in line]
    ends = [line.rsplit("|", 2)[1].strip() for line in rows]
    few = ["reached (2 of 3 seeds)", "reached (1 of 3 seeds)", "not measured"]
    assert ends == ["reached", "not reached", "reached", "not reached", "not measured", *few]
    assert "| much (rl) | greedy | >= 0.67 | 0.667 [" in rows[1] and "| 0.750 0.500 0.750 |" in rows[1]
    assert "<= 0.5 |" in rows[3] and "<= 25, 2 cores |" in rows[6]


def test_report_of_other_models(tmp_path: Path):
    point = Point("end", {"tokens": 0, "seconds": 0.0}, figures={"auc_within": 0.5, "steps": 1234.0})
    point, more = (
        dataclasses.asdict(one) for one in (point, Point("end", {"seconds": 90.0}, figures={"auc_within": 0.75}))
    )
    (tmp_path / "seed-0.json").write_text(json.dumps({**result("1"), "points": [point]}))
    (tmp_path / "seed-1.json").write_text(json.dumps({**result("1"), "points": [more]}))
    one = ablation({"rl": CELLS["rl"]}, document=str(tmp_path / "r.md"), resamples=200)
    report.write_report(one, planned(tmp_path))
    text = (tmp_path / "r.md").read_text()
    assert "| rl | auc_within | 2 | 0.625 [0.500, 0.750] | 0.500 0.750 |" in text
    assert "| rl | seconds, 2 cores | 1 | 90.000 | 90.000 |" in text
    assert "| rl | steps | 1 | 1234 [1234, 1234] | 1234 |" in text and "- rl: RL\n" in text
    assert "## Policies" not in text and "## Search" not in text


def test_seconds_are_told_apart_by_the_cores_that_they_and_what_they_began_from_were_taken_on(tmp_path: Path):
    point = dataclasses.asdict(Point("end", {"seconds": 90.0}, figures={"validity": 0.5}))
    for one, cores in zip(planned(tmp_path), ({}, {"cores": 1}, {"earlier_cores": [1]}), strict=True):
        one.path.write_text(json.dumps({**result("1"), "points": [point], **cores}))
    document = tmp_path / "r.md"
    report.write_report(ablation({"rl": CELLS["rl"]}, document=str(document), resamples=99), planned(tmp_path))
    for cores in ("2 cores", "1 core", "1 and 2 cores"):
        assert f"| rl | seconds, {cores} | 1 | 90.000 | 90.000 |" in document.read_text()


def test_shares_are_counts_over_what_they_are_of(tmp_path: Path):
    """Pooled over problems; however problems are drawn, never above 1."""
    made = planned(tmp_path)
    for one in made:
        shares = {"kill_rate": {"counts": [4, 0, 1 + one.seed], "of": [4, 0, 4]}}
        point = Point("end", {"seconds": 0.0}, figures={"kill_rate": (5 + one.seed) / 8}, shares=shares)
        one.path.write_text(json.dumps({**result("1"), "points": [dataclasses.asdict(point)]}))
    document = tmp_path / "r.md"
    config = ablation({"rl": CELLS["rl"]}, document=str(document), resamples=500)
    report.write_report(config, made)
    [line] = [line for line in document.read_text().splitlines() if "kill_rate" in line]
    assert "| rl | kill_rate | 3 | 0.750 [" in line and line.endswith("1.000] | 0.625 0.750 0.875 |")


def test_figures_are_drawn(tmp_path: Path):
    pytest.importorskip("matplotlib", reason="matplotlib is in the extra [ablate]")
    from train.ablate.plots import draw

    outcomes = {"solved": "10", "passed": "1?", "tokens": [5, 6], "executions": [1, 1]}
    costs = {"tokens": 5.5, "executions": 1.0, "updates": 0, "seconds": 1.0}
    search = {**result("10"), "points": [dataclasses.asdict(Point("2 rollouts", costs, outcomes=outcomes))]}
    found = [Found("a", "", {0: result("10"), 1: result("11")}), Found("s", "", {0: search})]
    judged = compare([found[0], Found("b", "", found[0].results)], [Comparison("a", "b")], resamples=50)
    drawn = draw(found, tmp_path, resamples=50, judged=judged)
    assert [name for name, _ in drawn] == ["claims.png", "policies.png", "rounds.png", "searches.png"]
    assert all((tmp_path / name).read_bytes().startswith(b"\x89PNG") for name, _ in drawn)


def test_rounds_begin_at_the_base_that_they_had():
    pytest.importorskip("matplotlib", reason="matplotlib is in the extra [ablate]")
    from train.ablate.plots import _rounds

    def begun(greedy: str, start: dict[str, str], tokens: int = 100) -> dict[str, Any]:
        made = {**result(greedy, tokens=tokens), "start": start}
        made["points"] = made["points"][-1:] if not tokens else made["points"]
        for point in made["points"]:
            point["costs"] = {**point["costs"], "updates": 3 if tokens else 0}
        return made

    loop = Found("loop", "", {i: begun("11", {"bootstrap": "x", "tcg": "t"}) for i in range(2)})
    base = Found("base", "", {0: begun("10", {"bootstrap": "x"}, 0), 1: begun("10", {"bootstrap": "y"}, 0)})
    lines = _rounds(loop, [loop, base])
    assert [[(tokens, marks.mean()) for tokens, marks in line] for line in lines] == [
        [(0.0, 0.5), (100, 0.0)],
        [(100, 0.0)],
    ]
