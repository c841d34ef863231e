"""The loop as a whole: its order, that stages can be run alone, and that a run goes on after whatever ended it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from sandbox.pool import Pool, SandboxConfig
from tests.train.world import (
    Done,
    command,
    copy_run,
    results,
    summary_of,
)
from train.session import StageName


def test_stages_are_those_of_the_paper_in_order(wee: Path):
    rounds = [StageName(i)(stage) for i in (1, 2) for stage in ("search", "sft", "prm", "rl", "evaluate")]
    assert list(results(wee)) == ["problems", "bootstrap", "000-evaluate", "tcg", *rounds]


def test_each_stage_goes_on_from_the_weights_of_the_last(wee: Path):
    done = results(wee)
    names = ["bootstrap", "001-sft", "001-rl", "002-sft", "002-rl"]
    assert len({done[name]["weights"] for name in names}) == len(names)


def test_summary_has_a_row_for_the_base_and_for_each_round(wee: Path):
    summary = summary_of(wee)
    assert summary["base"]["pass_at_1_greedy"] is not None
    assert [row["iteration"] for row in summary["iterations"]] == [1, 2]


def test_summary_adds_up_what_the_stages_cost(wee: Path):
    summary, done = summary_of(wee), results(wee)
    for name in ("tokens_generated", "executions"):
        assert summary[name] == sum(result.get(name, 0) for result in done.values()) > 0


def test_summary_tells_how_often_the_sandbox_remembered(wee: Path):
    done, summary = results(wee), json.loads((wee / "summary.json").read_text())
    hits, lookups = (sum(result.get(name, 0) for result in done.values()) for name in ("cache_hits", "cache_lookups"))
    assert 0 < hits < lookups and summary["cache_hit_rate"] == hits / lookups


def test_summary_names_the_best_round_by_validation(wee: Path):
    done, summary = results(wee), summary_of(wee)
    scores = [done[StageName(i)("evaluate")]["validation_greedy"] for i in range(3)]
    assert scores[summary["best_iteration"]] == max(scores)
    assert summary["best_iteration"] == max(i for i, score in enumerate(scores) if score == max(scores))


def test_summary_tells_what_it_ran_on(wee: Path):
    summary = json.loads((wee / "summary.json").read_text())
    with Pool(SandboxConfig(workers=1)) as pool:
        assert summary["isolation"] == pool.isolation
    assert summary["versions"]["devices"]
    assert set(summary["seconds"]) == {*results(wee), "total"}


# Stages run alone, in this process; the shared run is one command in a process of its own.

ALONE = [
    ("bootstrap",),
    ("evaluate", "--iteration", "0"),
    ("tcg",),
    *((name, "--iteration", i) for i in "12" for name in ("reason", "sft", "prm", "rl", "evaluate")),
]


@pytest.fixture(scope="module")
def alone(wee: Path, settings: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Done]]:
    runs = tmp_path_factory.mktemp("alone")
    (runs / ".compiled").symlink_to(wee.parent / ".compiled")
    done = [command(settings, "--runs", str(runs), *arguments, module=module) for module, *arguments in ALONE]
    done.append(command(settings, "--runs", str(runs)))
    return runs / "wee", done


def test_stages_run_alone_end_well(alone: tuple[Path, list[Done]]):
    assert [(one.status, one.err) for one in alone[1]] == [(0, "")] * len(alone[1])


def test_stage_run_alone_prints_its_result(alone: tuple[Path, list[Done]]):
    assert "vocab_size: 500" in alone[1][0].out


def test_loop_does_nothing_again(alone: tuple[Path, list[Done]]):
    assert "step 1 of 6" not in alone[1][-1].out and "held-out problems" in alone[1][-1].out


def test_same_seed_gives_the_same_summary(wee: Path, alone: tuple[Path, list[Done]]):
    assert summary_of(alone[0]) == summary_of(wee)


def test_same_seed_gives_the_same_records(wee: Path, alone: tuple[Path, list[Done]]):
    for name in ("process.jsonl", "tests.jsonl"):
        assert (alone[0] / name).read_bytes() == (wee / name).read_bytes()


# Again, and out of order.


def test_finished_stage_is_left_alone(wee: Path, settings: Path, runs: Path):
    copy_run(wee, runs, upto="002-evaluate")
    done = command(settings, "--runs", str(runs), "--iteration", "1", module="sft")
    assert done.status == 0
    assert done.out.splitlines()[1:] == [f"001-sft of {runs}/wee is finished; --again does it once more"]


def test_stage_done_again_comes_to_the_same(wee: Path, settings: Path, runs: Path):
    copy = copy_run(wee, runs, upto="002-evaluate")
    before = results(copy)["002-sft"]
    done = command(settings, "--runs", str(runs), "--iteration", "2", "--again", module="sft")
    assert done.status == 0 and results(copy)["002-sft"] == before


def test_stages_after_one_that_is_done_again_are_forgotten(wee: Path, settings: Path, runs: Path):
    copy = copy_run(wee, runs, upto="002-evaluate")
    done = command(settings, "--runs", str(runs), "--iteration", "2", "--again", module="sft")
    assert list(results(copy))[-1] == "002-sft"
    assert "002-sft is done again; forgotten are 002-prm, 002-rl, 002-evaluate\n" in done.out


def test_fewer_iterations_may_be_asked_for_later(wee: Path, settings: Path, runs: Path):
    copy = copy_run(wee, runs, upto="002-evaluate")
    assert command(settings, "--runs", str(runs), "--iterations", "1").status == 0
    assert len(summary_of(copy)["iterations"]) == 1


OUT_OF_ORDER = [
    ("tcg", "problems", "bootstrap", "train.bootstrap"),
    ("evaluate", "000-evaluate", "001-rl", "train.rl --iteration 1"),
    ("reason", "problems", "bootstrap", "train.bootstrap"),
    ("sft", "tcg", "001-search", "train.reason --iteration 1"),
    ("prm", "001-search", "001-sft", "train.sft --iteration 1"),
    ("rl", "001-sft", "001-prm", "train.prm --iteration 1"),
]


@pytest.mark.parametrize(("module", "upto", "missing", "mend"), OUT_OF_ORDER, ids=[row[0] for row in OUT_OF_ORDER])
def test_stage_out_of_order_says_what_is_missing(
    wee: Path, settings: Path, runs: Path, module: str, upto: str, missing: str, mend: str
):
    copy_run(wee, runs, upto=upto)
    done = command(settings, "--runs", str(runs), module=module)
    assert done.status == 2
    assert done.err == f"error: {runs}/wee: stage {missing} is not finished; run python -m {mend} first\n"


def test_first_stage_of_an_empty_folder_says_what_is_missing(settings: Path, runs: Path):
    done = command(settings, "--runs", str(runs), module="tcg")
    assert (done.status, done.err.count("\n")) == (2, 1) and "run python -m train.bootstrap first" in done.err


def test_rl_needs_the_tests_of_step_1(wee: Path, settings: Path, runs: Path):
    copy = copy_run(wee, runs, upto="001-prm")
    (copy / "stages" / "tcg.json").unlink()
    done = command(settings, "--runs", str(runs), module="rl")
    assert done.status == 2 and "stage tcg is not finished; run python -m train.tcg first" in done.err


@pytest.mark.parametrize(("module", "iteration"), [("sft", "0"), ("evaluate", "-1")])
def test_rounds_count_from_one(settings: Path, runs: Path, module: str, iteration: str):
    done = command(settings, "--runs", str(runs), "--iteration", iteration, module=module)
    assert (done.status, done.err) == (2, f"error: --iteration is {iteration}; rounds count from 1\n")
