"""Reinforcement learning: which reward a path gets, which paths count, and what the policy gradient learns from."""

from __future__ import annotations

import dataclasses
import types
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from o1coder_jax.generate import Sample
from o1coder_jax.prm import with_value_head
from o1coder_jax.records import Form, Judgement, Problem, TestCase, Verdict
from o1coder_jax.rewards import PhiConfig, phi
from o1coder_jax.stopping import stop_ids
from search.config import BaselineConfig, SearchConfig
from search.tree import Node, Rollout, Tree
from tests.train.rl_world import SCORERS, constant, groups_of, path
from tests.train.world import opened, read_lines, record, results, retire
from train import rl
from train.data import Example
from train.programs import Program
from train.rl import RLConfig, loop, rounds
from train.rl.config import LossConfig
from train.rl.grpo import advantages_of, examples_of, lesson
from train.rl.lessons import Scorers, advantage_figures, corrected, path_example, with_probabilities
from train.rl.rounds import Drawn, Group, figures, grown_groups, record_path, sampled_groups, tree_settings

STEP_END, END = 90, 91
CONFIG = RLConfig()


def variant(**loss: Any) -> RLConfig:
    return RLConfig(loss=LossConfig(**loss))


def examples(groups: Sequence[Group], config: RLConfig = CONFIG) -> list[Example]:
    return examples_of(groups, config)[0]


# Groups and what is learnt from.


def test_group_of_equal_rewards_is_dropped():
    found, alive = examples_of(groups_of([[1.0, 1.0], [1.0, 0.0]]), CONFIG)
    assert [one["tokens"][2] for one in found] == [12, 13] and alive == 0.5


def test_group_of_equal_rewards_counts_when_it_is_kept():
    found, alive = examples_of(groups_of([[1.0, 1.0], [1.0, 0.0]]), variant(drop_equal=False))
    assert [one["advantage"][2] for one in found] == [0, 0, 0.5, -0.5] and alive == 0.5


def test_path_that_could_not_be_checked_gives_no_example():
    found = examples(groups_of([[1.0, 0.0, 0.0]], [[True, True, False]]))
    assert [one["tokens"][2] for one in found] == [10, 11]
    assert [one["advantage"][2] for one in found] == [0.5, -0.5]


@pytest.mark.parametrize("advantages", ["path", "steps", "tree"])
def test_path_that_could_not_be_checked_has_no_influence(advantages: Any):
    config = RLConfig(advantages=advantages)
    nodes = [(1, 2), (1, 3), (1, 4)]
    group = [path([7, 8], [0.1, own], nodes=n) for own, n in zip([0.9, 0.2, 0.5], nodes, strict=True)]
    masked = dataclasses.replace(group[2], usable=False)
    two = advantages_of(group[:2], config)
    assert advantages_of([*group[:2], masked], config) == [*two, [0.0, 0.0]]
    assert advantages_of(group, config)[:2] != two


def test_path_of_a_tree_weighs_by_its_probability():
    """The right one is nine times in ten the policy's: V(root) is 0.9, and it is hardly better than that."""
    group = [path([7], [reward], nodes=[n]) for n, reward in enumerate((1.0, 0.0))]
    likely = [
        dataclasses.replace(one, log_probability=float(np.log(p))) for one, p in zip(group, (0.9, 0.1), strict=True)
    ]
    config = RLConfig(advantages="tree")
    assert np.ravel(advantages_of(likely, config)) == pytest.approx([0.2, -1.8])
    assert np.ravel(advantages_of(group, config)) == pytest.approx([1.0, -1.0])
    assert advantage_figures(examples([likely], config))["advantage_mean"] == pytest.approx(-0.8)  # each path once
    stored = dataclasses.replace(record("a", [([10], 1.0), ([11], 1.0)]), prompt_tokens=(1,))
    assert record_path(stored, np.zeros(3), config, 1.0).log_probability == stored.log_probability != 0.0


def test_group_that_differs_only_in_what_could_not_be_checked_is_dropped():
    assert examples(groups_of([[1.0, 1.0, 0.0]], [[True, True, False]])) == []


def test_advantage_stands_on_the_tokens_of_the_answer():
    [first, second] = examples(groups_of([[1.0, 0.0]]))
    assert first["tokens"].tolist() == [1, 2, 10, END] and first["weight"].tolist() == [0, 0, 1, 1]
    assert first["advantage"].tolist() == [0, 0, 0.5, 0.5] and second["advantage"].tolist() == [0, 0, -0.5, -0.5]


def test_each_step_has_its_own_advantage():
    """Returns to go (1, 0.5) and (0, 0); steps of two tokens and of one."""
    group = [path([5, 6, 7], credits, ends=[1, 2]) for credits in ([0.5, 0.5], [0.0, 0.0])]
    [first, second] = examples([group], RLConfig(advantages="steps"))
    assert first["advantage"].tolist() == [0, 0, 0.5, 0.5, 0.25]
    assert second["advantage"].tolist() == [0, 0, -0.5, -0.5, -0.25]


def test_min_form_credits_the_worst_step_and_what_led_to_it():
    """The others of the group rate 0.5 at their first step; this one 0.4 at its second."""
    config = RLConfig(process="min", advantages="steps")
    rated = [[0.9, 0.4, 0.8], [0.5, 0.6, 0.7]]
    group = [rounds.credited(path([5, 6, 7], [0.0] * 3), own, config, 0.0) for own in rated]
    assert [one.credits for one in group] == [[0.0, 0.4, 0.0], [0.5, 0.0, 0.0]]
    assert advantages_of(group, config) == [pytest.approx([-0.05, 0.2, 0.0]), pytest.approx([0.05, -0.2, 0.0])]


def test_division_by_the_deviation():
    assert [one["advantage"][2] for one in examples(groups_of([[0.6, 0.2]]), variant(deviation=True))] == [1, -1]


def test_tokens_of_a_path_weigh_one_together():
    long = path([5, 6, 7, 8], [1.0])
    assert path_example(long, [0.5], variant(length="sequence"))["weight"].tolist() == [0, 0, 0.25, 0.25, 0.25, 0.25]


def test_cut_off_end_earns_nothing():
    cut = rounds.credited(path([5, 6, 7], [0.0] * 3), [0.5, 0.5], RLConfig(process="sum"), 0.5)
    assert cut.credits == pytest.approx([0.225, 0.2025, 0.0]) and cut.lengths == [1, 1, 1]


@pytest.mark.parametrize("form", ["phi", "min"])
def test_not_to_finish_a_step_never_pays(form):
    """Whatever the step that is cut off would have been rated, the path earns no more without its end."""
    config = RLConfig(process=form)
    cut = rounds.credited(path([5, 6, 7], [0.0] * 3), [0.8, 0.7], config, 0.8)
    for rated in (0.0, 0.05, 0.9):
        whole = rounds.credited(path([5, 6, 7], [0.0] * 3), [0.8, 0.7, rated], config, 0.8)
        assert cut.reward <= whole.reward and cut.process <= whole.process


def test_figures_leave_out_what_could_not_be_checked():
    found = figures(Drawn(groups_of([[1.0, 0.0, 7.0]], [[True, True, False]])))
    assert found["reward"] == 0.5 and found["outcome"] == 0.5 and found["masked"] == 1


def test_round_that_could_not_be_checked_at_all_has_figures():
    groups = groups_of([[1.0, 0.0]], [[False, False]])
    assert lesson(groups, SCORERS, CONFIG).units == [] and figures(Drawn(groups))["reward"] == 0.0


@pytest.mark.parametrize("preset", ["own", "paper", "boltzmann"])
@pytest.mark.parametrize("kind", ["best_of_n", "beam"])
def test_run_that_searches_by_a_baseline_grows_trees_in_rl_all_the_same(preset: Any, kind: Any):
    """Best-of-n would draw one candidate a step, and a tree of one path has no advantages."""
    plain = SearchConfig(preset=preset, samples=3)
    baseline = dataclasses.replace(plain, baseline=BaselineConfig(kind=kind, ranking="likelihood"))
    assert tree_settings(baseline, 8) == tree_settings(plain, 8) and tree_settings(plain, 8).rollouts == 8


# Whose probabilities are the old ones.


def test_old_probabilities_are_those_of_the_sampling():
    found = lesson(groups_of([[1.0, 0.0]]), SCORERS, CONFIG)
    assert found.units[0][0]["old"].tolist() == pytest.approx([0, 0, 0, -0.1])
    assert found.units[0][0]["reference"].tolist() == pytest.approx([-0.7] * 4)
    assert found.figures["mismatch"] == pytest.approx(0.45) and found.figures["mismatch_ratio"] < 1


def test_truncated_takes_the_trainers_and_weighs_by_the_ratio():
    """pi_trainer / pi_sampler is exp(0.3), beyond the cap, and exp(-0.4)."""
    config = RLConfig(mismatch="truncated", mismatch_cap=1.2)
    one = path_example(dataclasses.replace(path([5, 6], [1.0]), sampled=[-0.8, -0.1]), [2.0], config)
    [scored], _ = with_probabilities([one], Scorers(constant(-0.5), constant(-0.5)))
    found = corrected(scored, config)
    np.testing.assert_allclose(found["old"][2:], [-0.5, -0.5])
    np.testing.assert_allclose(found["advantage"], [0, 0, 2.4, 2 * np.exp(-0.4)], rtol=1e-6)


def test_where_the_sampler_told_nothing_the_trainer_does():
    one = path_example(dataclasses.replace(path([5, 6], [1.0]), sampled=None), [2.0], CONFIG)
    [scored], measured = with_probabilities([one], SCORERS)
    assert corrected(scored, CONFIG)["old"].tolist() == [-0.5] * 4 and list(measured) == ["kl"]


def test_mismatch_of_a_tree_is_that_of_whole_paths():
    """The trainer gives each token -0.5: sums of -1 and -1.5 of 2 and 3 tokens, where the search had -1.2 and -0.9."""
    one = path([5, 6], [1.0], sampled=None, nodes=[1], log_probability=-1.2)
    other = path([5, 7, 8], [0.0], sampled=None, nodes=[2], log_probability=-0.9)
    found = lesson([[one, other]], SCORERS, RLConfig(advantages="tree"))
    assert found.figures["mismatch_path"] == pytest.approx((0.2 / 2 + 0.6 / 3) / 2) and "mismatch" not in found.figures
    assert found.units[0][0].keys() == {"tokens", "weight", "advantage", "old", "reference"}


@pytest.mark.parametrize("length", ["token", "sequence"])
def test_divergence_of_a_round_is_that_of_the_tokens_it_has_just_drawn(length: Any):
    """Not of the prompt's, and not of an epoch whose updates have moved the policy away from them."""

    def at(prompt: float, answer: float) -> Any:
        return lambda examples: [np.where(one["weight"] > 0, answer, prompt) for one in examples]

    found = lesson(groups_of([[1.0, 0.0]]), Scorers(at(-9.0, -0.5), at(-1.0, -0.7)), variant(length=length))
    assert found.figures["kl"] == pytest.approx(0.2)
    assert "kl" not in lesson(groups_of([[1.0, 0.0]]), Scorers(constant(-0.5), None), CONFIG).figures


# Rewards of a round, with a reward model and a sandbox that are made up.


def judgement(verdict: Verdict) -> Judgement:
    return Judgement(verdict, True, int(verdict is Verdict.ACCEPTED), 1)


def program(tokens: Sequence[int], code: str | None = "x") -> Program:
    return Program(Sample(tuple(tokens), tuple(-0.1 * i for i in range(len(tokens))), True), "", code)


class FakeSession:
    """A session whose sandbox reads the verdict off the program."""

    def __init__(self, config: RLConfig, prompts: list[list[int]]):
        self.config = types.SimpleNamespace(rl=config)
        self._prompts = prompts

    def prompts(self, problems: Sequence[Problem]) -> list[list[int]]:
        return self._prompts[: len(problems)]

    @property
    def judging(self) -> FakeSession:
        return self

    def submit_all(self, submissions: Sequence[Any]) -> types.SimpleNamespace:
        verdicts = [None if one is None else judgement(Verdict(one.code)) for one in submissions]
        return types.SimpleNamespace(result=lambda: verdicts)


def problem(name: str) -> Problem:
    return Problem(name, "s", Form.STDIN, (TestCase("1\n", "1"),))


@pytest.fixture
def round_of(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The groups of given programs; the score after token i of a sequence is i / 100."""

    def make(drawn: list[list[Program]], *, weight: float, gamma: float = 0.9) -> list[Group]:
        config = RLConfig(samples=len(drawn[0]), phi=PhiConfig(gamma=gamma))
        session: Any = FakeSession(config, [[1, 2, 3], [4, 5]])
        monkeypatch.setattr(rounds, "sample_programs", lambda *a, **k: drawn)
        problems = [problem(name) for name in "ab"[: len(drawn)]]
        policy: Any = types.SimpleNamespace(stops=lambda: stop_ids(1 + END, (STEP_END, END)))
        tests = {one.id: one.tests for one in problems}

        def rate(sequences: Sequence[Sequence[int]]) -> list[np.ndarray]:
            return [np.arange(len(s)) / 100 for s in sequences]

        return sampled_groups(session, policy, rate, problems, tests, weight, 0).groups

    return make


def test_process_rewards_are_read_at_the_markers(round_of: Any):
    # Prompts of 3 and 2 tokens; the markers of the paths are their tokens 1 and 4, and 2.
    paths = [[program([7, STEP_END, 8, 9, END], "accepted")] * 2, [program([7, 8, END], "accepted")] * 2]
    groups = round_of(paths, weight=0.0, gamma=1.0)
    assert [[one.process for one in group] for group in groups] == [
        pytest.approx([0.055] * 2),
        pytest.approx([0.04] * 2),
    ]
    assert groups[0][0].ends == [1, 4] and groups[0][0].credits == pytest.approx([0.02, 0.035])


def test_reward_is_phi_of_outcome_and_process(round_of: Any):
    own = [7, STEP_END, 8, END]
    [group] = round_of([[program(own, "accepted"), program(own, "wrong_answer")]], weight=0.6)
    expected = [phi(outcome, [0.04, 0.06], weight=0.6, gamma=0.9) for outcome in (1.0, 0.0)]
    assert [one.reward for one in group] == pytest.approx(expected)


def test_outcome_is_that_of_all_tests(round_of: Any):
    paths = [program([7, END], str(verdict)) for verdict in (Verdict.ACCEPTED, Verdict.TIME_LIMIT)]
    assert [one.outcome for one in round_of([paths], weight=1.0)[0]] == [1, 0]


def test_path_without_a_program_has_failed(round_of: Any):
    [group] = round_of([[program([7, 8], None), program([7, END], "accepted")]], weight=1.0)
    assert [(one.outcome, one.usable, one.reward) for one in group] == [(0, True, 0), (1, True, 1)]


def test_verdict_that_could_not_be_had_is_not_usable(round_of: Any):
    [group] = round_of([[program([7, END], "infra_error"), program([7, END], "accepted")]], weight=1.0)
    assert [one.usable for one in group] == [False, True]


def test_path_of_a_tree_has_its_nodes_and_its_steps_credits():
    stored = record("a", [([10, 11], 0.5), ([12], 1.0)], nodes=[1, 4])
    made = record_path(stored, np.arange(6) / 10, RLConfig(phi=PhiConfig(gamma=1.0)), 0.5)
    assert (made.tokens, made.ends, made.nodes, made.outcome) == ([10, 11, 12], [1, 2], [1, 4], 1.0)
    assert made.credits == pytest.approx([0.1, 0.125 + 0.5]) and made.sampled is None
    unchecked = dataclasses.replace(stored, verdict=Verdict.INFRA_ERROR)
    assert not record_path(unchecked, np.zeros(6), CONFIG, 0.5).usable


def test_programs_of_a_tree_that_could_not_be_checked_are_counted(monkeypatch: pytest.MonkeyPatch):
    """No rollout backs them up, so none of the tree's paths tells of them."""
    ends = [judgement(Verdict.ACCEPTED), judgement(Verdict.INFRA_ERROR), judgement(Verdict.INFRA_ERROR)]
    nodes = [Node(-1, 0), *(Node(0, 1, (10 + i,), ended="code", code="x") for i in range(3))]
    tree = Tree(0, problem("a"), (1, 2), nodes=nodes, tokens=3)
    for node, found in zip(nodes[1:], ends, strict=True):
        node.judge(found, 0.1)
        tree.count(found)
    tree.finish([Rollout(1), Rollout(2), Rollout(3)])
    monkeypatch.setattr(rounds, "Search", lambda *a, **k: [tree])
    config = types.SimpleNamespace(rl=RLConfig(advantages="tree"), search=SearchConfig(), seed=0, name="r")
    session: Any = types.SimpleNamespace(config=config, mesh=None, judging=types.SimpleNamespace(judge=None))
    policy: Any = types.SimpleNamespace(fingerprint="p", tokenizer=types.SimpleNamespace(fingerprint="t"))
    drawn = grown_groups(session, policy, lambda rows: [np.zeros(3) for _ in rows], [tree.problem], {"a": ()}, 1.0, 0)
    assert [path.tokens for path in drawn.groups[0]] == [[10]] and drawn.tokens == 3
    assert figures(drawn)["masked"] == 2 and figures(drawn)["outcome"] == 1.0


# The stage.


def test_stage_changes_the_policy_and_says_what_it_used(wee: Path):
    stages = results(wee)
    assert stages["001-rl"]["weights"] != stages["001-sft"]["weights"]
    rows = [row for row in read_lines(wee / "metrics.jsonl") if row["stage"] == "001-rl"]
    assert len(rows) == 2 and max(row["groups_used"] for row in rows) > 0
    assert stages["001-rl"]["executions"] > 0
    used = [row for row in rows if row["groups_used"]]
    assert all(row["mismatch"] < 1e-3 and abs(row["mismatch_ratio"] - 1) < 0.01 for row in used)
    assert used[0]["kl"] == 0 and all(abs(row["kl"]) < 1 for row in used)  # RL begins with the reference


def test_weight_of_the_outcome_falls_across_iterations(wee: Path):
    rows = [row for row in read_lines(wee / "metrics.jsonl") if row["stage"].endswith("-rl")]
    assert [row["step"] for row in rows] == [0, 1, 2, 3]
    assert [row["outcome_weight"] for row in rows] == pytest.approx([0.9, 0.7, 0.5, 0.5])


def test_rewards_of_a_round_are_weighed_as_it_is_due(wee: Path):
    rows = [row for row in read_lines(wee / "metrics.jsonl") if row["stage"].endswith("-rl")]
    assert all(row["process"] > 0 for row in rows) and len({row["outcome_weight"] for row in rows}) == 3
    for row in rows:
        weight = row["outcome_weight"]
        assert row["reward"] == pytest.approx(weight * row["outcome"] + (1 - weight) * row["process"])


def test_stage_draws_no_retired_problem(wee: Path, runs: Path):
    with opened(wee, runs, upto="001-prm") as session:
        tested = [one for one in session.parts.selfplay if loop.read_tests(session)[one.id]]
        retire(session, tested[1:])
        rl.run(session, 1)
        told = [row for row in session.run.read("ledger.jsonl") if row["source"] == "rl"]
        assert len(tested) > 1 and {row["problem_id"] for row in told} == {tested[0].id}
        assert session.require("001-rl", "")["rounds"] == len(told) > 0


def test_stage_ends_where_all_problems_are_retired(wee: Path, runs: Path):
    with opened(wee, runs, upto="001-prm") as session:
        retire(session, session.parts.selfplay)
        rl.run(session, 1)
        result = session.require("001-rl", "")
        assert result["rounds"] == 0 and not result["skipped"] and result["tokens_generated"] == 0
        assert result["weights"] == session.require("001-sft", "")["weights"]


def test_time_goes_on_where_the_iteration_before_ended():
    """The first did 3 of 16 rounds, the second none; the third is of a run of before rounds were counted."""
    done = {
        "001-rl": {"rounds": 3, "skipped": False},
        "002-rl": {"rounds": 0, "skipped": True},
        "003-rl": {"skipped": False},
        "003-evaluate": {"rounds": 99},
    }
    session: Any = types.SimpleNamespace(
        run=types.SimpleNamespace(results=lambda: done), config=types.SimpleNamespace(rl=RLConfig(updates=16))
    )
    assert [loop.rounds_before(session, iteration) for iteration in (1, 2, 3, 4)] == [0, 3, 3, 19]


def test_stage_learns_from_trees_that_it_grows(wee: Path, runs: Path):
    with opened(wee, runs, upto="001-prm", rl={"advantages": "tree", "updates": 1}) as session:
        rl.run(session, 1)
        result = session.require("001-rl", "")
        [row] = [row for row in session.run.read("metrics.jsonl") if row["stage"] == "001-rl"]
        assert result["weights"] != results(wee)["001-sft"]["weights"]
        assert row["groups_used"] > 0 and row["mismatch_path"] < 1e-3 and result["executions"] > 0
        told = [one for one in session.run.read("ledger.jsonl") if one["source"] == "rl"]
        assert told and result["tokens_generated"] > 0


def test_stage_without_a_test_keeps_the_policy_and_says_so(wee: Path, runs: Path):
    with opened(wee, runs, upto="bootstrap") as session:
        with session.run.stage_scope("tcg") as stage:
            stage.append("tests.jsonl", [{"problem_id": one.id, "tests": []} for one in session.parts.selfplay])
        for name in ("001-sft", "001-prm"):
            with session.run.stage_scope(name) as stage:
                policy = session.load_policy("policy-000")
                stage.result["weights"] = session.save_model("sft-001", policy.weights)
        model = (session.config.model, session.tokenizer.vocab_size)
        _, weights = with_value_head(policy.graph, policy.weights, *model)
        session.save_model("prm-001", weights)
        rl.run(session, 1)
        result = session.require("001-rl", "")
        assert result["skipped"] and result["weights"] == policy.fingerprint
