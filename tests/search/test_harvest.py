"""Finished trees to records: every visited leaf once, with its whole path and where it came from."""

from __future__ import annotations

import json

import pytest

from o1coder_jax.records import ProcessRecord, Verdict, content_hash, to_line
from search.harvest import Provenance, harvest
from search.tree import Tree
from tests.search.scripted import grown, policy

PROVENANCE = Provenance(run="run", iteration=3, policy="weights", tokenizer="phrases")


@pytest.fixture(scope="module")
def trees() -> list[Tree]:
    return list(grown(policy=policy()).values())


@pytest.fixture(scope="module")
def records(trees) -> list[ProcessRecord]:
    return [record for tree in trees for record in harvest(tree, PROVENANCE)]


def test_records_come_back_from_json(records):
    assert [ProcessRecord.from_json(json.loads(to_line(record))) for record in records] == records


def test_every_visited_leaf_is_recorded_once(trees, records):
    leaves = [(t.number, i) for t in trees for i, node in enumerate(t.nodes) if node.terminal and node.visits]
    assert sorted((record.tree, record.steps[-1].node) for record in records) == sorted(leaves)


def test_steps_are_the_path_from_the_root(trees, records):
    by_number = {tree.number: tree for tree in trees}
    for record in records:
        assert [step.parent for step in record.steps] == [0, *(step.node for step in record.steps[:-1])]
        for step in record.steps:
            node = by_number[record.tree].nodes[step.node]
            assert (step.tokens, step.text, step.action, step.value, step.visits, step.log_probability) == (
                node.tokens, node.text, int(node.action), node.value, node.visits, node.log_probability,
            )  # fmt: skip


def test_every_step_of_a_visited_path_has_a_value(records):
    assert all(step.visits > 0 and 0 <= step.value <= 1 for record in records for step in record.steps)


def test_value_of_the_last_step_is_the_reward(records):
    assert all(record.steps[-1].value == pytest.approx(record.reward) for record in records)


def test_only_accepted_programs_are_correct(records):
    assert {record.correct for record in records} == {True, False}
    for record in records:
        assert record.correct == (record.verdict is Verdict.ACCEPTED)
        assert not record.correct or (record.code is not None and record.reward == 1.0)


def test_verdict_belongs_to_a_program(records):
    assert all((record.verdict is None) == (record.code is None) for record in records)
    assert all((record.code is not None) == (record.ended == "code") for record in records)


def test_unchecked_programs_are_not_recorded(trees, records):
    assert any(n.judgement is not None and not n.judgement.checked for tree in trees for n in tree.nodes)
    assert all(record.reward is not None and record.verdict is not Verdict.INFRA_ERROR for record in records)


def test_records_say_where_they_come_from(trees, records):
    by_number = {tree.number: tree for tree in trees}
    for record in records:
        tree = by_number[record.tree]
        assert (record.run, record.iteration, record.policy, record.tokenizer) == ("run", 3, "weights", "phrases")
        assert (record.problem_id, record.prompt_tokens) == (tree.problem.id, tree.prompt)
        assert record.tests == content_hash([test.to_json() for test in tree.problem.tests])
