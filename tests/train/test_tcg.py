"""The test case generator: examples, settings, what its stage learns."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import random
import types
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from o1coder_jax.errors import UserError
from o1coder_jax.records import TestCase
from tests.train.tcg_world import (
    CASES,
    Asked,
    Generator,
    Reading,
    answer_of,
    asked_of,
    curriculum_problem,
    problem,
    sample,
)
from tests.train.world import opened, read_lines, results
from train import tcg
from train.bootstrap import case_text
from train.data import BatchConfig, Example, example, padded_batch
from train.session import Session
from train.step import sequence_scores
from train.tcg import TCGConfig, answers, examples
from train.tcg.answers import Answers
from train.tcg.examples import dpo_batch, draws

VALUE = 1000  # added to the tokens of values that are cut by themselves

# Examples.


def test_cases_are_drawn_without_replacement():
    for drawn in draws(problem(), TCGConfig(cases=3, examples_per_problem=20), random.Random(0)):
        assert len({case.input for case in drawn}) == 3


def test_problem_with_few_tests_gives_all_of_them():
    drawn = draws(problem(tests=CASES[:2]), TCGConfig(cases=3, examples_per_problem=4), random.Random(0))
    assert [len(cases) for cases in drawn] == [2] * 4


def test_problem_without_tests_gives_no_example():
    assert draws(problem(tests=()), TCGConfig(), random.Random(0)) == []


def test_short_inputs_are_drawn_anew_and_have_true_outputs():
    one, config = curriculum_problem(), TCGConfig(inputs="short", cases=2, examples_per_problem=8)
    drawn = [case for cases in draws(one, config, random.Random(0)) for case in cases]
    assert len(drawn) == 16 and all(case.output == sum(n + 1 for n in case.input[0]) for case in drawn)
    own = [case.input for case in one.tests]
    assert sum(case.input not in own for case in drawn) > 12


def test_a_template_of_ones_own_is_written_and_read(monkeypatch: pytest.MonkeyPatch):
    session: Any = Asked(monkeypatch, ["3.<END>"], template="({input}) => {output}.")
    one = problem(tests=[TestCase("1 2\n", "3")])
    [learnt, _], _ = examples.sft_examples(session, [one], random.Random(0))
    assert answer_of(learnt) == "(1 2) => 3.<END>"
    read = answers.read(session, one, [sample("(1 2) => 3.<Step_End>in: 1\nout: 2<END>")])
    assert read == Answers([TestCase("1 2\n", "3\n")], 1)
    cases, _ = answers.completed(session, None, [one], ["4\n"], salt=0)
    assert session.prompts == ["?(4) => "] and cases == [TestCase("4\n", "3\n")]


def test_chosen_and_rejected_lie_in_neighbouring_rows():
    pairs: list[tuple[Example, Example]] = [(example([1], [2]), example([1], [3]))]
    batch = dpo_batch(pairs, TCGConfig(dpo_pairs=2), 8)
    assert batch["tokens"][:, 1].tolist() == [2, 3, 0, 0] and batch["valid"].tolist() == [1, 1, 0, 0]


# Traces and lengths.


def test_a_vocabulary_is_fitted_to_cases_without_the_values_that_are_cut_by_themselves():
    one = curriculum_problem()
    config = TCGConfig(trace="clauses", split_values=True)
    names = "\n# 0: \n1 add 1: \n2 sum: \nout: "
    assert case_text(config, one, list(one.tests[:1])) == f"in: {names}<END>"
    assert case_text(TCGConfig(), one, list(one.tests[:1])) == "in: [[0, 2]]\nout: 4<END>"


def test_shuffling_moves_traces_with_their_outputs():
    session: Any = Generator()
    session.config.tcg = TCGConfig(trace="clauses", cases=2, answer_tokens=400, batch=BatchConfig(2, 512))
    pairs, _ = examples.shuffled_pairs(session, [curriculum_problem()], random.Random(0))
    assert pairs
    for right, wrong in pairs:
        good, bad = answer_of(right).split("<Step_End>"), answer_of(wrong).split("<Step_End>")
        inputs, rests = zip(*(one.removesuffix("<END>").split("\n", 1) for one in good), strict=True)
        others, moved = zip(*(one.removesuffix("<END>").split("\n", 1) for one in bad), strict=True)
        assert others == inputs and moved == rests[::-1] and "2 sum: " in rests[0]


@pytest.mark.parametrize("outputs", [["0", "0", "0"], ["1\n", "1", "1\n\n"], ["0"]], ids=["equal", "as written", "one"])
def test_cases_whose_outputs_cannot_be_shuffled_apart_are_counted(outputs: Sequence[str]):
    session: Any = Generator(examples_per_problem=3)
    one = problem(tests=[TestCase(f"{i}\n", output) for i, output in enumerate(outputs)])
    apart = problem(tests=CASES[:2])
    pairs, skipped = examples.shuffled_pairs(session, [one, apart], random.Random(0))
    assert (len(pairs), skipped) == (3, 3)


def test_a_long_test_is_dropped_and_its_problem_kept():
    session: Any = Generator()
    one = problem(tests=[TestCase("7" * 60, "1"), TestCase("2\n", "1")])
    found, dropped = examples.sft_examples(session, [one], random.Random(0))
    assert {answer_of(each) for each in found} == {"in: 2\nout: 1<END>"}
    assert (len(found), dropped) == (2, 2)


def test_inputs_have_a_loss_weight_of_their_own():
    session: Any = Generator()
    session.config.tcg = TCGConfig(trace="clauses", cases=2, answer_tokens=400, batch=BatchConfig(2, 512))
    session.generator.vocabulary.encode_value = lambda text: [VALUE + ord(one) for one in text]
    plain, _ = examples.sft_examples(session, [curriculum_problem()], random.Random(0))
    session.config.tcg = dataclasses.replace(session.config.tcg, split_values=True, input_weight=0.25)
    weighed, _ = examples.sft_examples(session, [curriculum_problem()], random.Random(0))
    for one, other in zip(plain, weighed, strict=True):
        assert np.array_equal(one["tokens"], other["tokens"] % VALUE)
        assert {0.0, 0.25, 1.0} == set(other["weight"].tolist()) and {0.0, 1.0} == set(one["weight"].tolist())
        assert (other["tokens"] >= VALUE)[other["weight"] == 0.25].all()
        light = "".join(chr(i % VALUE) for i, w in zip(other["tokens"], other["weight"], strict=True) if w == 0.25)
        cases = [piece.split("\n")[0].removeprefix("in: ") for piece in answer_of(one).split("<Step_End>")]
        assert light == "".join(cases) and len(cases) == 2


@pytest.mark.parametrize(("reference", "text"), [("with", "s\np"), ("without", "s")])
def test_it_may_be_asked_from_the_question_alone(reference: Any, text: str):
    session: Any = Generator()
    session.config.tcg = TCGConfig(reference=reference)
    seen: list[str] = []
    session.generator.prompt = types.SimpleNamespace(
        encode=lambda vocabulary, asked, cap, keep_end: (seen.append(asked) or [1], False)
    )
    assert examples.prompt(session, curriculum_problem()) == [1] and seen == [text]


def test_of_several_reference_programs_each_example_has_one_at_random():
    session: Any = Reading(examples_per_problem=30)
    one = dataclasses.replace(problem(), solutions=("p", "q", "r"))
    found, _ = examples.sft_examples(session, [one], random.Random(0))
    assert {asked_of(each) for each in found} == {"s\np", "s\nq", "s\nr"}
    pairs, _ = examples.shuffled_pairs(session, [one], random.Random(0))
    assert {asked_of(right) for right, _ in pairs} == {"s\np", "s\nq", "s\nr"}
    assert all(asked_of(right) == asked_of(wrong) for right, wrong in pairs)
    assert "".join(map(chr, examples.prompt(session, one))) == "s\np"  # as it is asked


@pytest.mark.parametrize(("reference", "solutions"), [("with", ("p",)), ("without", ("p", "q"))])
def test_where_there_is_nothing_to_draw_chance_goes_on_as_it_was(reference: Any, solutions: tuple[str, ...]):
    session: Any = Reading(examples_per_problem=3, reference=reference)
    one = dataclasses.replace(problem(), solutions=solutions)
    rng, other = random.Random(0), random.Random(0)
    examples.sft_examples(session, [one], rng)
    draws(one, session.config.tcg, other)
    assert rng.getstate() == other.getstate()


@pytest.mark.parametrize(
    ("settings", "source", "told"),
    [
        ({"trace": "clauses", "template": "{input} {output}"}, "curriculum", "has no field"),
        ({"template": "{input} {trace} {output}"}, "curriculum", "has the field"),
        ({"trace": "clauses"}, "taco", "tcg.trace is clauses, which takes problems of the curriculum"),
        ({"inputs": "short"}, "taco", "tcg.inputs is short"),
        ({"further_problems": 3}, "taco", "tcg.further_problems is 3"),
        ({"template": "{input} {output}<Step_End>"}, "taco", "holds <Step_End>"),
        ({"beta": 0.0}, "taco", r"tcg\.beta is 0\.0; it must be positive"),
        ({"beta": -0.1}, "taco", r"tcg\.beta is -0\.1; it must be positive"),
        ({"dpo_sft_weight": -0.2}, "taco", r"tcg\.dpo_sft_weight is -0\.2; it must not be negative"),
        ({"input_weight": 0.0, "split_values": True}, "taco", r"tcg\.input_weight is 0\.0; it must lie in"),
        ({"input_weight": 1e39, "split_values": True}, "taco", r"tcg\.input_weight is 1e\+39; it must lie in"),
        ({"input_weight": 0.1}, "taco", r"tcg\.input_weight is 0\.1, but without tcg\.split_values"),
        ({"corrected_problems": -1}, "taco", "tcg.corrected_problems is -1; it must not be negative"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(settings: Any, source: str, told: str):
    with pytest.raises(UserError, match=told):
        TCGConfig(**settings).check_source(source)


# The stage.


@pytest.fixture(scope="module")
def trained(wee: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Session]:
    with opened(wee, tmp_path_factory.mktemp("tcg"), upto="tcg") as session:
        yield session


def scores(session: Session, checkpoint: str, given: Sequence[Example]) -> np.ndarray:
    model = session.load_policy(checkpoint)
    batch = padded_batch(list(given), 16, 160)
    return sequence_scores(model.graph, model.weights, batch, session.mesh)[: len(given)]


def test_fine_tuning_makes_the_template_likelier(trained: Session):
    learnt = examples.sft_examples(trained, trained.parts.training, random.Random(0))[0][:16]
    assert scores(trained, "tcg-sft", learnt).mean() > scores(trained, "policy-000", learnt).mean() + 10


def test_preferring_raises_the_margin_of_matching_pairs(trained: Session):
    rng = random.Random(trained.config.seed)  # as the stage drew them: for other shuffles little is sure
    examples.sft_examples(trained, trained.parts.training, rng)
    pairs = examples.shuffled_pairs(trained, trained.parts.training, rng)[0][:8]
    flat = [one for pair in pairs for one in pair]
    margins = []
    for checkpoint in ("tcg-sft", "tcg"):
        found = scores(trained, checkpoint, flat)
        margins.append((found[0::2] - found[1::2]).mean())
    assert margins[1] > margins[0] + 1


def test_generator_has_weights_of_its_own(trained: Session):
    prints = {name: trained.load_policy(name).fingerprint for name in ("policy-000", "tcg-sft", "tcg")}
    assert len(set(prints.values())) == 3


def test_tests_for_rl_are_passed_by_the_reference(trained: Session):
    rows = [row for row in trained.run.read("tests.jsonl") if row["tests"]]
    assert len(rows) == trained.require("tcg", "")["problems_with_tests"] > 0
    for row in rows:
        one = trained.problem[row["problem_id"]]
        ran = trained.pool.outputs(one.solutions[0], [test["input"] for test in row["tests"]], one.fn_name)
        assert [value for _, value in ran] == [test["output"] for test in row["tests"]]


def test_every_selfplay_problem_has_a_row(trained: Session):
    rows = [row["problem_id"] for row in trained.run.read("tests.jsonl")]
    assert rows == [one.id for one in trained.parts.selfplay]


def test_both_phases_are_reported(wee: Path):
    rows = [row for row in read_lines(wee / "metrics.jsonl") if row["stage"] == "tcg"]
    assert any("sft_loss" in row for row in rows) and any("dpo_margin" in row for row in rows)
    assert {"validity_sft", "validity_dpo", "kill_rate", "kill_rate_random", "tokens_generated"} <= results(wee)[
        "tcg"
    ].keys()


def test_generator_without_problems_to_learn_from_is_refused(wee: Path, runs: Path):
    with opened(wee, runs, upto="bootstrap") as session, contextlib.redirect_stderr(io.StringIO()):
        session.parts.training.clear()
        with pytest.raises(UserError, match="tcg: no problem of the training part gives an example"):
            tcg.run(session)
        assert session.run.stage("tcg") is None
