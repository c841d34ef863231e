"""The reward model: what it is taught, where it is read, and that it tells good steps from bad ones."""

from __future__ import annotations

import dataclasses
import math
import re
import types
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flax import nnx

from o1coder_jax import checkpoint, losses
from o1coder_jax.errors import UserError
from o1coder_jax.mesh import MeshConfig, make_mesh, replicate
from o1coder_jax.prm import label_metrics
from o1coder_jax.records import ProcessRecord, Verdict
from o1coder_jax.transformer import Transformer
from search.models import load_reward_model
from tests.train.test_step import MODEL
from tests.train.world import opened, record
from train import prm
from train.continuations import Continued
from train.data import BatchConfig
from train.prm import PRMConfig, answer_ids
from train.prm_examples import held_out, pair_batches, pair_examples, path_tokens, pointwise_examples
from train.prm_scores import score_sequences
from train.session import Session
from train.step import Objective, OptimizerConfig, Trainer


def test_label_stands_at_the_last_token_of_each_step():
    [one] = pointwise_examples([record("a", [([6, 7], 0.25), ([8, 9, 10], 0.75)], prompt=(3, 4))])
    assert one["tokens"].tolist() == [3, 4, 6, 7, 8, 9, 10]
    assert one["weight"].tolist() == [0, 0, 0, 1, 0, 0, 1]
    assert one["label"].tolist() == [0, 0, 0, 0.25, 0, 0, 0.75]


def test_step_that_was_never_visited_has_no_label():
    [one] = pointwise_examples([record("a", [([6], 0.5), ([7], None)])])
    assert one["weight"].tolist() == [0, 0, 0, 1, 0]


def test_value_of_zero_is_a_label():
    [one] = pointwise_examples([record("a", [([6], 0.0)])])
    assert one["weight"].tolist() == [0, 0, 0, 1]


def test_node_that_paths_share_is_labelled_once():
    first = record("a", [([6], 0.5), ([7], 1.0)], nodes=[1, 2])
    second = record("a", [([6], 0.5), ([8], 0.0)], nodes=[1, 3])
    weights = [one["weight"].tolist() for one in pointwise_examples([first, second])]
    assert weights == [[0, 0, 0, 1, 1], [0, 0, 0, 0, 1]]


@pytest.mark.parametrize("other", [{"tree": 1}, {"iteration": 2}])
def test_nodes_of_another_tree_are_others(other: dict[str, int]):
    first, second = record("a", [([6], 0.5)]), record("a", [([6], 0.5)], **other)  # type: ignore[arg-type]
    assert len(pointwise_examples([first, second])) == 2


def test_path_without_a_new_label_teaches_nothing():
    assert len(pointwise_examples([record("a", [([6], 0.5)])] * 2)) == 1


def test_node_of_a_path_that_is_too_long_is_labelled_in_another():
    long = record("a", [([6], 0.5), ([7] * 50, 1.0)], nodes=[1, 2])
    short = record("a", [([6], 0.5), ([8], 0.0)], nodes=[1, 3])
    assert [one["weight"].tolist() for one in pointwise_examples([long, short], 20)] == [[0, 0, 0, 1, 1]]


def test_path_tokens_count_prompt_and_steps():
    assert path_tokens(record("a", [([6, 7], 0.5), ([8], 1.0)], prompt=(3, 4))) == 5


def test_siblings_whose_values_differ_are_a_pair():
    good = record("a", [([6], 0.6), ([7, 8], 1.0)], nodes=[1, 2])
    bad = record("a", [([6], 0.6), ([9], 0.0)], nodes=[1, 3])
    [(win, lose)] = pair_examples([good, bad], 0.1)
    assert (win["tokens"].tolist(), lose["tokens"].tolist()) == ([3, 4, 5, 6, 7, 8], [3, 4, 5, 6, 9])
    assert (win["weight"].tolist(), lose["weight"].tolist()) == ([0, 0, 0, 0, 0, 1], [0, 0, 0, 0, 1])


def test_winner_is_the_better_one_in_any_order():
    bad, good = record("a", [([6], 0.0)], nodes=[1]), record("a", [([7], 1.0)], nodes=[2])
    [(win, _)] = pair_examples([bad, good], 0.1)
    assert win["tokens"].tolist()[-1] == 7


def test_margin_of_a_pair_is_inclusive():
    records = [record("a", [([6 + i], value)], nodes=[1 + i]) for i, value in enumerate((0.25, 0.5, 0.5))]
    assert len(pair_examples(records, 0.25)) == 2


def test_cousins_are_no_pair():
    left = record("a", [([6], 0.5), ([7], 1.0)], nodes=[1, 3])
    right = record("a", [([8], 0.5), ([9], 0.0)], nodes=[2, 4])
    assert pair_examples([left, right], 0.1) == []


def test_sibling_that_was_never_visited_is_in_no_pair():
    assert pair_examples([record("a", [([6], 1.0)], nodes=[1]), record("a", [([7], None)], nodes=[2])], 0.1) == []


def test_children_of_equal_numbers_in_other_trees_are_no_pair():
    records = [record("a", [([6], 1.0)], tree=0), record("b", [([7], 0.0)], tree=1)]
    assert pair_examples(records, 0.1) == []


def test_pairs_lie_in_neighbouring_rows():
    pairs = pair_examples([record("a", [([6], 1.0)], nodes=[1]), record("a", [([7], 0.0)], nodes=[2])], 0.1)
    batch = next(pair_batches(pairs, BatchConfig(rows=4, length=8), 0))
    assert batch["tokens"][:, 3].tolist() == [6, 7, 6, 7] and batch["valid"].tolist() == [1, 1, 1, 1]


# Scores.


def value_model() -> tuple[nnx.GraphDef[Transformer], Any, Any]:
    mesh = make_mesh(MeshConfig())
    model = Transformer(MODEL, 320, value_head=True, rngs=nnx.Rngs(0))
    model.value[...] = np.linspace(-1, 1, MODEL.width).astype(np.float32)
    graph, weights = nnx.split(model)
    return graph, replicate(mesh, weights), mesh


def test_scores_come_in_the_order_of_the_sequences():
    graph, weights, mesh = value_model()
    sequences = [[5] * length for length in (9, 3, 70, 5)]
    together = score_sequences(graph, weights, sequences, mesh, rows=2)
    for sequence, scores in zip(sequences, together, strict=True):
        [alone] = score_sequences(graph, weights, [sequence], mesh, rows=2)
        assert scores.shape == (len(sequence),) and np.allclose(scores, alone, atol=1e-6)


def test_score_at_a_token_does_not_depend_on_what_follows():
    graph, weights, mesh = value_model()
    long, short = score_sequences(graph, weights, [[5, 6, 7, 8, 9], [5, 6, 7]], mesh, rows=2)
    assert np.allclose(long[:3], short, atol=1e-6)


# Learning, on steps that are written here: those with token 7 are good, those with token 8 bad.


def synthetic(problem_id: str, tree: int) -> list[ProcessRecord]:
    """Of sixteen trees no two have the same two tokens before the one that counts, and each token is in four."""
    of_prompt, of_step = 20 + tree % 4, 24 + (tree + tree // 4) % 4
    return [
        record(problem_id, [([of_step, token, 9], value)], tree=tree, nodes=[node], prompt=(3, of_prompt))
        for node, (token, value) in enumerate(((7, 1.0), (8, 0.0)), 1)
    ]


def problem_ids(count: int, *, held: bool) -> list[str]:
    """Ids that are held out, or that are not."""
    found: list[str] = []
    number = 0
    while len(found) < count:
        number += 1
        if held_out(record(f"p{number}", [([1], 1.0)])) == held:
            found.append(f"p{number}")
    return found


def test_one_problem_in_ten_is_held_out():
    held = sum(held_out(record(f"p{number}", [([1], 1.0)])) for number in range(1000))
    assert 60 < held < 140


def test_scores_start_at_one_half(wee: Path, runs: Path):
    with opened(wee, runs, upto="001-sft") as session:
        start = session.trainable("sft-001", None, role="prm").with_head(session.mesh)
        [scores] = score_sequences(start.graph, start.weights, [[5, 6, 7]], session.mesh)
        assert scores.tolist() == [0.5] * 3


def good_and_bad() -> list[ProcessRecord]:
    """Twelve problems to learn from, and four that are held out."""
    names = [*problem_ids(12, held=False), *problem_ids(4, held=True)]
    return [one for tree, name in enumerate(names) for one in synthetic(name, tree)]


def plant_and_train(session: Session, records: list[ProcessRecord]) -> dict[str, Any]:
    with session.run.stage_scope("001-search") as stage:
        stage.append("process.jsonl", records)
    with session.run.stage_scope("001-sft") as stage:
        stage.result["weights"] = session.save_model("sft-001", session.load_policy("policy-000").weights)
    prm.run(session, 1)
    return session.require("001-prm", "")


@pytest.mark.parametrize("objective", ["pointwise", "pairwise"])
def test_stage_orders_good_steps_above_bad_ones_on_problems_it_never_saw(wee: Path, runs: Path, objective: str):
    changes = {"objective": objective, "updates": 40, "optimizer": OptimizerConfig(learning_rate=0.01)}
    with opened(wee, runs, upto="tcg", prm=changes) as session:
        assert plant_and_train(session, good_and_bad())["auc"] == 1.0


def test_stage_lowers_the_log_loss_below_that_of_its_first_scores(wee: Path, runs: Path):
    changes = {"updates": 40, "optimizer": OptimizerConfig(learning_rate=0.01)}
    with opened(wee, runs, upto="tcg", prm=changes) as session:
        result = plant_and_train(session, good_and_bad())
        assert result["log_loss"] < 0.5 * math.log(2) and result["accuracy"] == 1.0


def test_answer_tokens_are_read_as_they_were_trained(wee: Path, runs: Path):
    """On bad steps the bad answer is the likelier next token; what a search loads reads the same."""
    changes = {"read": "answer_tokens", "updates": 40, "optimizer": OptimizerConfig(learning_rate=0.01)}
    with opened(wee, runs, upto="tcg", prm=changes) as session:
        assert plant_and_train(session, good_and_bad())["auc"] == 1.0
        good, bad = answer_ids(session.tokenizer, ("+", "-"))
        assert checkpoint.metadata(session.run.checkpoint("prm-001"))["answers"] == [good, bad]
        [name] = problem_ids(1, held=True)
        [one] = pointwise_examples([synthetic(name, 12)[1]])
        path = one["tokens"].tolist()
        loaded = load_reward_model(session.run.checkpoint("prm-001"), session.tokenizer, session.mesh)
        [scores] = score_sequences(loaded.graph, loaded.weights, [path], session.mesh)
        model = nnx.merge(*session.load_model("prm-001")[:2])
        hidden = model.read(np.array([path]), np.arange(len(path))[None], np.ones((1, len(path)), np.int32))
        logits = np.asarray(model.logits(hidden))[0, -1]
        assert logits[bad] > logits[good]
        assert scores[-1] == pytest.approx(1 / (1 + math.exp(logits[bad] - logits[good])), abs=1e-5)


def test_answers_must_be_one_token_each(wee: Path, runs: Path):
    with opened(wee, runs, upto="tcg") as session, pytest.raises(UserError, match=r"prm\.answers: 'good step' is"):
        answer_ids(session.tokenizer, ("good step", "-"))


def test_labels_of_continuations_are_drawn_trained_on_and_judged_by(wee: Path, runs: Path):
    """Of the tiny run's own trees: each round continues its own steps, and keeps what became of them."""
    changes = {"labels": "continuations", "continuations": 2, "prefixes": 4, "judged": 1, "weighting": "visits"}
    with opened(wee, runs, upto="001-sft", prm=changes) as session:
        prm.run(session, 1)
        result = session.require("001-prm", "")
        rows = [Continued.from_json(row) for row in session.run.read(prm.CONTINUATIONS)]
        assert result["continued"] == len(rows) >= 4 and {len(one.outcomes) for one in rows} == {2}
        assert {one.policy for one in rows} == {session.load_policy("policy-000").fingerprint}
        assert result["executions"] > 0 and not result["skipped"]
        held = {r.problem_id for r in map(ProcessRecord.from_json, session.run.read("process.jsonl")) if held_out(r)}
        judged = {one.problem_id for one in rows} & held
        assert ("by_continuations" in result) == bool(judged)
        assert result["by_tree"]["pooled"]["steps"] >= result["by_tree"]["non_terminal"]["steps"]


@pytest.mark.parametrize(
    ("settings", "line"),
    [
        ({"weights": "policy", "read": "answer_tokens"}, "a head alone, and prm.read answer_tokens asks for none"),
        ({"objective": "pairwise", "targets": "hard"}, "prm.targets is hard, which pair-wise training has no use for"),
        ({"objective": "pairwise", "weighting": "visits"}, "prm.weighting is visits, which pair-wise training has no"),
        ({"threshold": 0.0}, "prm.threshold is 0.0; it must lie in"),
        ({"continuations": 1}, "prm.continuations is 1; give at least 2"),
        ({"judged": -1}, "prm.judged is -1; it must not be negative"),
        ({"answers": ("+", "+")}, "give two texts, for a good and for a bad step"),
    ],
)
def test_settings_that_do_not_fit_are_refused(settings: dict[str, Any], line: str):
    with pytest.raises(UserError, match=re.escape(line)):
        PRMConfig(**settings)


def two_paths() -> list[ProcessRecord]:
    """Of one tree: a path that passed, and another, found three times and less likely, that did not."""
    good = record("a", [([6], 0.6), ([7], 1.0)], nodes=[1, 2])
    bad = record("a", [([6], 0.6), ([8], 0.3)], nodes=[1, 3], verdict=Verdict.WRONG_ANSWER, log_probability=-3.0)
    often = dataclasses.replace(bad.steps[1], visits=3)
    return [good, dataclasses.replace(bad, steps=(bad.steps[0], often))]


LIKELIER = 1 / (1 + math.exp(-2.0))
PAIR_ROWS = BatchConfig(rows=2, length=16)


@pytest.mark.parametrize(
    ("settings", "values", "weights"),
    [
        ({}, [0.6, 1.0, 0.3], [1, 1, 1]),
        ({"targets": "hard"}, [1, 1, 0], [1, 1, 1]),
        ({"targets": "hard", "threshold": 0.7}, [0, 1, 0], [1, 1, 1]),
        ({"weighting": "visits"}, [0.6, 1.0, 0.3], [1, 1, 3]),
        ({"labels": "passes"}, [0.25, 1, 0], [1, 1, 1]),
        ({"labels": "passes", "weighting": "visits"}, [0.25, 1, 0], [4, 1, 3]),
        ({"labels": "chances"}, [LIKELIER, 1, 0], [1, 1, 1]),
        ({"labels": "chances", "weighting": "visits"}, [LIKELIER, 1, 0], [2, 1, 1]),
        ({"labels": "chances", "targets": "hard"}, [1, 1, 0], [1, 1, 1]),
        ({"labels": "continuations"}, [0.4, 1, 0], [1, 1, 1]),
        ({"labels": "continuations", "weighting": "visits"}, [0.4, 1, 0], [5, 5, 5]),
    ],
)
def test_what_is_taught_is_what_the_settings_say(settings: dict[str, Any], values: list[float], weights: list[float]):
    examples, count, objective, batches = taught(PRMConfig(batch=PAIR_ROWS, **settings))
    assert (count, objective) == (2, Objective.of(losses.prm_pointwise)) and batches is not None
    found = np.concatenate([one["label"][one["weight"] > 0] for one in examples])
    assert found.tolist() == pytest.approx(values)
    assert [weight for one in examples for weight in one["weight"] if weight] == weights


@pytest.mark.parametrize(
    ("settings", "count"), [({}, 1), ({"margin": 0.9}, 0), ({"labels": "passes", "margin": 0.9}, 1)]
)
def test_pairs_are_of_siblings_by_the_same_labels(settings: dict[str, Any], count: int):
    examples, pairs, objective, batches = taught(PRMConfig(objective="pairwise", batch=PAIR_ROWS, **settings))
    assert (pairs, objective) == (count, Objective.of(losses.prm_pairwise)) and (batches is not None) == bool(count)
    assert [one["tokens"].tolist()[-1] for one in examples] == [7, 8] * count


def taught(config: PRMConfig) -> Any:
    """The lessons of `two_paths`, of whose first step two of five continuations pass."""
    records = two_paths()
    session: Any = types.SimpleNamespace(
        config=types.SimpleNamespace(prm=config, seed=0),
        own_slice=slice,
        run=types.SimpleNamespace(read=lambda name: [one.to_json() for one in records]),
    )
    found = Continued("a", 1, 0, 1, "p", (True, True, False, False, False))
    return prm.lessons(session, 1, prm.labelled(session, 1, records, {found.place: found}))


def test_held_out_problems_are_not_trained_on(wee: Path, runs: Path):
    with opened(wee, runs, upto="tcg") as session:
        assert plant_and_train(session, good_and_bad())["examples"] == 24


def test_stage_without_a_label_is_skipped(wee: Path, runs: Path):
    with opened(wee, runs, upto="tcg") as session:
        assert plant_and_train(session, [record("a", [([6], None)])])["skipped"] is True


def test_paths_too_long_for_a_row_are_counted(wee: Path, runs: Path):
    [name] = problem_ids(1, held=False)
    with opened(wee, runs, upto="tcg") as session:
        result = plant_and_train(session, [*good_and_bad(), record(name, [([6] * 200, 1.0)], tree=99)])
        assert (result["examples"], result["too_long"]) == (24, 1)


def test_real_reward_model_was_trained_from_the_policy(wee: Path, runs: Path):
    with opened(wee, runs, upto="002-evaluate") as session:
        result = session.require("001-prm", "")
        assert result["examples"] > 0 and result["skipped"] is False
        _, weights, _ = session.load_model("prm-001", value_head=True)
        assert np.abs(nnx.to_pure_dict(weights)["value"]).max() > 0


def test_metrics_of_scores_by_hand():
    metrics = label_metrics(np.array([0.9, 0.6, 0.2]), np.array([1.0, 0.0, 0.0]))
    assert metrics["auc"] == 1.0 and metrics["accuracy"] == pytest.approx(2 / 3)
    assert metrics["log_loss"] == pytest.approx(-(math.log(0.9) + math.log(0.4) + math.log(0.8)) / 3)


def test_pairwise_objective_reads_the_last_token_of_each_row():
    graph, weights, mesh = value_model()
    pairs = pair_examples([record("a", [([6], 1.0)], nodes=[1]), record("a", [([7, 8], 0.0)], nodes=[2])], 0.1)
    batch = next(pair_batches(pairs, BatchConfig(rows=2, length=8), 0))
    win, lose = score_sequences(graph, weights, [pairs[0][0]["tokens"].tolist(), pairs[0][1]["tokens"].tolist()], mesh)
    raw = [math.log(score[-1] / (1 - score[-1])) for score in (win, lose)]
    trainer = Trainer(graph, weights, Objective.of(losses.prm_pairwise), OptimizerConfig(), mesh, updates=1)
    expected = math.log1p(math.exp(raw[1] - raw[0]))
    assert float(trainer.step(batch)["loss"]) == pytest.approx(expected, abs=1e-4)
