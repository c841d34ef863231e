"""Stored trees: what is read back is what was written, and new verdicts give new values without a new search."""

from __future__ import annotations

import copy
import dataclasses
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import pytest

from o1coder_jax.errors import UserError
from o1coder_jax.records import Judgement, TestCase, Verdict, to_line
from search.finished import FinishedTrees, provenance_of
from search.labels import changed, relabel
from search.selection import SelectionConfig
from search.store import StoredTree, read_trees
from search.tree import Tree
from search.tree import tests_hash as hash_of
from tests.search.scripted import CONFIG, PROBLEMS, instant, policy, same, searching, verdict_of

ROOT = Path(__file__).resolve().parents[2]
PUBLISHED = dataclasses.replace(CONFIG, trees=8, rollouts=12, selection=SelectionConfig(reselect=True))
PROVENANCE = provenance_of("run", 1, PUBLISHED, policy="weights", tokenizer="phrases", seed=0)
KNOWN = {problem.id: problem for problem in PROBLEMS}


@pytest.fixture(scope="module")
def search():
    return searching(PUBLISHED, policy=policy())


@pytest.fixture(scope="module")
def trees(search) -> list[StoredTree]:
    """Eight trees that reach judged terminals again, as the published code's do."""
    return [StoredTree(tree, PROVENANCE) for tree in sorted(search, key=lambda tree: tree.number)]


def test_rollouts_give_what_the_device_backed_up(search, trees):
    """Its float32 sums and the host's, tree by tree: no place was used twice."""
    visits, total = jax.device_get((search.device.forest.visits, search.device.forest.total))
    assert any(rollout.again for stored in trees for rollout in stored.tree.rollouts)
    for place, stored in enumerate(trees):
        nodes = stored.tree.nodes
        assert [node.visits for node in nodes] == visits[place, : len(nodes)].tolist()
        mine = [0.0 if node.value is None else node.value * node.visits for node in nodes]
        np.testing.assert_allclose(mine, total[place, : len(nodes)], atol=1e-5)


def test_trees_come_back_from_json(trees, tmp_path):
    (tmp_path / "trees.jsonl").write_text("".join(map(to_line, trees)))
    for before, after in zip(trees, read_trees(tmp_path / "trees.jsonl"), strict=True):
        problem = dataclasses.replace(before.tree.problem, tests=())
        nodes = [dataclasses.replace(node, judgement=stripped(node.judgement)) for node in before.tree.nodes]
        assert after.tree == dataclasses.replace(before.tree, problem=problem, nodes=nodes)
        assert after.provenance == PROVENANCE
        assert after.records() == before.records()


def stripped(judgement: Judgement | None) -> Judgement | None:
    return judgement and dataclasses.replace(judgement, tests=())


@pytest.mark.parametrize(
    ("name", "value"), [("nodes", []), ("rollouts", [[99, -1, False]]), ("tests", None), ("prompt", 3)]
)
def test_line_that_is_no_tree_is_refused(trees, tmp_path, name, value):
    row = trees[0].to_json() | {name: value}
    if value is None:
        del row[name]
    (tmp_path / "trees.jsonl").write_text(to_line(trees[0]) + json.dumps(row) + "\n")
    with pytest.raises(UserError, match=r"trees\.jsonl, record 2: not a tree"):
        list(read_trees(tmp_path / "trees.jsonl"))


# New tests.


def test_same_verdicts_give_the_same_values_to_the_bit(trees):
    before = [StoredTree.from_json(json.loads(to_line(stored))) for stored in trees]
    after = list(relabel(before, KNOWN, instant))
    assert sum(map(changed, before, after)) == 0
    for old, new in zip(before, after, strict=True):
        assert [(node.visits, node.value, node.reward) for node in new.tree.nodes] == [
            (node.visits, node.value, node.reward) for node in old.tree.nodes
        ]


def test_new_verdicts_give_new_values(trees):
    def nothing_passes(problem, code):
        return instant_of(Judgement(Verdict.WRONG_ANSWER, compiled=True, passed=0, total=2))

    after = list(relabel(trees, KNOWN, nothing_passes))
    assert sum(map(changed, trees, after)) > 0 and any(stored.tree.solved for stored in trees)
    for stored in after:
        assert not stored.tree.solved
        assert max(node.value or 0.0 for node in stored.tree.nodes) <= PUBLISHED.alpha
        programs = [node for node in stored.tree.nodes if node.code is not None and node.visits]
        # What could not be checked before counts now: every rollout does.
        assert stored.tree.nodes[0].visits == len(stored.tree.rollouts) and all(one.reward for one in programs)


def instant_of(judgement: Judgement):
    from concurrent.futures import Future

    future: Future[Judgement] = Future()
    future.set_result(judgement)
    return future


def test_records_say_which_tests_they_were_relabelled_from(trees):
    more = {id: dataclasses.replace(one, tests=(*one.tests, TestCase("1", "2"))) for id, one in KNOWN.items()}
    [record, *_] = next(relabel(trees[:1], more, instant)).records()
    assert (record.tests, record.relabelled_from) == (hash_of(more["p0"]), hash_of(KNOWN["p0"]))


def test_relabelling_leaves_the_trees_it_is_given_alone(trees):
    before = copy.deepcopy(trees)
    list(relabel(trees, KNOWN, lambda problem, code: instant_of(verdict_of(problem, code + "x"))))
    assert trees == before


def test_relabelling_needs_every_problem(trees):
    with pytest.raises(UserError, match="the tree of p0 has no problem"):
        list(relabel(trees, {}, instant))


# A search that is killed.

KILLED = """
import sys, time
from pathlib import Path
from search.finished import FinishedTrees
from tests.search.scripted import PROBLEMS, instant, policy, searching
from tests.search.test_store import CONFIG, PROVENANCE

def slow(problem, code):
    time.sleep(0.05)
    return instant(problem, code)

finished = FinishedTrees(Path(sys.argv[1]), PROBLEMS, PROVENANCE)
for tree in searching(CONFIG, policy=policy(), judge=slow, without=finished.kept):
    finished.add(tree)
    time.sleep(0.5)
"""


def test_search_that_is_killed_ends_with_the_same_trees(tmp_path):
    path = tmp_path / "underway.jsonl"
    process = subprocess.Popen([sys.executable, "-c", KILLED, str(path)], cwd=ROOT, env=dict(os.environ))
    deadline = time.monotonic() + 240
    while not path.exists() or path.read_bytes().count(b"\n") < 3:
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    with path.open("ab") as file:
        file.write(b'{"problem": {"id": "p')  # the kill came in the middle of a line

    finished = FinishedTrees(path, PROBLEMS, PROVENANCE)
    assert 2 <= len(finished.kept) < len(PROBLEMS)
    trees = {**finished.kept}
    for tree in searching(CONFIG, policy=policy(), without=finished.kept):
        finished.add(tree)
        trees[tree.problem.id] = tree
    finished.close()
    unkilled: dict[str, Tree] = {tree.problem.id: tree for tree in searching(CONFIG, policy=policy())}
    assert trees.keys() == unkilled.keys()
    for id, tree in trees.items():
        assert tree.number == unkilled[id].number and tree.rollouts == unkilled[id].rollouts
        same(tree, unkilled[id])
    again = FinishedTrees(path, PROBLEMS, PROVENANCE)
    again.close()
    assert again.kept.keys() == trees.keys()


@pytest.mark.parametrize(("seconds", "waits"), [(60.0, 0), (0.0, 3)])
def test_trees_are_written_at_once_and_wait_for_the_disk_once_a_second(trees, tmp_path, monkeypatch, seconds, waits):
    waited = []
    monkeypatch.setattr("search.finished.os.fsync", waited.append)
    monkeypatch.setattr("search.finished._SYNC_SECONDS", seconds)
    path = tmp_path / "underway.jsonl"
    finished = FinishedTrees(path, PROBLEMS, PROVENANCE)
    for count, one in enumerate(trees[:3], 1):
        finished.add(one.tree)
        assert path.read_bytes().count(b"\n") == 1 + count
    assert len(waited) == waits
    finished.close()
    assert len(waited) == waits + 1


def test_trees_are_on_the_disk_before_those_of_other_processes_are_looked_for(trees, tmp_path, monkeypatch):
    monkeypatch.setattr("search.finished._SYNC_SECONDS", 60.0)
    done = []
    half = len(PROBLEMS) // 2
    mine, others = (FinishedTrees(tmp_path / name, PROBLEMS, PROVENANCE) for name in ("mine", "others"))
    for place, one in enumerate(trees[: len(PROBLEMS)]):
        (mine if place < half else others).add(one.tree)
    monkeypatch.setattr("search.finished.os.fsync", lambda file: done.append("synced"))

    def elsewhere() -> list[Path]:
        done.append("looked")
        return [tmp_path / "others"]

    own = {one.tree.problem.id: one.tree for one in trees[:half]}
    assert [tree.number for tree in mine.complete(own, elsewhere)] == [one.tree.number for one in trees]
    assert done == ["synced", "looked"]
    for file in (mine, others):
        file.close()


@pytest.mark.parametrize(
    "other", [{"seed": 1}, {"policy": "another"}, {"iteration": 2}], ids=["seed", "weights", "iteration"]
)
def test_trees_of_another_search_are_not_kept(trees, tmp_path, other):
    path = tmp_path / "underway.jsonl"
    finished = FinishedTrees(path, PROBLEMS, PROVENANCE)
    finished.add(trees[0].tree)
    finished.close()
    another = dataclasses.replace(PROVENANCE, **other)
    with pytest.raises(UserError, match="holds trees of another search"):
        FinishedTrees(path, PROBLEMS, another)
    fresh = FinishedTrees(path, PROBLEMS, another, replace=True)
    fresh.close()
    assert fresh.kept == {} and path.read_bytes().count(b"\n") == 1


def test_file_is_of_one_search_at_a_time(tmp_path):
    first = FinishedTrees(tmp_path / "underway.jsonl", PROBLEMS, PROVENANCE)
    with pytest.raises(UserError, match="in use by another search"):
        FinishedTrees(tmp_path / "underway.jsonl", PROBLEMS, PROVENANCE)
    first.close()
