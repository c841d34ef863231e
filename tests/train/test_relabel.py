"""New labels for old trees within the loop: which trees are judged again, and that learning sees the new labels."""

from __future__ import annotations

import dataclasses
import json
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import pytest

from o1coder_jax import checkpoint
from o1coder_jax.records import Judgement, Problem, TestCase, Verdict
from search.tree import tests_hash as hash_of
from tests.train.world import command, copy_run, opened, results
from train import coevolve, relabel
from train.ledger import LEDGER, Ledger, Tally
from train.process import read_process
from train.relabel import judged
from train.rivals.budget import spent
from train.rl.loop import read_tests
from train.session import Session
from train.tcg.measures import FIGURES, Measured, Share

IMPOSSIBLE = TestCase("1\n", "no program prints this")


def harden(session: Session) -> str:
    """Gives a self-play problem that the search solved a test that nothing passes; returns its id."""
    solved = session.require("001-search", "")["solved_problems"][0]
    parts = session.parts.selfplay
    [place] = [i for i, problem in enumerate(parts) if problem.id == solved]
    parts[place] = dataclasses.replace(parts[place], tests=(*parts[place].tests, IMPOSSIBLE))
    return str(solved)


def test_tree_of_a_problem_with_other_tests_is_judged_again(wee: Path, runs: Path):
    with opened(wee, runs, upto="001-search", labels={"relabel": True}) as session:
        before = read_process(session, 1, 0)
        hard = harden(session)
        relabel.run(session, 1)
        result, after = session.require("001-relabel", ""), read_process(session, 1, 0)
        tallies = [Tally(**row) for row in session.run.read(LEDGER) if row["problem_id"] == hard]
        assert [one.iteration for one in tallies] == [1, 1]  # of the tree as it was, and as it is
        assert tallies[0].successes > 0 == tallies[1].successes
        assert Ledger.of(session, 1).rate(hard) == 1 / (tallies[1].samples + 2)
    assert result["relabelled"] == 1 and result["verdicts_changed"] > 0 and result["executions"] > 0
    own, others = ([one for one in after if (one.problem_id == hard) is mine] for mine in (True, False))
    assert own and not any(one.correct for one in own)
    assert {one.relabelled_from for one in own} == {one.tests for one in before if one.problem_id == hard}
    assert others == [one for one in before if one.problem_id != hard]


def test_tree_is_judged_again_only_once(wee: Path, runs: Path):
    with opened(wee, runs, upto="001-search") as session:
        harden(session)
        relabel.run(session, 1)
        session.run.rewind("001-relabel")
        relabel.run(session, 1)
        assert session.require("001-relabel", "")["relabelled"] == 1  # what a forgotten stage wrote is gone
        with session.run.stage_scope("002-search"):
            pass
        relabel.run(session, 2)
        assert session.require("002-relabel", "")["relabelled"] == 0


def test_tree_that_cannot_be_checked_is_tried_again_in_the_next_round(
    wee: Path, runs: Path, monkeypatch: pytest.MonkeyPatch
):
    def unknown(problem: Problem, code: str) -> Future[Judgement]:
        future: Future[Judgement] = Future()
        future.set_result(Judgement(Verdict.INFRA_ERROR, True, 0, 0))
        return future

    with opened(wee, runs, upto="001-search") as session:
        harden(session)
        before, written = read_process(session, 1, 0), list(session.run.read(LEDGER))
        with monkeypatch.context() as broken:
            broken.setattr(session.judging, "judge", unknown)
            relabel.run(session, 1)
        first = session.require("001-relabel", "")
        assert (first["relabelled"], first["left"], first["process_records"]) == (0, 1, 0) and first["infra_errors"] > 0
        assert read_process(session, 1, 0) == before and list(session.run.read(LEDGER)) == written
        with session.run.stage_scope("002-search"):
            pass
        relabel.run(session, 2)
        second = session.require("002-relabel", "")
    assert (second["relabelled"], second["left"]) == (1, 0)


def test_tests_of_the_generator_count_if_they_are_asked_for(wee: Path, runs: Path):
    with opened(wee, runs, upto="tcg", labels={"tests": "all"}) as session:
        problems = session.parts.selfplay
        written = {row["problem_id"]: row["tests"] for row in session.run.read("tests.jsonl")}
        for problem, more in zip(problems, judged(session, problems), strict=True):
            repeated = [test.to_json() for test in problem.tests]
            assert [test.to_json() for test in more.tests[: len(problem.tests)]] == repeated
            fresh = [test for test in written[problem.id] if test not in repeated]
            assert len(more.tests) == len(problem.tests) + len(fresh)
        assert any(hash_of(a) != hash_of(b) for a, b in zip(problems, judged(session, problems), strict=True))


def test_loop_judges_again_when_the_generators_tests_begin_to_count(wee: Path, settings: Path, runs: Path):
    copy = copy_run(wee, runs, upto="001-search")
    done = command(
        settings, "--runs", str(runs), "--iterations", "1", "--labels.relabel", "true", "--labels.tests", "all"
    )
    assert done.status == 0 and results(copy)["001-relabel"]["relabelled"] > 0
    order = list(results(copy))
    assert order.index("001-search") < order.index("001-relabel") < order.index("001-sft")


EVOLVING = {"tcg": {"coevolve": 12}, "labels": {"tests": "all", "relabel": True}}


def test_old_trees_are_judged_again_when_the_generator_has_learned(
    wee: Path, runs: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(coevolve, "got_worse", lambda *_: False)  # whatever it learned
    with opened(wee, runs, upto="001-evaluate", **EVOLVING) as session:
        coevolve.run(session, 2)
        made = session.require("002-coevolve", "")
        rows = list(session.run.read("tests.jsonl"))
        first, last = rows[: len(rows) // 2], rows[len(rows) // 2 :]
        assert [row["problem_id"] for row in first] == [row["problem_id"] for row in last]
        assert [row["tests"] for row in first] != [row["tests"] for row in last]
        latest = {row["problem_id"]: row["tests"] for row in last}
        assert {name: [t.to_json() for t in tests] for name, tests in read_tests(session).items()} == latest
        with session.run.stage_scope("002-search"):
            pass
        relabel.run(session, 2)
        assert session.require("002-relabel", "")["relabelled"] > 0
    assert made["pairs"] > 0 and made["kept"] == "new" and made["weights"] != results(wee)["tcg"]["weights"]
    assert made["tokens_generated"] > 0 and 0 <= made["validity_before"] <= 1 and 0 <= made["validity"] <= 1
    assert made["wrong_programs"] > 0 and 0 <= made["kill_rate_random"] <= 1


@pytest.mark.parametrize(
    ("before", "after", "worse"),
    [
        ((0.8, 0.5), (0.7, 0.4), True),
        ((0.8, 0.5), (0.7, 0.5), False),
        ((0.8, 0.5), (0.9, 0.4), False),
        ((0.8, None), (0.7, None), False),  # no wrong programs to reject
        ((0.8, 0.5), (None, None), False),
    ],
)
def test_generator_is_worse_if_both_figures_have_fallen(before, after, worse):
    one, other = (dict(zip(coevolve.JUDGED_BY, pair, strict=True)) for pair in (before, after))
    assert coevolve.got_worse(one, other) is worse


def test_generator_that_got_worse_is_not_kept(wee: Path, runs: Path, monkeypatch: pytest.MonkeyPatch):
    figures = iter((0.5, 0.25))

    def measured(*_: Any) -> Measured:
        nothing = Share([], [])
        return Measured(dict.fromkeys(FIGURES, next(figures)), nothing, nothing, 3)

    monkeypatch.setattr(coevolve, "measure", measured)
    with opened(wee, runs, upto="001-evaluate", **EVOLVING) as session:
        tests, written = read_tests(session), len(list(session.run.read("tests.jsonl")))
        coevolve.run(session, 2)
        made = session.require("002-coevolve", "")
        assert read_tests(session) == tests and len(list(session.run.read("tests.jsonl"))) == written
    assert made["pairs"] > 0 and (made["kept"], made["validity_before"], made["validity"]) == ("old", 0.5, 0.25)
    assert made["weights"] == results(wee)["tcg"]["weights"]
    facts = checkpoint.metadata(runs / "wee" / "checkpoints" / "tcg-002")
    assert facts["fingerprint"] == made["weights"]


def test_loop_takes_the_generator_along(wee: Path, settings: Path, runs: Path):
    copy = copy_run(wee, runs, upto="001-evaluate")
    options = ["--tcg.coevolve", "12", "--labels.tests", "all", "--labels.relabel", "true"]
    done = command(settings, "--runs", str(runs), "--iterations", "2", *options)
    assert done.status == 0, done.err
    order = list(results(copy))
    assert order.index("001-evaluate") < order.index("002-coevolve") < order.index("002-search")
    rounds = results(copy)
    costs = spent(rounds, dict.fromkeys(rounds, 1.0), 2)
    tokens = [stage.get("tokens_generated", 0) for name, stage in rounds.items() if not name.endswith("evaluate")]
    assert costs.tokens == sum(tokens) - rounds["bootstrap"].get("tokens_generated", 0)
    first, second = json.loads((copy / "summary.json").read_text())["iterations"]
    told = {"kill_rate", "kill_rate_before", "kill_rate_random", "validity", "validity_before", "wrong_programs"}
    assert "tcg" not in first and told < second["tcg"].keys()
    assert all(second["tcg"][name] == rounds["002-coevolve"][name] for name in second["tcg"])


@pytest.mark.parametrize(
    ("options", "line"),
    [
        (["--iteration", "2"], "tcg.coevolve is 0: the generator stays as step 1 made it"),
        (["--iteration", "1", "--tcg.coevolve", "5"], "--iteration is 1, whose generator is that of train.tcg"),
        (["--iteration", "3", "--tcg.coevolve", "5"], "stage 002-coevolve is not finished"),
    ],
)
def test_rounds_that_have_no_generator_of_their_own(
    wee: Path, settings: Path, runs: Path, options: list[str], line: str
):
    copy_run(wee, runs, upto="001-evaluate")
    done = command(settings, "--runs", str(runs), *options, module="coevolve")
    assert done.status == 2 and line in done.err


def test_search_must_be_finished(wee: Path, settings: Path, runs: Path):
    copy_run(wee, runs, upto="tcg")
    done = command(settings, "--runs", str(runs), "--iteration", "1", module="relabel")
    assert done.status == 2 and "stage 001-search is not finished; run python -m train.reason" in done.err
