"""`search.preset: o1coder`: what the published code does, row by row of the list of its departures from the paper."""

from __future__ import annotations

import dataclasses
import json

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from o1coder_jax.errors import UserError
from o1coder_jax.records import Judgement, Verdict
from o1coder_jax.sampling import SamplingConfig
from search.config import SearchConfig
from search.expansion import Expansion
from search.growing import Growing
from search.harvest import Provenance, harvest
from search.sheets import write_sheet
from search.store import StoredTree
from search.tree import Node, Tree
from tests.search.scripted import CONFIG, PIECES, PROBLEMS, PhraseTokenizer, grown, instant, policy, same, searching
from tests.tiny import answer_scores

PENALTY = 1.1
PUBLISHED = dataclasses.replace(CONFIG, preset="o1coder", step_tokens=6, code_tokens=8, alpha=0.5, rollouts=12)


class Numbering(PhraseTokenizer):
    """Knows headers, each of another length; the phrases that follow a 0 may follow them."""

    def encode(self, text: str) -> list[int]:
        number = text.removesuffix(". ")
        return [0] * (int(number) + 1) if number.isdigit() else super().encode(text)


@pytest.fixture(scope="module")
def coder():
    return dataclasses.replace(policy(), tokenizer=Numbering())


@pytest.fixture(scope="module")
def trees(coder) -> list[Tree]:
    return [*grown(PUBLISHED, policy=coder).values()]


def steps_of(trees: list[Tree]) -> list[tuple[list[int], Node]]:
    """All steps, each with the tokens before it."""
    return [
        ([*tree.prompt, *(token for i in tree.path(node.parent) for token in tree.nodes[i].tokens)], node)
        for tree in trees
        for node in tree.nodes[1:]
    ]


# Judged terminals are reached again; a terminal's own value is its reward over its visits.


def test_solved_terminals_are_selected_again_without_another_verdict(trees):
    assert all(len(tree.rollouts) == PUBLISHED.rollouts for tree in trees)
    again = 0
    for tree in trees:
        seen: set[int] = set()
        for rollout in tree.rollouts:
            assert rollout.again == (rollout.end in seen and tree.nodes[rollout.end].reward is not None)
            seen.add(rollout.end)
            again += rollout.again and tree.nodes[rollout.end].reward == 1
    assert again


def test_a_terminal_shares_its_reward_among_its_visits_and_those_above_do_not(trees):
    shared = 0
    for tree in trees:
        for index, node in enumerate(tree.nodes):
            ends = [tree.nodes[r.end].reward for r in tree.rollouts if index == 0 or index in tree.path(r.end)]
            counted = [reward for reward in ends if reward is not None]
            assert node.visits == len(counted)
            if counted and node.terminal:
                assert node.value == pytest.approx(counted[0] / node.visits)
                shared += node.visits > 1 and counted[0] > 0
            elif counted:
                assert node.value == pytest.approx(sum(counted) / len(counted), abs=1e-6)
    assert shared


def test_compiling_has_no_weight(trees):
    """Whatever `search.alpha` says: a reward is the share of tests that pass."""
    judged = [node for tree in trees for node in tree.nodes if node.judgement is not None and node.judgement.checked]
    assert any(node.judgement.compiled and not node.judgement.passed for node in judged)
    assert all(node.reward in (None, node.judgement.passed / node.judgement.total) for node in judged)


# Of sibling programs the best alone is kept.


def test_a_program_has_no_siblings(trees):
    siblings = [
        [node for node in tree.nodes[1:] if node.parent == at] for tree in trees for at in range(len(tree.nodes))
    ]
    assert any(len(some) == PUBLISHED.samples for some in siblings)
    programs = [some for some in siblings if any(node.code is not None for node in some)]
    assert programs
    assert all(len(some) == 1 for some in programs)


@pytest.mark.parametrize(
    ("codes", "picked"),
    [
        ([None, "half", "whole"], [2]),
        (["half", None, "none"], [0]),
        (["unchecked", "none", None], [1]),
        ([None, "unchecked", None], [1]),
        (["half", "half", "none"], [0]),
        ([None, None, None], [0, 1, 2]),
    ],
)
def test_the_best_sibling_program_becomes_the_only_child(codes, picked):
    passed = {"none": 0, "half": 2, "whole": 4}

    def judge(problem, code):
        future = instant(problem, code)
        verdict = Verdict.INFRA_ERROR if code == "unchecked" else Verdict.WRONG_ANSWER
        future = type(future)()
        future.set_result(Judgement(verdict, compiled=True, passed=passed.get(code, 0), total=4))
        return future

    tree = Tree(0, PROBLEMS[0], (0,))
    growing = Growing(tree, np.zeros(2, np.uint32), judge, PUBLISHED.resolved())
    growing.expansion = Expansion.begin(0, tree, 0, number=0, seed=np.zeros(2, np.uint32), width=3)
    growing.expansion.steps = [
        Node(0, 1, (k,), code=code, ended="" if code is None else "code") for k, code in enumerate(codes)
    ]
    attached = growing.attached()
    assert attached is not None
    assert np.flatnonzero(attached.fresh).tolist() == picked
    assert [node.tokens for node in tree.nodes[1:]] == [(k,) for k in picked]
    assert tree.executions == sum(code is not None for code in codes)


# At the depth limit without code.


def test_depth_limit_without_code_backs_up_zero_and_is_flagged(trees, tmp_path):
    flagged = 0
    for tree in trees:
        cut = [node for node in tree.nodes if node.ended == "depth"]
        assert all((node.reward, node.value) == (0.0, 0.0) for node in cut if node.visits)
        records = harvest(tree, Provenance("r", 1, "", ""))
        found = [record for record in records if record.ended == "depth"]
        assert len(found) == sum(node.visits > 0 for node in cut)
        assert all((record.code, record.reward) == (None, 0.0) for record in found)
        flagged += len(found)
        # Not exported in the published form: a path of the sheet ends with a program.
        write_sheet(tmp_path, tree, None)
        exported = json.loads((tmp_path / f"Question {tree.number:04d} - Complete Solutions.json").read_text())
        ends = {max((int(depth), step["node_id"]) for depth, step in path.items())[1] for path in exported}
        assert ends == {index for index, node in enumerate(tree.nodes) if node.code is not None}
    assert flagged


# The walk.


def test_the_whole_simulated_path_stays_and_unexplored_children_come_first(trees):
    first_picks = set()
    for tree in trees:
        visits = [0] * len(tree.nodes)
        children = [[i for i, node in enumerate(tree.nodes) if i and node.parent == at] for at in range(len(visits))]
        for rollout in tree.rollouts:
            path = tree.path(rollout.end)
            assert tree.nodes[rollout.end].terminal
            for at, step in zip([0, *path], path, strict=False):
                unexplored = [child for child in children[at] if not visits[child]]
                assert not unexplored or step in unexplored
                if len(unexplored) == PUBLISHED.samples:
                    first_picks.add(children[at].index(step))
            if tree.nodes[rollout.end].reward is not None:
                for step in path:
                    visits[step] += 1
        paths = {index for rollout in tree.rollouts for index in tree.path(rollout.end)}
        expanded = {node.parent for node in tree.nodes[1:]} - {0}
        assert expanded <= paths
    assert first_picks == set(range(PUBLISHED.samples))  # at random, not in order


# Doubled headers, and the repetition penalty.


def test_steps_follow_the_header_that_they_were_given(trees, coder):
    for _, node in steps_of(trees):
        header = tuple(coder.tokenizer.encode(f"{node.depth - 1}. "))
        assert (node.tokens[: node.given], node.given) == (header, node.depth)
        assert node.text == "".join(PIECES[token] for token in node.tokens[node.given :])
    assert max(node.depth for _, node in steps_of(trees)) == PUBLISHED.depth


def test_log_probabilities_are_the_models_given_all_headers(trees, coder):
    """Not those of the penalised scores, and without the header's own."""
    steps = steps_of(trees)
    before = [[*path, *node.tokens[: node.given]] for path, node in steps]
    drawn = [node.tokens[node.given :] for _, node in steps]
    scores = answer_scores(coder.graph, coder.weights, before, drawn)
    for (_, node), expected in zip(steps, scores, strict=True):
        assert node.log_probability == pytest.approx(expected.sum(), abs=1e-4)
        assert node.prior == pytest.approx(node.log_probability / (len(node.tokens) - node.given))


def test_greedy_steps_are_the_likeliest_after_the_penalty(coder):
    """Of every token of prompt and path, headers included, and of no other path's."""
    config = dataclasses.replace(PUBLISHED, sampling=SamplingConfig(temperature=0), rollouts=4)
    paths = {
        (*path, *node.tokens): len(path) + node.given
        for path, node in steps_of([*grown(config, policy=coder).values()])
    }
    length = max(map(len, paths))
    model = nnx.merge(coder.graph, coder.weights)
    tokens = jnp.asarray([[*path, *[0] * (length - len(path))] for path in paths])
    positions = jnp.broadcast_to(jnp.arange(length), tokens.shape)
    scores = np.asarray(model.logits(model.read(tokens, positions, jnp.ones_like(tokens))))
    differ = 0
    for (path, start), rows in zip(paths.items(), scores, strict=True):
        for at in range(start, len(path)):
            row, said = rows[at - 1], list(set(path[:at]))
            weighed = row.copy()
            weighed[said] = np.where(row[said] < 0, row[said] * PENALTY, row[said] / PENALTY)
            assert weighed[path[at]] == pytest.approx(weighed.max(), abs=1e-4)
            differ += row.argmax() != path[at]
    assert differ


@pytest.mark.parametrize("slots", [2, 20])
def test_neither_company_nor_pages_change_a_tree(trees, coder, slots):
    config = dataclasses.replace(PUBLISHED, slots=slots, trees=2, page_tokens=3, wave_steps=5, pages=40)
    other = grown(config, policy=coder)
    for tree in trees:
        same(other[tree.problem.id], tree)


def test_headers_count_as_no_tokens_and_leave_no_trace_in_records(trees):
    for tree in trees:
        assert tree.tokens >= sum(node.drawn for node in tree.nodes)  # what was drawn beside them was given up
        stored = StoredTree(tree, Provenance("r", 1, "", ""))
        back = StoredTree.from_json(json.loads(json.dumps(stored.to_json()))).tree
        assert [node.given for node in back.nodes] == [node.given for node in tree.nodes]
        for record in stored.records():
            for step in record.steps:
                assert step.text == "".join(PIECES[token] for token in step.tokens)


def test_counters_leave_headers_out(coder):
    search = searching(dataclasses.replace(PUBLISHED, preset="own", double_headers=True), policy=coder)
    found = [*search]
    drawn = sum(node.drawn for tree in found for node in tree.nodes)
    assert search.counters.tokens == search.counters.kept == drawn == sum(tree.tokens for tree in found)


def test_a_header_that_leaves_no_room_is_refused(coder):
    with pytest.raises(UserError, match=r"search\.step_tokens 3 leave no room beside a header of 3 tokens"):
        searching(dataclasses.replace(PUBLISHED, step_tokens=3), policy=coder)


def test_other_presets_have_neither():
    for preset in ("own", "paper", "puct", "gumbel"):
        config = SearchConfig(preset=preset).resolved()
        assert (config.double_headers, config.sampling.repetition_penalty) == (False, 1.0)
    config = SearchConfig(preset="o1coder", sampling=SamplingConfig(0.8, 40, 0.95)).resolved()
    assert config.sampling == SamplingConfig(0.8, 40, 0.95, PENALTY)
