"""Trees as text and JSON."""

from __future__ import annotations

import json

import pytest

from o1coder_jax.errors import UserError
from o1coder_jax.records import Judgement, Verdict
from o1coder_jax.steps import Action
from search.harvest import Provenance
from search.render import best_path, chosen, json_of, text_of
from search.store import StoredTree
from search.tree import Node, Rollout, Tree
from tests.search.scripted import PROBLEMS

ACCEPTED = Judgement(Verdict.ACCEPTED, compiled=True, passed=4, total=4)


@pytest.fixture
def stored() -> StoredTree:
    """root -> 1 define -> 3 accepted, 4 never reached; root -> 2 truncated."""
    nodes = [
        Node(-1, 0),
        Node(0, 1, (1, 7), "1. define: a", Action.DEFINE, -0.5),
        Node(0, 1, (2,), "1. def" + "x" * 200, Action.NONE, -2.25, ended="truncated", reward=0.0),
        Node(1, 2, (5, 8), "3. code:\n```python\nA\n```", Action.CODE, -1.5, "code", "A", ACCEPTED, 1.0, opinion=0.25),
        Node(1, 2, (6, 8), "3. code: C", Action.CODE, -0.1, "code", "C"),
    ]
    tree = Tree(5, PROBLEMS[0], (0, 3), nodes, tokens=9, executions=1)
    tree.finish([Rollout(3), Rollout(2)])
    return StoredTree(tree, Provenance("mine", 3, "abc", "def", relabelled_from="older"))


def test_text_has_a_line_for_each_visited_node(stored):
    assert text_of(stored, width=60).splitlines() == [
        "p0: 4 nodes, 2 rollouts, solved; 9 tokens, 1 programs run",
        "  run mine, iteration 3, policy abc, relabelled from test...",
        "* N   2  Q/N 0.50           root",
        "* N   1  Q/N 1.00     -0.50   define: 1. define: a",
        "* N   1  Q/N 1.00     -1.50 r 0.25     code [accepted]: 3...",
        "  N   1  Q/N 0.00     -2.25   no step [truncated]: 1. def...",
    ]


def test_all_nodes_are_shown_when_asked_for(stored):
    assert "  N   0  Q/N    -     -0.10     code [code]: 3. code: C" in text_of(stored, unvisited=True).splitlines()


def test_best_path_follows_value_then_visits(stored):
    assert best_path(stored.tree) == [0, 1, 3]


def test_json_nests_children_and_marks_the_best_path(stored):
    root = json.loads(json.dumps(json_of(stored)))["root"]
    assert (root["node"], root["visits"], root["best"]) == (0, 2, True)
    assert [(node["node"], node["best"]) for node in root["children"]] == [(1, True), (2, False)]
    [code] = root["children"][0]["children"]
    assert (code["code"], code["judgement"]["verdict"], code["children"]) == ("A", "accepted", [])


def test_trees_of_one_problem_are_chosen(stored, tmp_path):
    assert list(chosen([stored], "p0", tmp_path)) == [stored]
    with pytest.raises(UserError, match="no tree of problem other"):
        list(chosen([stored], "other", tmp_path))
