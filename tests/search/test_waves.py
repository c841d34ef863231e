"""Whole searches with a small random decoder: each tree is the algorithm's, whatever shares its batch."""

from __future__ import annotations

import dataclasses
import logging
import re
import zlib
from concurrent.futures import Future

import jax
import numpy as np
import pytest

from o1coder_jax.errors import UserError
from o1coder_jax.records import Judgement, Verdict
from o1coder_jax.rewards import terminal_reward
from o1coder_jax.sampling import SamplingConfig, seed_for
from o1coder_jax.steps import END, STEP_END, Action
from o1coder_jax.stopping import stop_texts
from search.config import SearchConfig
from search.selection import SelectionConfig
from search.tree import Tree
from tests.search.oracle import Candidate, Oracle
from tests.search.scripted import (
    CONFIG,
    PIECES,
    PROBLEMS,
    Late,
    PhraseTokenizer,
    grown,
    instant,
    policy,
    same,
    searching,
)
from tests.tiny import answer_scores


@pytest.fixture(scope="module")
def coder():
    return policy()


@pytest.fixture(scope="module")
def trees(coder) -> dict[str, Tree]:
    """Eight problems through four places."""
    return grown(policy=coder)


def nodes_of(trees):
    return [(tree, index, node) for tree in trees.values() for index, node in enumerate(tree.nodes)]


def leaves_below(tree: Tree, index: int):
    return [node for at, node in enumerate(tree.nodes) if node.terminal and (index == 0 or index in tree.path(at))]


def test_every_problem_gets_its_tree(trees):
    assert sorted(trees) == [problem.id for problem in PROBLEMS]
    assert [trees[problem.id].number for problem in PROBLEMS] == [*range(len(PROBLEMS))]


def test_the_searches_cover_every_ending(trees):
    """Otherwise the tests below would say little."""
    ends = {node.ended for _, _, node in nodes_of(trees) if node.visits and node.terminal}
    verdicts = {node.judgement.verdict for _, _, node in nodes_of(trees) if node.judgement is not None}
    assert ends == {"code", "depth", "malformed", "truncated"}
    assert {Verdict.ACCEPTED, Verdict.WRONG_ANSWER, Verdict.COMPILE_ERROR, Verdict.INFRA_ERROR} <= verdicts
    assert max(node.visits for _, index, node in nodes_of(trees) if index == 0) == CONFIG.rollouts


def test_trees_are_those_of_the_plain_algorithm(trees):
    """The oracle walks through the same candidates and rewards, and must ask for them in the same order."""
    for tree in trees.values():
        asked = 1

        def expand(node, tree=tree):
            nonlocal asked
            children = tree.nodes[asked : asked + CONFIG.samples]
            assert [child.parent for child in children] == [node] * CONFIG.samples
            asked += CONFIG.samples
            return [Candidate(child.terminal) for child in children]

        seed = np.asarray(seed_for(0, 1, zlib.crc32(tree.problem.id.encode())))
        oracle = Oracle(
            seed, CONFIG.rollouts, CONFIG.selection, expand, lambda node, tree=tree: tree.nodes[node].reward
        )
        oracle.grow()
        assert asked == len(tree.nodes)
        assert [node.visits for node in tree.nodes] == [node.visits for node in oracle.nodes]
        expected = [node.total / node.visits if node.visits else None for node in oracle.nodes]
        assert [node.value for node in tree.nodes] == [
            value if value is None else pytest.approx(value) for value in expected
        ]


def test_value_is_the_mean_reward_of_the_checked_leaves_below(trees):
    """Q / N for every node, terminals included; programs that could not be checked leave no trace."""
    for tree, index, node in nodes_of(trees):
        rewards = [leaf.reward for leaf in leaves_below(tree, index) if leaf.reward is not None]
        assert node.visits == len(rewards)
        assert node.value == (pytest.approx(np.mean(rewards)) if rewards else None)


def test_unchecked_programs_have_neither_reward_nor_value(trees):
    unchecked = [n for _, _, n in nodes_of(trees) if n.judgement is not None and not n.judgement.checked]
    assert unchecked
    assert {(node.reward, node.value, node.visits) for node in unchecked} == {(None, None, 0)}


def test_programs_are_rewarded_by_their_judgement(trees):
    judged = [node for _, _, node in nodes_of(trees) if node.judgement is not None and node.judgement.checked]
    assert judged
    assert all(node.reward == terminal_reward(node.judgement, CONFIG.alpha) for node in judged)


def test_paths_without_program_get_reward_zero(trees):
    without = [n for _, _, n in nodes_of(trees) if n.ended in ("depth", "malformed", "truncated") and n.visits]
    assert {node.reward for node in without} == {0.0}
    assert {node.judgement for node in without} == {None}


def test_search_ends_with_its_rollouts_or_when_all_is_known(trees):
    for tree in trees.values():
        settled = [node for node in tree.nodes if node.reward is not None or node.judgement is not None]
        open_leaves = [n for n in tree.nodes if n.terminal and n not in settled] or [
            n for i, n in enumerate(tree.nodes) if not n.terminal and all(c.parent != i for c in tree.nodes)
        ]
        assert len(settled) == CONFIG.rollouts or not open_leaves


def test_step_at_the_depth_limit_is_labelled(trees):
    for _, index, node in nodes_of(trees):
        if node.ended == "depth":
            assert (node.depth, node.action in (Action.DEFINE, Action.REFINE), node.code) == (CONFIG.depth, True, None)
        if not node.ended and index:
            assert node.depth < CONFIG.depth


def test_endings_follow_from_the_tokens(trees):
    """Each label against the grammar, spelled out anew from the ids of the phrases."""
    define, code, step_end, end = {1, 2, 3}, {4, 5, 6}, PhraseTokenizer.step_end, PhraseTokenizer.end
    for _, index, node in nodes_of(trees):
        if not index:
            continue
        *body, last = [token for token in node.tokens if token]
        if last not in (step_end, end):
            expected = "truncated"
        elif body and body[0] in code and body[-1] in code:
            expected = "code" if last == end else "malformed"
        elif len(node.tokens) > CONFIG.step_tokens:
            expected = "truncated"
        elif body and body[0] in define and last == step_end:
            expected = "depth" if node.depth == CONFIG.depth else ""
        else:
            expected = "malformed"
        assert node.ended == expected, node.text


def test_only_code_steps_hold_a_program(trees):
    assert all((node.code is not None) == (node.ended == "code") for _, _, node in nodes_of(trees))


def test_steps_never_pass_their_caps(trees):
    for _, _, node in nodes_of(trees):
        assert len(node.tokens) <= CONFIG.code_tokens
        assert node.ended in ("truncated", "code") or len(node.tokens) <= CONFIG.step_tokens


def check_log_probabilities(coder, trees):
    triples = [
        ([*tree.prompt, *(token for i in tree.path(node.parent) for token in tree.nodes[i].tokens)], node)
        for tree, index, node in nodes_of(trees)
        if index
    ]
    assert max(node.depth for _, node in triples) == CONFIG.depth
    scores = answer_scores(coder.graph, coder.weights, [p for p, _ in triples], [node.tokens for _, node in triples])
    for (_, node), expected in zip(triples, scores, strict=True):
        assert node.log_probability == pytest.approx(expected.sum(), abs=1e-4)


def test_decoding_through_pages_equals_the_forward_pass_over_the_path(coder, trees):
    check_log_probabilities(coder, trees)


@pytest.mark.parametrize("page_tokens", [1, 8])
def test_page_size_changes_nothing(coder, trees, page_tokens):
    other = grown(dataclasses.replace(CONFIG, page_tokens=page_tokens), policy=coder)
    check_log_probabilities(coder, other)
    for name, tree in trees.items():
        same(other[name], tree)


def test_length_of_a_wave_changes_nothing(coder, trees):
    other = grown(dataclasses.replace(CONFIG, wave_steps=1), policy=coder)
    for name, tree in trees.items():
        same(other[name], tree)


def test_number_of_places_changes_nothing(coder, trees):
    """Matrix products of other sizes may round otherwise; draws are the same unless one falls into that gap."""
    other = grown(dataclasses.replace(CONFIG, trees=3), policy=coder)
    for name, tree in trees.items():
        same(other[name], tree)


def test_rows_that_are_fewer_than_candidates_change_nothing(coder, trees):
    """One row starts in a wave and ends in it, so that between two waves no row is in use."""
    few = dataclasses.replace(CONFIG, trees=2, slots=2, wave_steps=8)
    for name, tree in grown(few, problems=PROBLEMS[:2], policy=coder).items():
        same(tree, trees[name])


def test_problem_alone_gets_the_tree_it_gets_in_company(coder, trees):
    for problem in PROBLEMS:
        same(grown(problems=[problem], policy=coder)[problem.id], trees[problem.id])


def test_order_of_the_problems_changes_nothing(coder, trees):
    for name, tree in grown(problems=PROBLEMS[::-1], policy=coder).items():
        same(tree, trees[name])


@pytest.mark.parametrize("seed", [0, 1])
def test_arrival_of_verdicts_changes_nothing(coder, trees, seed):
    late = grown(policy=coder, judge=Late(seed))
    assert sorted(late) == sorted(trees)
    for name, tree in late.items():
        same(tree, trees[name], tolerance=1e-5)


def test_same_seed_gives_the_same_trees_in_the_same_order(coder, trees):
    again = list(searching(policy=coder))
    assert [tree.problem.id for tree in again] == list(trees)
    for tree in again:
        same(tree, trees[tree.problem.id], tolerance=0)


def test_another_seed_gives_other_trees(coder, trees):
    other = grown(policy=coder, seed=1)
    assert any(other[name].nodes[1].tokens != tree.nodes[1].tokens for name, tree in trees.items())


def compiled(caplog, search) -> list[str]:
    """Names of the functions that XLA compiles during a search."""
    caplog.clear()
    with caplog.at_level(logging.WARNING), jax.log_compiles():
        list(search())
    return [name for message in caplog.messages for name in re.findall(r"^Compiling (?:jit\()?(\w+)", message)]


def test_second_search_compiles_nothing(coder, trees, caplog):
    assert compiled(caplog, lambda: searching(policy=policy(3), problems=PROBLEMS[:5], seed=5)) == []


def test_search_compiles_each_of_its_functions_once(coder, trees, caplog):
    """Also the control of the test above: that compiling would be seen."""
    names = compiled(caplog, lambda: searching(dataclasses.replace(CONFIG, depth=2, trees=2), policy=coder))
    assert [names.count(name) for name in ("read", "plant", "wave", "turn")] == [1, 1, 1, 1]


def test_other_sampling_compiles_nothing(coder, trees, caplog):
    """Temperature, top-k and top-p are traced; only whether anything is truncated is not."""

    def sampled(**settings):
        return searching(dataclasses.replace(CONFIG, sampling=SamplingConfig(**settings)), PROBLEMS[:1], policy=coder)

    assert compiled(caplog, lambda: sampled(temperature=0.7)) == []
    assert compiled(caplog, lambda: sampled(temperature=0.9, top_k=3)) == ["wave"]
    assert compiled(caplog, lambda: sampled(temperature=0.6, top_k=5, top_p=0.8)) == []


def test_no_problems_no_trees(coder):
    assert grown(problems=[], policy=coder) == {}


def test_identical_candidates_become_one_child(coder):
    """At temperature 0 all candidates are the same."""
    greedy = dataclasses.replace(CONFIG, sampling=SamplingConfig(temperature=0), merge_identical=True)
    for tree in grown(greedy, policy=coder).values():
        assert [node.parent for node in tree.nodes] == [*range(-1, len(tree.nodes) - 1)]


class Tails(PhraseTokenizer):
    """The same ids, found by their bytes; more text follows the marker in its token."""

    pieces = tuple(piece + " tail" if piece in (STEP_END, END) else piece for piece in PIECES)

    def stops(self, markers):
        return stop_texts([piece.encode() for piece in self.pieces], [marker.encode() for marker in markers])

    def decode(self, ids):
        return "".join(self.pieces[i] for i in ids)


def test_markers_inside_of_tokens_end_steps(coder, trees):
    """The same ids and texts: what follows a marker in its token is on the path, but not in the step's text."""
    for name, tree in grown(policy=dataclasses.replace(coder, tokenizer=Tails())).items():
        same(tree, trees[name])
        assert [node.text for node in tree.nodes] == [node.text for node in trees[name].nodes]
        assert [node.code for node in tree.nodes] == [node.code for node in trees[name].nodes]


@pytest.fixture(scope="module")
def merging(coder) -> dict[str, Tree]:
    return grown(dataclasses.replace(CONFIG, merge_identical=True), policy=coder)


def test_merged_siblings_differ(merging):
    for tree, index, _ in nodes_of(merging):
        steps = [node.tokens for node in tree.nodes if node.parent == index]
        assert len(set(steps)) == len(steps)


def test_merging_drops_repetitions_only(merging, trees):
    dropped = 0
    for name, tree in trees.items():
        drawn = [node.tokens for node in tree.nodes if node.parent == 0]
        kept = [node.tokens for node in merging[name].nodes if node.parent == 0]
        assert kept == list(dict.fromkeys(drawn))
        dropped += len(drawn) - len(kept)
    assert dropped


def test_values_hold_with_merged_siblings(merging):
    for tree, index, node in nodes_of(merging):
        assert node.visits == len([leaf for leaf in leaves_below(tree, index) if leaf.reward is not None])


def test_pages_hold_with_merged_siblings(coder, merging):
    check_log_probabilities(coder, merging)


def test_counters_say_what_it_cost(coder):
    search = searching(policy=coder)
    found = list(search)
    nodes = [node for tree in found for node in tree.nodes[1:]]
    assert search.counters.tokens == search.counters.kept == sum(len(node.tokens) for node in nodes)
    assert search.counters.executions == sum(node.judgement is not None for node in nodes)
    assert search.counters.infra_errors == sum(n.judgement is not None and not n.judgement.checked for n in nodes)
    assert search.counters.places == search.counters.waves * CONFIG.wave_steps * CONFIG.slots + len(nodes)
    # Each token but the last of a step that nobody continued.
    continued = {(tree.number, node.parent) for tree in found for node in tree.nodes[1:]}
    prompts = sum(len(tree.prompt) - 1 for tree in found)
    assert search.counters.fed == prompts + sum(len(node.tokens) - 1 for node in nodes) + len(continued)


def test_long_statements_are_cut_and_counted(coder):
    long = dataclasses.replace(PROBLEMS[0], statement="word " * 20)
    search = searching(problems=[long, PROBLEMS[1]], policy=coder)
    prompts = {tree.problem.id: tree.prompt for tree in search}
    assert search.truncated_prompts == 1
    assert (len(prompts[long.id]), prompts[long.id][-1]) == (CONFIG.prompt_tokens, 0)


def test_error_of_the_judge_reaches_the_caller(coder):
    def broken(problem, code):
        future: Future[Judgement] = Future()
        future.set_exception(RuntimeError("no more processes"))
        return future

    with pytest.raises(RuntimeError, match="no more processes"):
        grown(policy=coder, judge=broken)


def test_solved_trees_hold_an_accepted_program(trees):
    assert {tree.solved for tree in trees.values()} == {True, False}
    for tree in trees.values():
        assert tree.solved == any(n.reward == 1.0 and n.ended == "code" for n in tree.nodes)


def test_judge_sees_each_program_of_a_rollout_once(coder, trees):
    asked = []

    def counting(problem, code):
        asked.append((problem.id, code))
        return instant(problem, code)

    grown(policy=coder, judge=counting)
    judged = [(tree.problem.id, node.code) for tree, _, node in nodes_of(trees) if node.judgement is not None]
    assert sorted(asked) == sorted(judged)


@pytest.mark.parametrize(
    "field", ["trees", "rollouts", "depth", "samples", "wave_steps", "prompt_tokens", "step_tokens", "page_tokens"]
)
def test_sizes_below_one_are_refused(field):
    with pytest.raises(UserError, match=rf"search\.{field} is 0"):
        SearchConfig(**{field: 0})


def test_code_steps_shorter_than_others_are_refused():
    with pytest.raises(UserError, match=r"search\.code_tokens 10 is less than search\.step_tokens 20"):
        SearchConfig(step_tokens=20, code_tokens=10)


@pytest.mark.parametrize("alpha", [-0.1, 1.1])
def test_alpha_out_of_range_is_refused(alpha):
    with pytest.raises(UserError, match=rf"search\.alpha is {alpha}"):
        SearchConfig(alpha=alpha, selection=SelectionConfig())


def test_without_paging_the_trees_are_the_same_and_paths_are_read_whole(coder, trees):
    search = searching(dataclasses.replace(CONFIG, paging=False), policy=coder)
    found = list(search)
    for tree in found:
        same(tree, trees[tree.problem.id])
    expanded = {(tree.number, node.parent): tree for tree in found for node in tree.nodes[1:]}
    paths = sum(
        len(tree.prompt) + sum(len(tree.nodes[i].tokens) for i in tree.path(parent))
        for (_, parent), tree in expanded.items()
    )
    drawn = sum(len(node.tokens) - 1 for tree in found for node in tree.nodes[1:])
    assert search.counters.fed == paths + drawn
    paged = searching(policy=coder)
    list(paged)
    assert search.counters.reread == search.counters.fed - paged.counters.fed > 0
