"""Pairs that the test case generator prefers by."""

from __future__ import annotations

import contextlib
import random
import types
from typing import Any

import pytest

from o1coder_jax.errors import UserError
from o1coder_jax.records import Form, Problem
from tests.train.tcg_world import (
    CASES,
    FakeSandbox,
    Generator,
    answer_of,
    problem,
    sample,
)
from train import tcg
from train.data import example
from train.tcg import TCGConfig, measures, preferences, stage
from train.tcg.measures import Field, Share
from train.tcg.stage import balanced, fitting_pairs


def test_wrong_outputs_lose_to_right_ones_for_the_same_inputs(monkeypatch: pytest.MonkeyPatch):
    texts = [
        "in: 4\nout: <4\n><END>",  # as the reference of this sandbox has it, but "in: 5" is failed by code "5"
        "in: 5\nout: 7<Step_End>in: 6\nout: 8<END>",
        "in: 5\nout: 7<Step_End>nothing<END>",
        "in: 5x\nout: 7<END>",
    ]
    drawn = [[sample(text)] for text in texts]
    monkeypatch.setattr(preferences, "sampled", lambda *arguments, **options: drawn)
    session: Any = Generator()
    problems = [Problem("a", "s", Form.STDIN, CASES, solutions=("5",)) for _ in texts]
    [(right, wrong)], tokens = preferences.corrected_pairs(session, None, problems)
    assert answer_of(wrong) == texts[1] and tokens == sum(map(len, texts))
    assert answer_of(right) == "in: 5\nout: <5\n><Step_End>in: 6\nout: <6\n><END>"


def test_a_pair_from_the_first_difference_speaks_of_little_more_than_the_mistake():
    better, worse = preferences.from_difference([9], [1, 2, 3, 4], [1, 2, 5, 6, 7], 1)
    assert better["tokens"].tolist() == [9, 1, 2, 3] and worse["tokens"].tolist() == [9, 1, 2, 5]
    assert better["weight"].tolist() == worse["weight"].tolist() == [0, 0, 0, 1]
    whole, other = preferences.from_difference([9], [1, 2], [1, 3], 0)
    assert whole["weight"].tolist() == other["weight"].tolist() == [0, 1, 1]


def test_invalid_tests_lose_to_valid_ones_of_their_problem(monkeypatch: pytest.MonkeyPatch):
    texts = [  # what holds "5" is invalid, and so is what cannot be read; "4" is trivial
        "in: 1 2\nout: 0<Step_End>in: 5 1\nout: 0<END>",
        "in: 4\nout: 0<Step_End>nothing<END>",
    ]
    drawn = [[sample(text) for text in texts], [sample("in: 7 2\nout: 0<Step_End>in: 1 2\nout: 0<END>")]]
    monkeypatch.setattr(preferences, "sampled", lambda *arguments, **options: drawn)
    session: Any = Generator()
    problems = [Problem(name, "s", Form.STDIN, CASES, solutions=("5",)) for name in "ab"]
    [(right, wrong)], tokens = preferences.compared_pairs(session, None, problems)
    assert answer_of(right) == "in: 1 2\nout: 0" and answer_of(wrong) == "in: 5 1\nout: 0"
    assert tokens == sum(len(one.tokens) for of in drawn for one in of)


def test_an_answer_is_cut_at_the_markers():
    vocabulary: Any = Generator().generator.vocabulary
    cut = preferences.pieces(vocabulary, list(map(ord, "ab<Step_End>c<END>")))
    assert ["".join(map(chr, one)) for one in cut] == ["ab", "c"]
    assert preferences.pieces(vocabulary, list(map(ord, "ab<Step_End>c"))) == [list(map(ord, "ab"))]


def test_answers_whose_valid_tests_reject_wrong_programs_win(monkeypatch: pytest.MonkeyPatch):
    drawn = [
        [sample(f"in: {value}\nout: 0<END>") for value in (2, 1, 9, 3)],  # "1" rejects the program "1", 9 is invalid
        [sample("in: 2\nout: 0<END>")] * 4,
    ]
    monkeypatch.setattr(preferences, "sampled", lambda *arguments, **options: drawn)
    monkeypatch.setattr(preferences, "wrong_programs", lambda *arguments: ([["1"], ["1"]], 0))
    session: Any = Generator()
    problems = [Problem(name, "s", Form.STDIN, CASES, solutions=("9",)) for name in "ab"]
    [(best, worst)], _ = preferences.coevolution_pairs(session, None, problems)
    assert (answer_of(best), answer_of(worst)) == ("in: 1\nout: 0<END>", "in: 9\nout: 0<END>")


def test_what_could_not_be_checked_is_on_no_side_of_a_pair(monkeypatch: pytest.MonkeyPatch):
    drawn = [[sample("in: 7 2\nout: 0<Step_End>nothing<END>"), *[sample("in: 1 2\nout: 0<END>")] * 3]]
    monkeypatch.setattr(preferences, "sampled", lambda *arguments, **options: drawn)
    monkeypatch.setattr(preferences, "wrong_programs", lambda *arguments: ([["1"]], 0))
    asked = [Problem("a", "s", Form.STDIN, CASES, solutions=("5",))]
    for broken, pairs in ((False, 1), (True, 0)):
        session: Any = Generator()
        session.broken = broken
        assert len(preferences.compared_pairs(session, None, asked)[0]) == pairs
        assert len(preferences.coevolution_pairs(session, None, asked)[0]) == pairs


def test_pairs_that_do_not_fit_a_row_are_left_out():
    short, long = example([1], [2, 3]), example([1], [2, 3, 4])
    assert fitting_pairs([(short, short), (short, long)], 3) == [(short, short)]


@pytest.mark.parametrize(
    ("settings", "made", "shuffled_from"),
    [
        ({}, {}, 6),
        ({"shuffled": False, "corrected_problems": 2}, {"corrected": 2}, None),
        (
            {"shuffled": False, "compared_problems": 3, "coevolution_problems": 9},
            {"compared": 3, "coevolution": 6},
            None,
        ),
        ({"corrected_problems": 2}, {"corrected": 2}, 2),
    ],
)
def test_pairs_come_from_the_sources_that_the_settings_name(
    monkeypatch: pytest.MonkeyPatch, settings: dict[str, Any], made: dict[str, int], shuffled_from: int | None
):
    asked: dict[str, int] = {}

    def source(name: str, beside: int) -> Any:
        def make(session: Any, *arguments: Any) -> tuple[list[Any], int]:
            problems = next(one for one in arguments if isinstance(one, list))
            asked[name] = len(problems)
            return [(example([1], [2]), example([1], [3])) for _ in problems], beside

        return make

    for name in ("corrected", "compared", "coevolution", "shuffled"):
        monkeypatch.setattr(stage, f"{name}_pairs", source(name, 0 if name == "shuffled" else 10))
    session: Any = types.SimpleNamespace(config=types.SimpleNamespace(tcg=TCGConfig(**settings)))
    told: Any = types.SimpleNamespace(result={})
    problems = [problem(str(number)) for number in range(6)]
    pairs, tokens = stage.preference_pairs(session, told, None, problems, random.Random(0))
    used = made | ({"shuffled": shuffled_from} if shuffled_from is not None else {})
    assert asked == used and tokens == 10 * len(made)
    assert {name: told.result[f"pairs_{name}"] for name in used} == used
    assert len(pairs) == len(used) * min(used.values())


@pytest.mark.parametrize(("updates", "found", "asked", "measured"), [(0, 2, 0, 1), (3, 0, 1, 1), (3, 2, 1, 2)])
def test_what_is_not_learned_from_is_not_made_and_the_same_weights_are_measured_once(
    monkeypatch: pytest.MonkeyPatch, updates: int, found: int, asked: int, measured: int
):
    calls: list[str] = []

    def instead(name: str, value: Any) -> None:
        monkeypatch.setattr(stage, name, lambda *arguments, **options: (calls.append(name), value)[1])

    def measure(session: Any, weights: str, field: Any) -> measures.Measured:
        calls.append("measure")
        figures = {"validity": {"after SFT": 0.5, "after DPO": 0.75}[weights], "kill_rate": 0.25}
        return measures.Measured(figures, Share([], []), Share([], []), 7)

    monkeypatch.setattr(stage, "measure", measure)
    monkeypatch.setattr(Field, "of", lambda session: Field([], [], [], 100))
    instead("fine_tuned", "after SFT")
    instead("preferring", "after DPO")
    instead("preference_pairs", ([(example([1], [2]), example([1], [3]))] * found, 20))
    instead("reward_tests", ([], 1000))
    told: Any = types.SimpleNamespace(result={}, log=lambda *a, **k: None, append_shared=lambda *a: None)
    saved: dict[str, str] = {}
    session: Any = FakeSandbox()
    session.config.tcg = TCGConfig(dpo_updates=updates)
    session.require = lambda *arguments: None
    session.run = types.SimpleNamespace(stage_scope=lambda name: contextlib.nullcontext(told))
    session.parts = types.SimpleNamespace(training=[], selfplay=[])
    session.trainable = lambda *arguments, **options: types.SimpleNamespace(graph=None)
    session.sampler = lambda graph, weights: (graph, weights)
    session.save_model = lambda name, weights, start: saved.setdefault(name, weights)
    session.costs, session.sync_seconds = dict, lambda: 0.0

    tcg.run(session)
    learned = updates > 0 and found > 0
    assert (calls.count("preference_pairs"), calls.count("measure")) == (asked, measured)
    assert saved == {"tcg-sft": "after SFT", "tcg": "after DPO" if learned else "after SFT"}
    result = told.result
    assert (result["validity_sft"], result["validity_dpo"]) == (0.5, 0.75 if learned else 0.5)
    assert result["kill_rate"] == result["kill_rate_dpo"] == 0.25 and result["pairs"] == (found if updates else 0)
    assert result["tokens_generated"] == 1100 + 7 * measured + 20 * asked


def test_generator_that_learns_nothing_does_not_meet_policies():
    with pytest.raises(UserError, match=r"tcg\.coevolve is 5, but tcg\.dpo_updates is 0"):
        TCGConfig(coevolve=5, dpo_updates=0)


def test_no_source_of_pairs_drowns_in_another():
    sources: list[list[Any]] = [list(range(100)), [], ["a", "b", "c"]]
    found: list[Any] = balanced(sources, random.Random(0))
    assert len(found) == 6 and {"a", "b", "c"} < set(found)
    assert balanced([[], []], random.Random(0)) == []
