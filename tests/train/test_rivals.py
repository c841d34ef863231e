"""Rivals: equal tokens and updates, what they learn from, the table; the loop's own files stay as they are."""

from __future__ import annotations

import dataclasses
import json
import random
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from o1coder_jax.errors import UserError
from o1coder_jax.generate import Sample
from o1coder_jax.problems.curriculum import build
from o1coder_jax.records import Problem
from o1coder_jax.steps import path_code
from tests.train.world import SETTINGS, TAUGHT, command, copy_run, opened, results
from train.fared import Counts, Fared
from train.programs import Program
from train.rivals import compare, teaching
from train.rivals.budget import Budget, spent
from train.rivals.config import RejectionConfig, RivalsConfig
from train.rivals.rejection import affordable, examples_of, right_answers, wanted
from train.rivals.teaching import filtered
from train.session import Session

FARED = Fared(
    greedy="10?1",
    sampled=(Counts(2, 4, 3, 4), Counts(0, 4, 0, 4), Counts(3, 3, 3, 4)),
    cure_rate={"a/first/x": {"rate": 0.5, "problems": 2}, "b/later/y": {"rate": 0.4, "problems": 5}},
)


def program(tokens: tuple[int, ...], code: str | None = "print(1)") -> Program:
    return Program(Sample(tokens, tuple(-0.1 for _ in tokens), ended=code is not None), "", code)


def test_fared_survives_json():
    assert Fared.from_json(json.loads(json.dumps(FARED.to_json()))) == FARED


def test_marks_by_hand():
    """pass@2 of 2 right in 4 is 1 - 1/6; with 3 checked samples pass@4 is unknown."""
    assert FARED.marks("greedy") == pytest.approx([1, 0, np.nan, 1], nan_ok=True)
    assert FARED.marks("pass@2") == pytest.approx([5 / 6, 0, 1])
    assert FARED.marks("pass@4") == pytest.approx([1, 0, np.nan], nan_ok=True)
    assert FARED.rate("greedy") == pytest.approx(2 / 3)
    assert FARED.gap == pytest.approx(6 / 12 - 5 / 11)
    assert FARED.cured == (1, 2)
    unknown = dataclasses.replace(FARED, cure_rate={**FARED.cure_rate, "c": {"rate": None, "problems": 1}})
    assert unknown.cured == (1, 3)


def test_answers_are_paid_for_to_the_last_token():
    drawn = [[program((1, 2, 3)), program((4, 5))], [program((6, 7, 8))]]
    problems = ["a", "b"]
    assert affordable(problems, drawn, 8)[1] == 8
    kept, used = affordable(problems, drawn, 7)
    assert [problem for problem, _ in kept] == ["a", "a"] and used == 5
    assert affordable(problems, drawn, 2) == ([], 0)


def test_costs_of_the_loop_are_those_of_its_learning_stages():
    results = {
        "000-evaluate": {"executions": 100},
        "tcg": {"tokens_generated": 5, "executions": 1},
        "001-search": {"tokens_generated": 10, "executions": 2},
        "001-sft": {"policy_updates": 7},
        "001-relabel": {"executions": 4},
        "001-prm": {"tokens_generated": 6},
        "001-rl": {"tokens_generated": 20, "executions": 3, "policy_updates": 4},
        "002-search": {"tokens_generated": 1000, "executions": 1000},
    }
    seconds = dict.fromkeys(results, 1.5)
    assert spent(results, seconds, 1) == Budget(41, 10, 11, 1, 9.0)


BETTER, WORSE, UNCLEAR = (0.074, 0.168), (-0.2, -0.1), (-0.022, 0.022)


@pytest.mark.parametrize(
    ("greedy", "first", "most", "word"),
    [
        (UNCLEAR, BETTER, UNCLEAR, "sharpened"),
        (BETTER, UNCLEAR, UNCLEAR, "sharpened"),
        (UNCLEAR, BETTER, BETTER, "extended"),
        (BETTER, BETTER, WORSE, "sharpened, and narrowed"),
        (UNCLEAR, UNCLEAR, BETTER, ""),
        (WORSE, UNCLEAR, WORSE, ""),
    ],
)
def test_verdict_goes_by_greedy_and_sampled_first_answers(greedy, first, most, word):
    intervals = {"greedy": greedy, "pass@1": first, "pass@8": UNCLEAR, "pass@64": most}
    words = {BETTER: "better", WORSE: "worse", UNCLEAR: "no clear difference"}
    told = [f"{name} {words[intervals[name]]}" for name in ("greedy", "pass@1", "pass@64")]
    by = {name: {"interval": list(interval)} for name, interval in intervals.items()}
    assert compare.verdict(by) == ", ".join([*told, *([word] if word else [])])


def test_verdict_tells_of_what_was_measured():
    assert compare.verdict({}) == ""
    assert compare.verdict({"greedy": {"interval": BETTER}}) == "greedy better"
    both = {"greedy": {"interval": WORSE}, "pass@1": {"interval": BETTER}}
    assert compare.verdict(both) == "greedy worse, pass@1 better"


@pytest.mark.parametrize(
    ("settings", "line"),
    [
        ({"samples": 0}, "rivals.rejection.samples is 0"),
        ({"updates": -1}, "rivals.rejection.updates is -1"),
        ({"temperature": 0.0}, "rivals.rejection.temperature is 0.0"),
    ],
)
def test_bad_settings_are_named(settings, line: str):
    with pytest.raises(UserError, match=line):
        RejectionConfig(**settings)


def test_a_rival_is_named_once():
    with pytest.raises(UserError, match="name each rival once"):
        RivalsConfig(run=("random", "random"))


# On the run of the tiny loop.

RIVALS = {"run": ("continued", "rejection", "random"), "samples": 6, "problems": 1, "resamples": 200}


@pytest.fixture(scope="module")
def compared(wee: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny loop's run with its rivals."""
    runs = tmp_path_factory.mktemp("rivals")
    (runs / ".compiled").symlink_to(wee.parent / ".compiled")
    with opened(wee, runs, upto="002-evaluate", rivals=RIVALS) as session:
        compare.run(session)
    return runs / "wee"


def test_rivals_spend_what_the_loop_did(compared: Path):
    done = results(compared)
    tokens = sum(done[name]["tokens_generated"] for name in ("tcg", "001-search", "001-rl", "002-search", "002-rl"))
    updates = sum(done[f"00{i}-{name}"]["policy_updates"] for i in (1, 2) for name in ("sft", "rl"))
    for rival in ("rejection", "random"):
        used = done[f"002-rival-{rival}"]["spent"]
        longest = SETTINGS["generation"]["answer_tokens"]
        assert tokens - 2 * longest < used["tokens"] <= tokens and used["updates"] == updates > 0
        assert used["executions"] > 0
    assert done["002-rival-continued"]["spent"] == {"tokens": 0, "updates": updates, "executions": 0}


def test_every_policy_is_measured_on_the_same_problems(compared: Path, wee: Path):
    lines = [json.loads(line) for line in (compared / "fared.jsonl").read_text().splitlines()]
    heldout = (wee / "problems" / "heldout.jsonl").read_text().count("\n")
    assert [line.pop("policy") for line in lines] == ["base", "continued", "rejection", "random", "loop"]
    for fared in map(Fared.from_json, lines):
        assert len(fared.greedy) == heldout and [one.own_checked for one in fared.sampled] == [6]


def test_loop_is_the_policy_that_did_best_on_validation(compared: Path):
    """Its greedy marks are what the evaluation of that round found."""
    done = results(compared)
    best = max(range(3), key=lambda i: (done[f"00{i}-evaluate"]["validation_greedy"], i))
    row = done["002-rivals"]["policies"]["loop"]
    assert row["greedy"] == done[f"00{best}-evaluate"]["pass_at_1_greedy"]


def test_summary_holds_the_comparison_and_the_rest_as_before(compared: Path, wee: Path):
    summary, before = (json.loads((run / "summary.json").read_text()) for run in (compared, wee))
    assert set(summary.pop("rivals")) == {"policies", "loop_against", "sampled_problems"}
    assert summary == before


def test_summary_keeps_the_comparison_when_no_rival_is_named(compared: Path, settings: Path, runs: Path):
    copy = copy_run(compared, runs, upto="002-rivals")
    done = command(settings, "--runs", str(runs), "--rivals.samples=6", "--rivals.problems=1", "--rivals.resamples=200")
    assert done.status == 0, done.err
    assert json.loads((copy / "summary.json").read_text())["rivals"] == results(compared)["002-rivals"]


def test_loop_is_not_disturbed(compared: Path, wee: Path):
    before, after = results(wee), results(compared)
    assert {name: after[name] for name in before} == before
    assert (compared / "process.jsonl").read_bytes() == (wee / "process.jsonl").read_bytes()


def test_a_rival_that_is_named_later_joins_the_table(compared: Path, runs: Path):
    named = ("continued", "one_shot")
    with opened(compared, runs, upto="002-rivals", rivals={**RIVALS, "run": named}) as session:
        before = session.run.results()
        compare.run(session)
        after = session.run.results()
    assert after["002-rival-continued"] == before["002-rival-continued"] and "002-rival-one_shot" not in before
    assert list(after["002-rivals"]["policies"]) == ["base", *named, "loop"]
    assert after["002-rivals"]["policies"]["loop"] == before["002-rivals"]["policies"]["loop"]
    lines = [json.loads(line) for line in (runs / "wee" / "fared.jsonl").read_text().splitlines()]
    assert [line["policy"] for line in lines] == ["base", *named, "loop"]


def test_a_rival_that_is_named_later_costs_no_round(compared: Path, runs: Path):
    named = (*RIVALS["run"], "one_shot")
    with opened(compared, runs, upto="002-rivals", rivals={**RIVALS, "run": named}) as session:
        with session.run.stage_scope("003-search"):
            pass
        before = session.run.results()
        with pytest.raises(
            UserError, match=r"002-rivals lacks a rival that .* would forget 003-search; finish the round"
        ):
            compare.run(session)
        assert session.run.results() == before


def test_tables_are_printed_again_without_any_work(compared: Path, wee: Path, settings: Path):
    rivals = ["--rivals.run", "[continued,rejection,random]", "--rivals.samples=6", "--rivals.problems=1"]
    done = command(settings, "--runs", str(compared.parent), *rivals, "--rivals.resamples=200")
    assert done.status == 0, done.err
    assert "loop - rejection" in done.out and "the loop against random: greedy" in done.out
    assert "tokens, " not in done.out  # no rival was trained
    done = command(settings, "--runs", str(compared.parent), module="rivals")
    assert done.status == 2 and "rivals.run is empty" in done.err


def test_few_problems_that_lack_answers_fill_a_batch():
    """16 rows hold 4 answers to each of 4 problems, 8 to each of 2, and 16 to one."""
    problems = [SimpleNamespace(id=name) for name in "abcd"]
    config = SimpleNamespace(
        rivals=SimpleNamespace(rejection=RejectionConfig(samples=4, paths_per_problem=1)),
        generation=SimpleNamespace(rows=16),
    )
    session: Any = SimpleNamespace(config=config, parts=SimpleNamespace(selfplay=problems))
    rng = random.Random(0)

    def names(*solved: str) -> str:
        return "".join(sorted(problem.id for problem in wanted(session, {name: {(1,): 1} for name in solved}, rng)))

    assert names() == names(*"abcd") == "abcd"
    assert names("a") == "bcd"
    assert names("a", "c") == "bbdd"
    assert names("a", "b", "d") == "cccc"


def test_rejection_keeps_distinct_answers_that_pass(wee: Path, runs: Path):
    with opened(wee, runs, upto="bootstrap") as session:
        problem = session.parts.selfplay[0]
        right, wrong = problem.solutions[0], "raise SystemExit"
        drawn = [program((1,), right), program((1,), right), program((2,), wrong), program((3,), None)]
        pairs = [(problem, one) for one in drawn]
        assert right_answers(session, pairs, keep_right=True, salt=0) == [(problem.id, (1,))]
        several = {right_answers(session, pairs, keep_right=False, salt=salt)[0][1] for salt in range(20)}
        assert several == {(1,), (2,)}  # one of the finished answers, whichever


def test_answers_of_later_rounds_come_first(wee: Path, runs: Path):
    with opened(wee, runs, upto="bootstrap") as session:
        name = session.parts.selfplay[0].id
        answers = {(token,): 1 + (token > 20) for token in range(10, 26)}
        examples = examples_of(session, {name: answers}, salt=0)
        assert {one["tokens"][-1] > 20 for one in examples} == {True} and len(examples) == 4


def test_filtered_teacher_data_needs_a_teacher(wee: Path, runs: Path):
    with (
        opened(wee, runs, upto="bootstrap") as session,
        session.run.stage_scope("x") as stage,
        pytest.raises(UserError, match="filtered needs a teacher"),
    ):
        filtered(session, stage, Budget(10, 0, 1, 1), "x")


def test_filtered_teacher_data_are_right_answers_within_the_budget(wee: Path, runs: Path, monkeypatch):
    taught = dataclasses.replace(TAUGHT, training=0, selfplay=6)
    learned: list[Any] = []
    monkeypatch.setattr(
        teaching, "fine_tuned", lambda session, stage, start, weights, examples, **_: learned.extend(examples)
    )
    with opened(wee, runs, upto="bootstrap", problems={"source": "curriculum", "curriculum": taught}) as session:
        session.parts = build(taught, 0)
        monkeypatch.setattr(session, "save_model", lambda *_: None)
        with session.run.stage_scope("x") as stage:
            filtered(session, stage, Budget(2000, 0, 9, 1), "x")
        assert 1900 < stage.result["spent"]["tokens"] <= 2000 and stage.result["spent"]["updates"] == 9
        texts = [session.tokenizer.decode(one["tokens"][one["weight"] > 0].tolist()) for one in learned]
        problems = {prompt_of(session, one): one for one in session.parts.selfplay}
        pairs = [
            (problems[tuple(one["tokens"][one["weight"] == 0].tolist())], path_code(t))
            for one, t in zip(learned, texts, strict=True)
        ]
        assert 0 < len(pairs) == stage.result["examples"] and stage.result["solved"] <= 6
        assert all(verdict is not None and verdict.accepted for verdict in session.judge_all(pairs))


def prompt_of(session: Session, problem: Problem) -> tuple[int, ...]:
    """A problem's prompt as token ids."""
    return tuple(session.prompts([problem])[0])


def test_rivals_wait_for_a_round_of_the_loop(wee: Path, settings: Path, runs: Path):
    copy_run(wee, runs, upto="tcg")
    done = command(settings, "--runs", str(runs), "--rivals.run", "[rejection]", module="rivals")
    assert done.status == 2 and "stage 001-evaluate is not finished; run python -m train.selfplay first" in done.err
