"""Whole answers as labels: how they are laid over each other, what they are worth, and that a round draws its own."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from o1coder_jax.errors import UserError
from o1coder_jax.generate import Sample
from o1coder_jax.records import Judgement, ProcessRecord, Verdict
from o1coder_jax.steps import END, STEP_END, Action
from tests.train.test_continuations import BAD, GOOD, UNCHECKED, World, answer
from tests.train.world import opened
from train import continuations, prm, prm_labels
from train.continuations import Answer
from train.prm import PRMConfig
from train.prm_drawn import DrawnConfig, drawn_paths, drawn_tokens, paths_of, roots
from train.prm_examples import held_out, is_held_out, pointwise_examples

DEFINE, REFINE, CODE = f"0. define: x{STEP_END}", f"1. refine: y{STEP_END}", f"2. code:\n```python\nz\n```{END}"
[PREFIX] = roots([("a", [65])], 1, 0)


class Characters:
    """A vocabulary of characters that knows where steps end, by their last one."""

    vocab_size, fingerprint = 128, "characters"

    def decode(self, ids: list[int]) -> str:
        return bytes(ids).decode()


@pytest.fixture
def stops(monkeypatch: pytest.MonkeyPatch) -> None:
    """Steps end at `>`: the markers' last character, which no step of these tests holds otherwise."""
    monkeypatch.setattr(
        "train.prm_drawn.stop_places", lambda stops, tokens: [i for i, token in enumerate(tokens) if token == ord(">")]
    )


def given(text: str, verdict: Verdict | None) -> Answer:
    judgement = None if verdict is None else Judgement(verdict, True, 1, 1)
    tokens = tuple(text.encode())
    sample = Sample(tokens, (-0.5,) * len(tokens), text.endswith(END))
    return Answer(sample, "z" if verdict is not None else None, judgement)


def laid(*answers: Answer) -> list[ProcessRecord]:
    return paths_of(PREFIX, answers, Characters(), None)  # type: ignore[arg-type]


PASSED, FAILED = Verdict.ACCEPTED, Verdict.WRONG_ANSWER


def test_value_of_a_step_is_the_share_of_answers_through_it_that_passed(stops: None):
    good, bad = laid(given(DEFINE + CODE, PASSED), given(DEFINE + REFINE + CODE, FAILED), given(DEFINE + CODE, PASSED))
    assert [(step.value, step.visits) for step in good.steps] == [(pytest.approx(2 / 3), 3), (1.0, 2)]
    assert [(step.value, step.visits) for step in bad.steps] == [(pytest.approx(2 / 3), 3), (0.0, 1), (0.0, 1)]
    assert good.correct and not bad.correct


def test_answers_that_begin_alike_share_their_nodes(stops: None):
    first, second = laid(given(DEFINE + CODE, PASSED), given(DEFINE + REFINE + CODE, FAILED))
    assert [(step.node, step.parent) for step in first.steps] == [(1, 0), (2, 1)]
    assert [(step.node, step.parent) for step in second.steps] == [(1, 0), (3, 1), (4, 3)]
    assert len(pointwise_examples([first, second])) == 2
    weights = [one["weight"].sum() for one in pointwise_examples([first, second], by_visits=True)]
    assert weights == [2 + 1, 1 + 1]


def test_steps_are_read_as_they_were_written(stops: None):
    [one] = laid(given(DEFINE + REFINE + CODE, PASSED))
    assert [step.text for step in one.steps] == [DEFINE, REFINE, CODE]
    assert [step.action for step in one.steps] == [Action.DEFINE, Action.REFINE, Action.CODE]
    assert one.steps[0].log_probability == -0.5 * len(DEFINE) and one.prompt_tokens == (65,)


def test_answer_that_could_not_be_checked_says_nothing(stops: None):
    [one] = laid(given(DEFINE + CODE, PASSED), given(DEFINE + CODE, Verdict.INFRA_ERROR))
    assert [step.visits for step in one.steps] == [1, 1]


def test_step_that_the_cap_cut_off_is_left_out_and_the_others_have_failed(stops: None):
    [one] = laid(given(DEFINE + "1. refine: and so", None))
    assert [(step.text, step.value) for step in one.steps] == [(DEFINE, 0.0)] and one.ended == "truncated"
    assert laid(given("0. define: and so", None)) == []


def test_trees_of_answers_have_numbers_that_no_search_has():
    assert [one.tree for one in roots([("a", [1]), ("b", [2])], 1, 3)] == [-4, -5]


def test_chunks_that_are_kept_are_not_drawn_again(stops: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    world = World(answer(GOOD), answer(BAD), answer(GOOD, ended=False), answer(UNCHECKED))
    monkeypatch.setattr(continuations, "generate", world.generate)
    monkeypatch.setattr("train.prm_drawn.CHUNK_PREFIXES", 1)
    prefixes, file = roots([("a", [65]), ("b", [66])], 1, 0), tmp_path / "d.jsonl"

    def draw() -> list[ProcessRecord]:
        return drawn_paths(world.continuing(), prefixes, file, "r", lambda new: None)

    world.fails_after = 1
    with pytest.raises(KeyboardInterrupt):
        draw()
    world.fails_after = 10**9
    found = draw()
    assert world.drawn == 2 and draw() == found and world.drawn == 2
    assert [(one.problem_id, one.tree, one.verdict) for one in found] == [
        ("a", -1, Verdict.ACCEPTED),
        ("a", -1, Verdict.WRONG_ANSWER),
        ("b", -2, Verdict.ACCEPTED),
        ("b", -2, Verdict.WRONG_ANSWER),
    ]
    assert {one.run for one in found} == {"r"}


def test_stage_draws_for_problems_that_are_not_held_out_and_learns_from_them(wee: Path, runs: Path):
    changes = {"labels": "passes", "weighting": "visits", "drawn": DrawnConfig(selfplay=2, training=3)}
    with opened(wee, runs, upto="001-sft", prm=changes) as session:
        prm.run(session, 1)
        result = session.require("001-prm", "")
        rows = [ProcessRecord.from_json(row) for row in session.run.read(prm_labels.DRAWN)]
        records = [ProcessRecord.from_json(row) for row in session.run.read("process.jsonl")]
        searched = {one.problem_id for one in records if not held_out(one)}
        training = {one.id for one in session.parts.training if not is_held_out(one.id)}
        assert {one.problem_id for one in rows} <= searched | training
        assert result["drawn"] == 2 * len(searched) + 3 * len(training) > 0
        assert {one.policy for one in rows} == {session.load_policy("policy-000").fingerprint}
        assert result["executions"] > 0 and not result["skipped"]
        assert (
            result["tokens_generated"] == drawn_tokens(rows) > sum(len(s.tokens) for one in rows for s in one.steps[:1])
        )
        assert result["examples"] > len(pointwise_examples(one for one in records if not held_out(one)))


def test_answers_are_drawn_once_in_a_round(wee: Path, runs: Path):
    changes = {"labels": "passes", "drawn": DrawnConfig(selfplay=2)}
    with opened(wee, runs, upto="001-sft", prm=changes) as session:
        records = [ProcessRecord.from_json(row) for row in session.run.read("process.jsonl")]
        with session.run.stage_scope("001-prm") as stage:
            first = prm_labels.drawn_steps(session, stage, 1, records)
        with session.run.stage_scope("001-head") as stage:
            assert prm_labels.drawn_steps(session, stage, 1, records) == first
            assert "drawn" not in stage.result


def test_shares_that_passed_are_not_mixed_with_values_of_trees():
    with pytest.raises(UserError, match=r"prm\.labels tree Q/N; set it to passes"):
        PRMConfig(drawn=DrawnConfig(selfplay=1))
    with pytest.raises(UserError, match=r"prm\.drawn\.training is -1"):
        DrawnConfig(training=-1)
    assert dataclasses.replace(PRMConfig(labels="passes"), drawn=DrawnConfig(training=1)).drawn
