"""Ablations: runs that are shared, stopped and gone on with, and what cells do."""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import yaml

from o1coder_jax.errors import UserError
from o1coder_jax.problems.curriculum import CurriculumConfig, build, reference_outputs
from o1coder_jax.records import TestResult, Verdict
from tests.train.ablations import CELLS, ablation
from tests.train.world import ENVIRONMENT, bare_command, config_of, copy_run, opened, results
from train import prm_examples, prm_judge
from train.ablate import runner
from train.ablate.coins import judged_by_coins
from train.ablate.config import STARTS, AblateConfig, start_key
from train.ablate.folders import fork
from train.ablate.procedures import Task, generator, random_tests, reinforce, reward_model
from train.ablate.runner import Planned, Runner, plan
from train.ablate.work import Job
from train.config import Config
from train.run import finished_stages
from train.run_files import write_long_json


@pytest.fixture(scope="module")
def small(wee: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[list[str], Path]:
    """Arguments of an ablation whose starting point lies ready, and its folder."""
    folder = tmp_path_factory.mktemp("ablate")
    config = config_of(wee)
    (folder / "base.yaml").write_text((wee / "config.yaml").read_text())
    settings = {
        "base": str(folder / "base.yaml"),
        "cells": {
            "sft": {
                "title": "tuned",
                "procedure": "measure",
                "start": "001-prm",
                "options": {"checkpoint": "sft-001"},
            },
            "rl": {"title": "RL", "procedure": "rl", "start": "001-prm", "options": {"tests": "sft"}},
        },
        "comparisons": [{"better": "rl", "than": "sft", "primary": True}],
        "samples": 2,
        "sampled_problems": 1,
        "resamples": 100,
        **{name: str(folder / name) for name in ("runs", "results")},
        "document": str(folder / "docs" / "results.md"),
    }
    (folder / "ablate.yaml").write_text(yaml.safe_dump(settings, sort_keys=False))
    [first, *_] = plan(AblateConfig(**settings), 1)
    (folder / "runs").mkdir()
    (folder / "runs" / ".compiled").symlink_to(wee.parent / ".compiled")
    assert first.config.seed == config.seed
    copy_run(wee, folder / "runs", upto="001-prm", name=f"start-001-prm-{start_key(first.config, '001-prm')}")
    return ["--config", str(folder / "ablate.yaml"), "--seeds", "1"], folder


def test_cells_run_once_and_are_reported(small: tuple[list[str], Path], monkeypatch: pytest.MonkeyPatch):
    for name, value in ENVIRONMENT.items():
        monkeypatch.setenv(name, value)
    arguments, folder = small
    [facts] = (folder / "runs").glob("start-*/environment.json")
    facts.write_text(json.dumps(json.loads(facts.read_text()) | {"cores": 99}))  # what made the starting point
    done = bare_command("ablate", *arguments)
    assert done.status == 0, done.err
    assert done.out.startswith("sft, seed 0: ") and "failed" not in done.out, done.out
    found = {name: json.loads((folder / "results" / name / "seed-0.json").read_text()) for name in ("sft", "rl")}
    assert found["sft"]["start"] == {k: found["rl"]["start"][k] for k in found["sft"]["start"]}
    assert found["rl"]["points"][-1]["costs"]["tokens"] > 0 == found["sft"]["points"][-1]["costs"]["tokens"]
    assert len(found["rl"]["points"][-1]["fared"]["greedy"]) == len(found["rl"]["difficulty"])
    assert len(found["rl"]["points"][-1]["fared"]["sampled"]["own"]) == 1 < len(found["rl"]["difficulty"])
    assert {"cell", "seed", "key", "commit"} <= set(found["rl"])
    assert all(one["cores"] == len(os.sched_getaffinity(0)) and one["earlier_cores"] == [99] for one in found.values())
    assert not list((folder / "runs").glob("rl-0-*"))  # a finished cell leaves nothing but its result
    text = (folder / "docs" / "results.md").read_text()
    assert "**rl beats sft (rl - sft)**" in text and "## Missing" not in text
    again = bare_command("ablate", *arguments)
    assert again.out.splitlines()[:2] == ["sft, seed 0: done before", "rl, seed 0: done before"]
    more = bare_command("ablate", *arguments[:-1], "2", "--report")
    assert more.status == 0 and "- rl: seeds 1" in (folder / "docs" / "results.md").read_text()
    later = bare_command("ablate", *arguments, "--report", "--first_seed", "1")
    text = (folder / "docs" / "results.md").read_text()
    assert later.status == 0 and "0 of 2 results (seeds 1 to 1)" in text and "- sft: seeds 1\n- rl: seeds 1" in text


def test_cell_over_its_limit_is_stopped_and_goes_on(small: tuple[list[str], Path]):
    arguments, folder = small
    slow = [*arguments, "--only", "sft", "--samples", "3", "--limit_seconds", "1"]
    done = bare_command("ablate", *slow)
    assert done.status == 0 and "sft, seed 0: stopped after 1 s; what it finished is kept" in done.out
    assert "rl, seed" not in done.out and list((folder / "runs").glob("sft-0-*"))


@pytest.mark.parametrize("given, wanted", [(5, {"loop": 5, "rl": 7}), (9, {"loop": 9, "rl": 9})])
def test_cell_may_take_its_own_limit_or_the_given_one_where_that_is_longer(
    given: int, wanted: dict[str, int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    limits: dict[str, int] = {}

    def work(self: Runner, name: str, config: Config, job: Job, limit_seconds: int) -> str:
        if job.result:
            limits[job.facts["cell"]] = limit_seconds
            write_long_json(Path(job.result), {**job.facts, "points": []})
        return ""

    monkeypatch.setattr(Runner, "_work", work)
    for name in ("fork", "remove"):
        monkeypatch.setattr(runner, name, lambda *folders: None)
    shown = {name: CELLS[name] for name in ("loop", "rl")}
    shown["rl"] = {**shown["rl"], "limit_seconds": 7}
    one = ablation(shown, runs=str(tmp_path / "runs"), results=str(tmp_path / "results"), limit_seconds=given)
    cells = plan(one, 1)
    with Runner(one, cells) as running:
        list(running.run_all(cells))
    assert limits == wanted


def test_cells_at_once_have_cores_of_their_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """They share starting points that are not there yet, and one waits for the other, whose costs it may spend."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {4, 5, 7})
    made: list[str] = []
    jobs: dict[str, Job] = {}
    both = threading.Barrier(2)

    def work(self: Runner, name: str, config: Config, job: Job, limit_seconds: int) -> str:
        if not job.result:
            made.append(name)
            return ""
        jobs[job.facts["cell"]] = job
        if job.facts["cell"] != "rejection":
            both.wait(timeout=60)  # in vain unless they run at once
        write_long_json(Path(job.result), {**job.facts, "points": [{"costs": {"tokens": 5}, "outcomes": {}}]})
        return ""

    monkeypatch.setattr(Runner, "_work", work)
    monkeypatch.setattr(runner, "is_done", lambda folder, stage: folder.name in made)
    for name in ("fork", "remove"):
        monkeypatch.setattr(runner, name, lambda *folders: None)
    one = ablation(runs=str(tmp_path / "runs"), results=str(tmp_path / "results"))
    cells = plan(one, 1)
    with Runner(one, cells, 2) as running:
        lines = list(running.run_all(cells))
    assert [line.split(":")[0] for line in lines] == ["loop, seed 0", "rl, seed 0", "rejection, seed 0"]
    assert len(made) == len(set(made)) == len(STARTS)
    assert sorted(jobs["loop"].cores + jobs["rl"].cores) == [4, 5, 7]
    assert jobs["rejection"].task["spent"] == {"tokens": 5}


def test_starting_point_that_another_cell_left_unfinished_is_gone_on_with(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """The configuration of that cell's run, which a run folder is bound to, does not stand in the way."""
    bound: list[bool] = []

    def work(self: Runner, name: str, config: Config, job: Job, limit_seconds: int) -> str:
        bound.append((self.runs / name / "config.yaml").exists())
        return ""

    monkeypatch.setattr(Runner, "_work", work)
    one = ablation(runs=str(tmp_path / "runs"))
    cell = plan(one, 1)[0]
    left = tmp_path / "runs" / f"start-bootstrap-{start_key(cell.start, 'bootstrap')}"
    left.mkdir(parents=True)
    (left / "config.yaml").write_text("rl: {updates: 40}\n")
    with Runner(one, [cell]) as running:
        assert running._start(cell.start, "bootstrap", [0]) == left
    assert bound == [False]


def test_cells_at_once_are_of_different_seeds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """So neither waits while the other makes the starting point of both."""
    started: list[tuple[str, int]] = []

    def made(self: Runner, one: Planned, equal: object, cores: list[int]) -> str:
        started.append((one.name, one.seed))
        write_long_json(one.path, {"key": one.key, "points": []})
        return "0 s"

    monkeypatch.setattr(Runner, "_made", made)
    one = ablation(runs=str(tmp_path / "runs"), results=str(tmp_path / "results"))
    cells = plan(one, 3)
    for cell in cells:
        cell.path.parent.mkdir(parents=True, exist_ok=True)
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {4, 5})
    with Runner(one, cells, 2) as running:
        lines = [line.split(":")[0] for line in running.run_all(cells)]
    names = list(one.all_cells())
    pairs = [f"{name}, seed {seed}" for name in names for seed in (0, 1)]
    assert lines == [*pairs, *(f"{name}, seed 2" for name in names)]
    assert sorted(started) == sorted((name, seed) for name in names for seed in range(3))


def test_more_jobs_than_cores_are_refused(small: tuple[list[str], Path]):
    done = bare_command("ablate", *small[0], "--jobs", "1000")
    assert done.status == 2 and "--jobs is 1000; give 1 to" in done.err


def test_interrupted_ablation_leaves_no_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    slow = tmp_path / "slow"
    slow.write_text(
        f"#!/bin/sh\necho $$ > {tmp_path}/pid.part\nmv {tmp_path}/pid.part {tmp_path}/pid\nexec sleep 600\n"
    )
    slow.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(slow))
    one = ablation(runs=str(tmp_path / "runs"))
    cells = plan(one, 1)

    def interrupt() -> None:
        while not (tmp_path / "pid").exists():
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=interrupt, daemon=True).start()
    with pytest.raises(KeyboardInterrupt), Runner(one, cells) as running:
        list(running.run_all(cells))
    with pytest.raises(ProcessLookupError):
        os.kill(int((tmp_path / "pid").read_text()), 0)


def test_unknown_cell_is_a_line(small: tuple[list[str], Path]):
    done = bare_command("ablate", *small[0], "--only", "dance")
    assert done.status == 2 and "--only names dance, which is no cell; there are sft, rl" in done.err


def test_fork_has_what_was_finished_and_leaves_its_source_alone(wee: Path, tmp_path: Path):
    before = {path: path.stat().st_mtime_ns for path in wee.rglob("*") if path.is_file()}
    fork(wee, tmp_path / "fork")
    assert results(tmp_path / "fork") == results(wee)
    assert not (tmp_path / "fork" / "config.yaml").exists()
    with (tmp_path / "fork" / "process.jsonl").open("a") as file:
        file.write("more\n")
    assert {path: path.stat().st_mtime_ns for path in wee.rglob("*") if path.is_file()} == before
    fork(wee, tmp_path / "fork")  # nothing is done again
    assert (tmp_path / "fork" / "process.jsonl").read_text().endswith("more\n")


def test_coins_judge_alike_and_run_nothing(wee: Path, runs: Path):
    with opened(wee, runs, upto="tcg") as session:
        problem, sandbox = session.parts.selfplay[0], session.judging
        codes = [f"print({i})" for i in range(300)]
        with judged_by_coins(session, 0.3):
            one, other = (session.judge_all([(problem, code) for code in codes]) for _ in range(2))
            assert session.judging.costs()["executions"] == 0
        passed = np.mean([verdict is not None and verdict.accepted for verdict in one])
        assert one == other and abs(passed - 0.3) < 0.1
        assert session.judging is sandbox


def test_generator_is_measured_as_its_stage_measures_it(wee: Path, runs: Path):
    with opened(wee, runs, upto="tcg") as session:
        there = session.require("tcg", "train.tcg")
        seconds = {stage.name: stage.seconds for stage in finished_stages(session.run.folder)}
        for checkpoint, phase in (("tcg-sft", "sft"), ("tcg", "dpo"), ("random", "random")):
            [point] = generator(session, Task({"checkpoint": checkpoint}, 2))
            assert "kill_rate" in point.shares and generator(session, Task({"checkpoint": checkpoint}, 2)) == [point]
            took = sum(seconds[stage] for stage in ("bootstrap", "tcg")) if checkpoint == "tcg" else 0.0
            assert point.costs["seconds"] == took and (point.costs["tokens"] > 0) == (checkpoint == "tcg")
            for name, value in point.figures.items():
                assert value == pytest.approx(there[f"{name}_{phase}"]), name
            for name in point.shares:
                marks = point.marks(name)
                assert len(marks) == len(session.parts.heldout)
                assert marks.mean() == pytest.approx(point.figures[name])
        assert set(point.figures) == {"kill_rate"}
        with pytest.raises(UserError, match=r"options\.checkpoint is 'charm'; choose one of tcg, tcg-sft, random"):
            generator(session, Task({"checkpoint": "charm"}, 2))


def test_reward_model_is_judged_once(wee: Path, runs: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(prm_examples, "HELD_OUT_ONE_IN", 1)  # so few problems that none need be held out
    with opened(wee, runs, upto="001-prm") as session:
        [point] = reward_model(session, Task({"continuations": 3}, 2))
        judged = json.loads((session.run.folder / "stages" / "judged-prm.json").read_text())["result"]["figures"]
        assert 0 <= point.figures["calibration_error"] <= 1 <= point.figures["steps"]
        assert point.figures == {name: value for name, value in judged.items() if value is not None}
        monkeypatch.setattr(prm_judge, "figures", None)
        assert reward_model(session, Task({"continuations": 3}, 2)) == [point]


def test_random_inputs_need_the_curriculum(wee: Path, runs: Path):
    with opened(wee, runs, upto="001-prm") as session, pytest.raises(UserError, match="no composition in its meta"):
        random_tests(session)


def test_random_inputs_are_as_many_as_were_generated_and_have_true_outputs():
    config = CurriculumConfig(training=0, selfplay=4, validation=0, heldout=0)
    problems = build(config, 0).selfplay

    def outputs_all(work):
        """The reference's outputs, as of a sandbox that never fails."""
        fine = TestResult(Verdict.ACCEPTED)
        return [
            [(fine, value) for value in reference_outputs(problem, inputs)]
            for (_, inputs, _), problem in zip(work, problems[:2], strict=True)
        ]

    rows = [{"problem_id": problem.id, "tests": ["test"] * n} for problem, n in zip(problems, (3, 5, 0), strict=False)]
    session = SimpleNamespace(
        run=SimpleNamespace(read=lambda name: rows),
        parts=SimpleNamespace(selfplay=problems),
        config=SimpleNamespace(seed=0),
        judging=SimpleNamespace(outputs_all=outputs_all),
    )
    found = random_tests(session)
    assert [(row["problem_id"], len(row["tests"])) for row in found] == [(problems[0].id, 3), (problems[1].id, 5)]
    for row, problem in zip(found, problems, strict=False):
        inputs = [test["input"] for test in row["tests"]]
        assert [test["output"] for test in row["tests"]] == reference_outputs(problem, inputs)
        assert inputs != [test.input for test in problem.tests[: len(inputs)]]


def test_options_are_checked():
    with pytest.raises(UserError, match="options: unknown key tets; known here: tests, judge, share"):
        reinforce(None, Task({"tets": "random"}, 1))
    with pytest.raises(UserError, match=r"options\.tests is 'none'; choose one of generated, sft, random"):
        reinforce(None, Task({"tests": "none"}, 1))
