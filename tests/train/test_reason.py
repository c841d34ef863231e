"""The search stage: every visited path is on record, with its values, its verdict and where it came from."""

from __future__ import annotations

import contextlib
import io
from pathlib import Path
from typing import Any

import pytest

from o1coder_jax import checkpoint
from o1coder_jax.errors import UserError
from o1coder_jax.records import ProcessRecord, content_hash
from o1coder_jax.tokenizer import Tokenizer
from search.config import BaselineConfig
from tests.train.world import config_of, opened, read_lines, results
from train import reason


@pytest.fixture(scope="module")
def records(wee: Path) -> list[ProcessRecord]:
    return [ProcessRecord.from_json(row) for row in read_lines(wee / "process.jsonl")]


def test_every_selfplay_problem_has_paths_in_both_rounds(wee: Path, records: list[ProcessRecord]):
    ids = {row["id"] for row in read_lines(wee / "problems" / "selfplay.jsonl")}
    for iteration in (1, 2):
        assert {one.problem_id for one in records if one.iteration == iteration} == ids


def test_second_round_is_appended_to_the_first(wee: Path, records: list[ProcessRecord]):
    done = results(wee)
    counts = [done[f"00{i}-search"]["process_records"] for i in (1, 2)]
    assert [one.iteration for one in records] == [1] * counts[0] + [2] * counts[1]


def test_records_name_the_policy_that_wrote_them(wee: Path, records: list[ProcessRecord]):
    done = results(wee)
    expected = {1: done["bootstrap"]["weights"], 2: done["001-rl"]["weights"]}
    assert {one.iteration: one.policy for one in records} == expected and expected[1] != expected[2]


def test_records_name_run_tokenizer_and_tests(wee: Path, records: list[ProcessRecord]):
    problems = {row["id"]: row for row in read_lines(wee / "problems" / "selfplay.jsonl")}
    tokenizer = Tokenizer.load(wee / "tokenizer.model")
    for one in records:
        tests = content_hash(problems[one.problem_id]["tests"])
        assert (one.run, one.tokenizer, one.tests) == ("wee", tokenizer.fingerprint, tests)


def test_steps_on_record_were_visited_and_valued(records: list[ProcessRecord]):
    steps = [step for one in records for step in one.steps]
    assert all(step.visits >= 1 and step.value is not None and 0 <= step.value <= 1 for step in steps)


def test_path_is_a_chain_from_the_root(records: list[ProcessRecord]):
    for one in records:
        assert [step.parent for step in one.steps] == [0, *(step.node for step in one.steps[:-1])]


def test_visits_do_not_grow_along_a_path(records: list[ProcessRecord]):
    for one in records:
        visits = [step.visits for step in one.steps]
        assert visits == sorted(visits, reverse=True)


def test_text_is_that_of_the_tokens(wee: Path, records: list[ProcessRecord]):
    tokenizer = Tokenizer.load(wee / "tokenizer.model")
    assert all(step.text == tokenizer.decode(step.tokens) for one in records for step in one.steps)


def test_programs_were_run(wee: Path, records: list[ProcessRecord]):
    assert any(one.verdict is not None for one in records) and results(wee)["001-search"]["executions"] > 0


def test_verdicts_are_those_of_the_problems_own_tests(wee: Path, runs: Path, records: list[ProcessRecord]):
    with opened(wee, runs, upto="002-evaluate") as session:
        judged = [(session.problem[one.problem_id], one.code) for one in records if one.code is not None]
        again = session.judge_all(judged)
        assert [one.verdict for one in again if one] == [one.verdict for one in records if one.code is not None]


def test_some_paths_are_right_and_some_are_not(records: list[ProcessRecord]):
    assert {one.correct for one in records} == {True, False}


def test_solved_problems_are_those_with_a_right_path(wee: Path, records: list[ProcessRecord]):
    right = {one.problem_id for one in records if one.iteration == 1 and one.correct}
    assert set(results(wee)["001-search"]["solved_problems"]) == right


def test_prompts_that_do_not_fit_are_cut_and_counted(wee: Path, runs: Path, capsys: pytest.CaptureFixture[str]):
    # The cap has no influence on shapes as long as it is rounded up to the same number of pages.
    cap = config_of(wee).search.prompt_tokens
    with opened(wee, runs, upto="tcg") as session:
        session.parts.selfplay[:] = [long_problem(session.parts.selfplay[0])]
        reason.run(session, 1)
        [prompt, *_] = [row["prompt_tokens"] for row in session.run.read("process.jsonl")]
        assert session.require("001-search", "")["truncated_prompts"] == 1 and len(prompt) == cap


def long_problem(problem: Any) -> Any:
    import dataclasses

    return dataclasses.replace(problem, statement=problem.statement * 40)


def test_prompts_that_fit_are_not_counted(wee: Path):
    assert results(wee)["001-search"]["truncated_prompts"] == 0


@pytest.mark.parametrize(
    ("upto", "iteration", "missing", "mend"),
    [("problems", 1, "bootstrap", "train.bootstrap"), ("001-prm", 2, "001-rl", "train.rl --iteration 1")],
)
def test_policy_must_be_there(wee: Path, runs: Path, upto: str, iteration: int, missing: str, mend: str):
    # The checkpoint of an earlier attempt lies there: it must not be used.
    with opened(wee, runs, upto=upto) as session, pytest.raises(UserError) as caught:
        reason.run(session, iteration)
    assert f"stage {missing} is not finished; run python -m {mend} first" in str(caught.value)


def test_later_rounds_ask_the_reward_model_of_the_round_before(wee: Path, runs: Path):
    with opened(wee, runs, upto="001-evaluate", search={"value_weight": 0.5}) as session:
        session.parts.selfplay[:] = session.parts.selfplay[:1]
        reason.run(session, 2)
        result = session.require("002-search", "")
        assert result["reward_model"] == session.require("001-prm", "")["weights"]
        assert (result["value_weight"], result["tokens_rated"] > 0) == (0.5, True)


def test_first_round_says_that_there_is_no_reward_model_yet(wee: Path, runs: Path):
    with opened(wee, runs, upto="tcg", search={"value_weight": 0.5}) as session:
        config, model = reason.settings_of(session, 1)
    assert (config.value_weight, model) == (0.0, "")


def test_baseline_that_ranks_by_the_reward_model_has_it_from_the_second_round_on(wee: Path, runs: Path):
    baseline = {"baseline": BaselineConfig("best_of_n", ranking="prm_last")}
    with opened(wee, runs, upto="001-evaluate", search=baseline) as session:
        with contextlib.redirect_stdout(io.StringIO()) as said:
            config, rater = reason.settings_of(session, 1)
        assert (config.baseline.ranking, rater) == ("likelihood", "")
        assert "search.baseline.ranking is likelihood in this round" in said.getvalue()
        config, rater = reason.settings_of(session, 2)
        assert (config.baseline.ranking, config.value_weight) == ("prm_last", 0.0)
        assert rater == "prm-001"
        facts = checkpoint.metadata(session.run.checkpoint(rater))
        assert facts["fingerprint"] == session.require("001-prm", "")["weights"]


def test_reward_model_must_be_there(wee: Path, runs: Path):
    with opened(wee, runs, upto="001-sft", search={"value_weight": 0.5}) as session, pytest.raises(UserError) as caught:
        reason.settings_of(session, 2)
    assert "stage 001-prm is not finished; run python -m train.prm --iteration 1 first" in str(caught.value)
