"""Best-of-n and the step-level beam, against the same in plain Python over the same candidates."""

from __future__ import annotations

import dataclasses
import math
from concurrent.futures import Future

import numpy as np
import pytest
from flax import nnx

from o1coder_jax.errors import UserError
from o1coder_jax.prm import RewardModel, score_tokens
from o1coder_jax.rewards import terminal_reward
from search.config import BaselineConfig
from search.tree import Node, Tree
from search.waves import Search
from tests.search.scripted import CONFIG, PIECES, PROBLEMS, Late, instant, policy, same, verdict_of
from tests.search.test_waves import check_log_probabilities
from tests.tiny import LENGTH, SHAPE, decoder, one_device

BEST_OF_N = dataclasses.replace(CONFIG, rollouts=6, window=2, baseline=BaselineConfig("best_of_n"))
BEAM = dataclasses.replace(
    CONFIG, rollouts=4, merge_identical=True, baseline=BaselineConfig("beam", beams=2, ranking="likelihood")
)


def ranked(config, ranking):
    return dataclasses.replace(config, baseline=dataclasses.replace(config.baseline, ranking=ranking))


@pytest.fixture(scope="module")
def coder():
    return policy()


@pytest.fixture(scope="module")
def rater():
    graph, weights = nnx.split(decoder(SHAPE, len(PIECES), seed=3, value_head=True))
    return RewardModel(graph, weights, "random")


def grown(config, coder, *, problems=PROBLEMS, judge=instant, rater=None, **settings) -> dict[str, Tree]:
    search = Search(coder, problems, judge, config, one_device(), seed=0, iteration=1, reward_model=rater, **settings)
    return {tree.problem.id: tree for tree in search}


def asked(config, coder, rater=None) -> tuple[dict[str, Tree], dict[str, list[str]]]:
    """The trees, and the programs of each in the order in which the judge saw them."""
    programs: dict[str, list[str]] = {problem.id: [] for problem in PROBLEMS}

    def judge(problem, code) -> Future:
        programs[problem.id].append(code)
        return instant(problem, code)

    return grown(config, coder, judge=judge, rater=rater), programs


def ends(tree: Tree) -> list[Node]:
    return [node for node in tree.nodes if node.terminal]


def number(tree: Tree, node: Node) -> int:
    """Its place in the tree; equal nodes may be several."""
    return next(i for i, other in enumerate(tree.nodes) if other is node)


def path(tree: Tree, node: Node) -> list[Node]:
    return [tree.nodes[step] for step in tree.path(number(tree, node))]


def distinct(nodes: list[Node]) -> list[str]:
    """Their different programs, in order."""
    return list(dict.fromkeys(node.code for node in nodes if node.code is not None))


def likelihood(tree: Tree, node: Node) -> float:
    steps = path(tree, node)
    return sum(step.log_probability for step in steps) / sum(len(step.tokens) for step in steps)


def worst(tree: Tree, node: Node) -> float:
    return min(step.opinion for step in path(tree, node))


SCORES = {"likelihood": likelihood, "prm_min": worst, "prm_last": lambda tree, node: node.opinion}


# Best-of-n.


@pytest.fixture(scope="module")
def drawn(coder) -> tuple[dict[str, Tree], dict[str, list[str]]]:
    return asked(BEST_OF_N, coder)


def test_best_of_n_draws_separate_paths_of_one_step_after_another(drawn):
    for tree in drawn[0].values():
        assert sum(node.parent == 0 for node in tree.nodes) == len(ends(tree)) == BEST_OF_N.rollouts
        inner = [i for i, node in enumerate(tree.nodes) if i and not node.terminal]
        assert sorted(inner) == sorted(node.parent for node in tree.nodes if node.parent > 0)


def test_best_of_n_judges_every_path_in_the_order_of_drawing(drawn):
    trees, programs = drawn
    for name, tree in trees.items():
        # Two at a time, a level at a time: a path is as old as its first step.
        starts = [i for i, node in enumerate(tree.nodes) if node.parent == 0]
        order = sorted(ends(tree), key=lambda end: starts.index(tree.path(number(tree, end))[0]))
        assert distinct(order) == programs[name] and tree.executions == len(programs[name])
    assert any(programs.values())
    repeated = sum(sum(end.code is not None for end in ends(tree)) - tree.executions for tree in trees.values())
    assert repeated > 0  # paths that came to one program were judged by one verdict


def test_values_are_means_of_the_verdicts_below(drawn):
    for tree in drawn[0].values():
        for index, node in enumerate(tree.nodes):
            below = [end for end in ends(tree) if index in (0, *tree.path(number(tree, end)))]
            known = [end.reward for end in below if end.reward is not None]
            assert node.visits == len(known)
            assert node.value == (pytest.approx(np.mean(known)) if known else None)
        for end in ends(tree):
            judgement = Tree.NO_PROGRAM if end.code is None else verdict_of(tree.problem, end.code)
            assert end.reward == terminal_reward(judgement, CONFIG.alpha)


def test_paths_drawn_together_are_those_drawn_one_by_one(coder, drawn):
    """Other numbers of expansions give other draws, yet the first round of one path is the first of two paths."""
    alone = grown(dataclasses.replace(BEST_OF_N, window=1, rollouts=1), coder)
    for name, tree in alone.items():
        assert tree.nodes[1].tokens == drawn[0][name].nodes[1].tokens


@pytest.mark.parametrize("ranking", ["likelihood", "prm_min", "prm_last"])
def test_ranked_best_of_n_spends_its_executions_on_the_best(coder, rater, ranking):
    config = ranked(dataclasses.replace(BEST_OF_N, tree_executions=2), ranking)
    trees, programs = asked(config, coder, rater)
    for name, tree in trees.items():
        order = sorted((end for end in ends(tree) if end.code is not None), key=lambda end: -SCORES[ranking](tree, end))
        assert programs[name] == distinct(order)[:2]
        assert len(ends(tree)) == config.rollouts and tree.executions == len(programs[name])


def test_opinions_are_those_of_the_reward_model(coder, rater):
    tree = grown(ranked(BEST_OF_N, "prm_min"), coder, problems=PROBLEMS[:1], rater=rater)["p0"]
    for end in ends(tree):
        tokens = list(tree.prompt)
        for step in path(tree, end):
            tokens += step.tokens
            row = np.zeros((1, LENGTH), np.int32)
            row[0, : len(tokens)] = tokens
            score = score_tokens(rater.graph, rater.weights, row, np.ones_like(row))[0, len(tokens) - 1]
            assert step.opinion == pytest.approx(float(score), abs=1e-4)


def test_log_probabilities_are_those_of_the_forward_pass(coder, drawn):
    """Although the paths of a tree open its root several times."""
    check_log_probabilities(coder, drawn[0])


# Beam.


def beam_oracle(tree: Tree, beams: int, score) -> tuple[list[Node], int]:
    """Replays a tree of one round over its own candidates: the final beam, and the nodes that it needs."""
    beam, used = [tree.nodes[0]], 1
    while any(not node.terminal for node in beam):
        new = []
        for parent in (node for node in beam if not node.terminal):
            children = [node for node in tree.nodes if node.parent == tree.nodes.index(parent)]
            assert children == tree.nodes[used : used + len(children)]
            new += children
            used += len(children)
        able = [node for node in [*(n for n in beam if n.terminal), *new] if node.ended in ("", "code")]
        beam = sorted(able, key=lambda node: -score(tree, node))[:beams]
    return beam, used


@pytest.mark.parametrize("ranking", ["likelihood", "prm_min", "prm_last"])
def test_beam_keeps_the_best_of_each_level(coder, rater, ranking):
    trees, programs = asked(ranked(dataclasses.replace(BEAM, rollouts=2), ranking), coder, rater)
    for name, tree in trees.items():
        beam, used = beam_oracle(tree, 2, SCORES[ranking])
        assert used == len(tree.nodes)
        assert programs[name] == distinct(beam)
        judged = {id(node) for node in beam} | {id(node) for node in ends(tree) if node.code is None}
        assert {id(node) for node in tree.nodes if node.reward is not None or node.judgement} == judged


def test_beams_are_repeated_with_other_draws(coder):
    once, twice = (grown(dataclasses.replace(BEAM, rollouts=n), coder) for n in (2, 4))
    for name, tree in twice.items():
        first = once[name]
        assert [node.tokens for node in tree.nodes[: len(first.nodes)]] == [node.tokens for node in first.nodes]
        assert len(tree.nodes) > len(first.nodes)
    assert any(tree.nodes[len(once[name].nodes)].tokens != tree.nodes[1].tokens for name, tree in twice.items())


# Both.


@pytest.mark.parametrize("config", [BEST_OF_N, BEAM], ids=["best_of_n", "beam"])
def test_company_places_pages_and_late_verdicts_change_nothing(coder, config):
    trees = grown(config, coder)
    for problem in PROBLEMS[:3]:
        same(grown(config, coder, problems=[problem])[problem.id], trees[problem.id])
    for other in (
        grown(config, coder, judge=Late(1)),
        grown(dataclasses.replace(config, slots=4, wave_steps=3), coder),
        grown(dataclasses.replace(config, pages=14), coder),
    ):
        assert other.keys() == trees.keys()
        for name, tree in other.items():
            same(tree, trees[name])


@pytest.mark.parametrize("config", [BEST_OF_N, BEAM], ids=["best_of_n", "beam"])
def test_tokens_bound_a_tree_and_all_of_them_count(coder, config):
    budgets = [10 + 5 * number for number in range(len(PROBLEMS))]
    config = dataclasses.replace(config, rollouts=40)
    search = Search(coder, PROBLEMS, instant, config, one_device(), seed=0, iteration=1, tree_tokens=budgets)
    for tree in search:
        # Nothing is merged away in the paths of best-of-n; a beam's candidates may be.
        assert tree.tokens >= sum(len(node.tokens) for node in tree.nodes)
        starts = [i for i, node in enumerate(tree.nodes) if node.parent == 0]
        width = config.window if config.baseline.kind == "best_of_n" else None
        before = sum(len(node.tokens) for node in tree.nodes[: last_round(tree, starts, width)])
        assert before < budgets[tree.number] <= tree.tokens


def last_round(tree: Tree, starts: list[int], width: int | None) -> int:
    """The first node of the last round: its first step, or that of its whole beam."""
    if width is not None:
        return starts[-width]
    first = starts[-1]
    while first - 1 in starts:
        first -= 1
    return first


@pytest.mark.parametrize(
    "config",
    [BEST_OF_N, ranked(BEST_OF_N, "likelihood"), BEAM],
    ids=["best_of_n", "best_of_n_ranked", "beam"],
)
def test_solved_trees_stop_and_executions_are_bounded(coder, config):
    whole = grown(config, coder)
    stopped = grown(dataclasses.replace(config, stop_when_solved=True), coder)
    assert {name for name, tree in stopped.items() if tree.solved} == {n for n, t in whole.items() if t.solved}
    assert any(tree.executions < whole[name].executions for name, tree in stopped.items() if tree.solved)
    for tree in stopped.values():
        assert len({node.code for node in tree.nodes if node.judgement is not None and node.judgement.accepted}) <= 1
    for tree in grown(dataclasses.replace(config, tree_executions=1), coder).values():
        assert (
            tree.executions == len({node.code for node in tree.nodes if node.judgement is not None and node.code}) <= 1
        )


def test_costs_are_counted(coder):
    search = Search(coder, PROBLEMS, instant, BEAM, one_device(), seed=0, iteration=1)
    trees = list(search)
    assert search.counters.tokens == sum(tree.tokens for tree in trees)
    assert search.counters.kept == sum(len(node.tokens) for tree in trees for node in tree.nodes)
    assert search.counters.executions == sum(tree.executions for tree in trees)
    judged = [(t.number, n) for t in trees for n in t.nodes if n.judgement is not None]
    unchecked = {(number, n.code) for number, n in judged if not n.judgement.checked}
    assert search.counters.infra_errors == len(unchecked)
    assert math.isfinite(sum(node.log_probability for tree in trees for node in tree.nodes))


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        ({"kind": "beam"}, r"search\.baseline\.ranking is drawn, by which no beam of 4 can choose"),
        ({"kind": "beam", "beams": 0, "ranking": "likelihood"}, r"search\.baseline\.beams is 0"),
    ],
)
def test_impossible_baselines_are_refused(arguments, line):
    with pytest.raises(UserError, match=line):
        BaselineConfig(**arguments)


def test_ranking_by_a_reward_model_needs_one(coder):
    with pytest.raises(UserError, match="ranking is prm_last, but there is no process reward model"):
        grown(ranked(BEST_OF_N, "prm_last"), coder)


@pytest.mark.parametrize("config", [BEST_OF_N, BEAM, ranked(BEAM, "prm_last")], ids=["best_of_n", "beam", "rated"])
def test_without_paging_the_trees_are_the_same(coder, rater, config):
    model = rater if config.baseline.rated else None
    paged, plain = (grown(dataclasses.replace(config, paging=paging), coder, rater=model) for paging in (True, False))
    assert plain.keys() == paged.keys()
    for name, tree in plain.items():
        same(tree, paged[name])
        for one, other in zip(tree.nodes, paged[name].nodes, strict=True):
            assert one.opinion == pytest.approx(other.opinion, abs=1e-4)
