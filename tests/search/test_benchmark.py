"""The benchmark's arithmetic, its policy's grammar, and the rules of the search that it compares with."""

from __future__ import annotations

import dataclasses
import random

import jax
import numpy as np
import pytest
from flax import nnx
from jax.sharding import Mesh

from benchmarks import baseline, scripted, sequential
from benchmarks import search as benchmark
from benchmarks.search import Row, Unique
from o1coder_jax.policy import encode_prompt
from o1coder_jax.steps import Action, parse_step
from search.counters import Counters
from search.tree import Node, Tree
from search.waves import Search


def tree(number: int, prompt: tuple[int, ...], *steps: tuple[int, tuple[int, ...]]) -> Tree:
    [problem] = scripted.problems(1)
    nodes = [Node(-1, 0), *(Node(parent, 1, tokens) for parent, tokens in steps)]
    return Tree(number, problem, prompt, nodes)


def test_unique_tokens_are_those_of_prompts_and_nodes():
    first = tree(0, (1, 2, 3), (0, (4, 5)), (0, (4, 5)), (1, (6, 7, 8)))  # one of two twins was continued
    assert benchmark.unique_tokens([first]) == Unique(3 + (1 + 1) + 1 + 2, 3 + 2 + 2 + 3)
    second = tree(1, (1, 2, 9, 9), (0, (4,)))
    assert benchmark.unique_tokens([first, second]) == Unique(2 + 1 + 2 + 5 + 0, 2 + 1 + 2 + 7 + 1)


def test_tokens_that_a_search_computed_are_the_unique_ones():
    """The figure of the first line, in small: also that the tables of the scripted policy keep to the grammar."""
    policy = scripted.policy(shape=benchmark.SMALL)
    small = {"trees": 4, "slots": 6, "rollouts": 3, "depth": 3, "samples": 2, "code_tokens": 48}
    config = dataclasses.replace(benchmark.CONFIG, **small)
    mesh = Mesh(np.array(jax.devices()[:1]).reshape(1, 1, 1), ("data", "fsdp", "tensor"))
    search = Search(policy, scripted.problems(5), benchmark.instant, config, mesh, seed=0, iteration=0)
    trees = list(search)
    assert search.counters.fed == benchmark.unique_tokens(trees).policy
    headed = scripted.with_head(policy)
    rated = Search(headed, scripted.problems(5), benchmark.instant, config, mesh, seed=0, iteration=0)
    assert benchmark.same_trees([*rated], trees)
    assert rated.counters.fed == benchmark.unique_tokens(trees).reward_model
    steps = [node for tree in trees for node in tree.nodes[1:]]
    assert sum(node.ended == "malformed" for node in steps) < len(steps) / 4
    assert {Action.DEFINE, Action.REFINE, Action.CODE} <= {node.action for node in steps}


def test_chances_of_the_policy_sum_to_one():
    for table in (scripted.chain(), scripted.chain(0.9)):
        np.testing.assert_allclose(np.delete(table.sum(axis=1), scripted.PhraseTokenizer.end), 1)


def test_most_likely_text_of_the_policy_is_a_program():
    tokenizer, table, at = scripted.PhraseTokenizer(), scripted.chain(0.9), 0
    text = ""
    np.fill_diagonal(table, 0)
    while at != tokenizer.end:
        table[:, at] = 0  # a stretch ends rather than come back to a word
        at = int(np.argmax(table[at]))
        text += tokenizer.decode([at])
    steps = text.split("<Step_End>")
    assert [parse_step(step).action for step in steps] == [Action.DEFINE, Action.CODE]


def test_statements_differ_after_what_they_share():
    prompts = [encode_prompt(scripted.PhraseTokenizer(), problem, 64)[0] for problem in scripted.problems(20)]  # type: ignore[arg-type]
    assert len({tuple(prompt[:11]) for prompt in prompts}) == 1
    assert len({tuple(prompt) for prompt in prompts}) == 20
    assert {prompt[-1] for prompt in prompts} == {0}


def test_waiting_is_the_larger_of_two_shares():
    assert benchmark.awaited_share(Counters(waves=9, idle=1, idle_seconds=0.1), 10.0) == 0.1
    assert benchmark.awaited_share(Counters(waves=99, idle=1, idle_seconds=2.0), 10.0) == 0.2


@pytest.mark.parametrize(
    ("value", "wanted", "met"),
    [(1.0, "= 1", True), (1.001, "= 1", False), (5.0, ">= 5", True), (4.9, ">= 5", False), (0.04, "<= 0.05", True)],
)
def test_a_figure_meets_its_bound_or_not(value, wanted, met):
    assert Row("x", value, wanted, "", {}).met is met
    assert (" yes " if met else " no ") in Row("x", value, wanted, "", {}).line()


def test_a_missing_figure_does_not_meet_its_bound():
    assert Row("x", None, ">= 5", "", {}).met is False
    assert Row("x", None, "", "", {}).met is None


def test_weights_take_the_names_and_shapes_of_the_other_side():
    policy = scripted.policy()
    model = nnx.merge(policy.graph, policy.weights)
    found = baseline.llama_form(model)
    c, first = model.config, "model.layers.0."
    assert len(found) == 3 + 11 * c.layers
    assert found[f"{first}self_attn.o_proj.weight"].shape == (c.width, c.heads * c.head_size)
    x = np.random.default_rng(0).normal(size=c.width).astype(np.float32)
    ours = np.einsum("d,dhe->he", x, np.asarray(model.blocks.key.weight[...])[0])
    np.testing.assert_allclose(found[f"{first}self_attn.k_proj.weight"] @ x, ours.reshape(-1), rtol=1e-4, atol=1e-5)


def child(visits: int, total: float, closed: bool = False) -> dict[str, object]:
    return {"visits": visits, "total": total, "closed": closed}


def test_the_sequential_search_selects_by_uct():
    chance = random.Random(0)
    better, worse, shut = child(2, 2.0), child(2, 0.0), child(1, 1.0, closed=True)
    node = {"visits": 4, "children": [worse, better, shut]}
    assert sequential.select(node, 2.0, chance) is better
    fresh = child(0, 0.0)
    assert sequential.select({"visits": 4, "children": [better, fresh, shut]}, 2.0, chance) is fresh
    rare = child(1, 0.0)
    assert sequential.select({"visits": 100, "children": [child(90, 60.0), rare]}, 2.0, chance) is rare


def test_steps_of_the_sequential_search_end_with_their_stop():
    assert sequential.cut([5, 6, 9, 9, 9], [8, 9]) == [5, 6, 9]
    assert sequential.cut([5, 6, 7], [8, 9]) == [5, 6, 7]
