"""Fine-tuning: which paths it takes, and that it makes them likelier, and none but them."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from o1coder_jax.policy import encode_prompt
from o1coder_jax.records import ProcessRecord, Verdict
from tests.train.world import opened, record
from train import sft
from train.data import padded_batch
from train.session import Session
from train.sft import path_example, verified_paths
from train.step import sequence_scores


def test_only_correct_paths_are_verified():
    records = [
        record("a", [([1], 1.0)]),
        record("b", [([2], 0.5)], verdict=Verdict.WRONG_ANSWER),
        record("c", [([3], 0.0)], verdict=None),
        record("d", [([4], None)], verdict=Verdict.INFRA_ERROR),
    ]
    assert [path.problem_id for path in verified_paths(records, 4)] == ["a"]


def test_paths_of_a_problem_are_capped():
    records = [record("a", [([i], 1.0)]) for i in range(9)] + [record("b", [([9], 1.0)])]
    assert [path.problem_id for path in verified_paths(records, 3)] == ["a", "a", "a", "b"]


def test_later_iterations_come_first():
    records = [record("a", [([i], 1.0)], iteration=i) for i in (1, 3, 2, 1, 3)]
    assert [path.iteration for path in verified_paths(records, 2)] == [3, 2]


def test_equal_paths_count_once():
    records = [record("a", [([1, 2], 1.0)]), record("a", [([1], 1.0), ([2], 1.0)]), record("a", [([3], 1.0)])]
    assert len(verified_paths(records, 4)) == 2


def test_path_found_again_counts_as_of_the_later_iteration():
    records = [record("a", [([1], 1.0)], iteration=1), record("a", [([1], 1.0)], iteration=2)]
    assert [path.iteration for path in verified_paths(records, 4)] == [2]


def test_likeliest_paths_of_an_iteration_come_first():
    scores = (-3.0, -1.0, -2.0)
    records = [record("a", [([i], 1.0), ([9], 1.0)], log_probability=score) for i, score in enumerate(scores)]
    older = record("a", [([7], 1.0)], iteration=0, log_probability=-0.1)
    assert [path.steps[0].tokens for path in verified_paths([older, *records], 3)] == [(1,), (2,), (0,)]


def test_example_is_the_path_as_it_was_sampled():
    one = path_example(record("a", [([6, 7], 1.0), ([8], 1.0)], prompt=(3, 4)))
    assert one["tokens"].tolist() == [3, 4, 6, 7, 8] and one["weight"].tolist() == [0, 0, 1, 1, 1]


# The stage, on paths that are written here.

RIGHT = "1. define: read list, 1 parts, print list<Step_End>2. code:\n```python\nprint(1)\n```<END>"
WRONG = "1. define: get text, 1 parts, return text<Step_End>2. code:\n```python\nprint(2)\n```<END>"


def planted(session: Session, text: str, verdict: Verdict, iteration: int = 1) -> ProcessRecord:
    problem = session.parts.selfplay[0]
    prompt, _ = encode_prompt(session.tokenizer, problem, session.config.search.prompt_tokens)
    return record(
        problem.id,
        [(session.tokenizer.encode(text), 1.0)],
        prompt=tuple(prompt),
        verdict=verdict,
        iteration=iteration,
    )


def plant(session: Session, records: list[ProcessRecord], iteration: int = 1) -> None:
    with session.run.stage_scope(f"{iteration:03d}-search") as stage:
        stage.append("process.jsonl", records)


def likelihood(session: Session, checkpoint: str, path: ProcessRecord) -> float:
    """log p of a path under a checkpoint of the policy."""
    policy = session.load_policy(checkpoint)
    batch = padded_batch([path_example(path)], 4, 128)
    return float(sequence_scores(policy.graph, policy.weights, batch, session.mesh)[0])


def test_stage_makes_verified_paths_likelier(wee: Path, runs: Path):
    with opened(wee, runs, upto="tcg") as session:
        right = planted(session, RIGHT, Verdict.ACCEPTED)
        plant(session, [right])
        sft.run(session, 1)
        assert likelihood(session, "sft-001", right) > likelihood(session, "policy-000", right) + 1


def test_stage_learns_nothing_from_other_paths(wee: Path, runs: Path, tmp_path: Path):
    weights = []
    for number, verdict in enumerate((Verdict.WRONG_ANSWER, Verdict.INFRA_ERROR, None)):
        folder = runs / str(number)
        folder.mkdir()
        with opened(wee, folder, upto="tcg") as session:
            right = planted(session, RIGHT, Verdict.ACCEPTED)
            others = [] if verdict is None else [planted(session, WRONG, verdict)]
            plant(session, [*others, right, *others])
            sft.run(session, 1)
            weights.append(session.require("001-sft", "")["weights"])
    assert len(set(weights)) == 1


def test_stage_without_a_verified_path_is_skipped_and_says_so(
    wee: Path, runs: Path, capsys: pytest.CaptureFixture[str]
):
    with opened(wee, runs, upto="tcg") as session:
        plant(session, [planted(session, WRONG, Verdict.WRONG_ANSWER)])
        sft.run(session, 1)
        result = session.require("001-sft", "")
        assert result["skipped"] and result["weights"] == session.require("bootstrap", "")["weights"]


def test_paths_too_long_for_a_row_are_counted(wee: Path, runs: Path):
    with opened(wee, runs, upto="tcg") as session:
        right = planted(session, RIGHT, Verdict.ACCEPTED)
        long = dataclasses.replace(
            right, steps=(dataclasses.replace(right.steps[0], tokens=right.steps[0].tokens * 30),)
        )
        plant(session, [right, long])
        sft.run(session, 1)
        result = session.require("001-sft", "")
        assert (result["paths"], result["too_long"]) == (2, 1)


def test_second_round_can_be_left_out_as_in_the_paper(wee: Path, runs: Path):
    with opened(wee, runs, upto="001-evaluate", sft={"every_iteration": False}) as session:
        plant(session, [planted(session, RIGHT, Verdict.ACCEPTED, iteration=2)], iteration=2)
        sft.run(session, 2)
        result = session.require("002-sft", "")
        assert result["skipped"] and result["weights"] == session.require("001-rl", "")["weights"]


def test_real_paths_became_likelier(wee: Path, runs: Path):
    with opened(wee, runs, upto="002-evaluate") as session:
        records = [ProcessRecord.from_json(row) for row in session.run.read("process.jsonl")]
        paths = verified_paths([one for one in records if one.iteration == 1], 4)
        assert len(paths) == session.require("001-sft", "")["paths"] > 0
        before = np.mean([likelihood(session, "policy-000", path) for path in paths])
        after = np.mean([likelihood(session, "sft-001", path) for path in paths])
        assert after > before
