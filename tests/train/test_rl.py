"""Reinforcement learning: which reward a path gets, which paths count, and that rewarded ones become likelier."""

from __future__ import annotations

import random
import types
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flax import nnx

from o1coder_jax import losses
from o1coder_jax.generate import Sample, generate
from o1coder_jax.losses import ClipConfig, group_advantages
from o1coder_jax.mesh import MeshConfig, make_mesh, replicate
from o1coder_jax.prm import with_value_head
from o1coder_jax.records import Form, Judgement, Problem, TestCase, Verdict
from o1coder_jax.rewards import PhiConfig, phi
from o1coder_jax.sampling import SamplingConfig
from o1coder_jax.stopping import stop_ids
from o1coder_jax.stored import Model
from o1coder_jax.transformer import Transformer
from tests.train.test_step import MODEL, VOCABULARY
from tests.train.world import opened, read_lines, results
from train import rl
from train.programs import Program
from train.rl import RLConfig, Round, minibatches, round_examples, sample_round
from train.step import Objective, OptimizerConfig, Trainer

STEP_END, END = 90, 91


def program(tokens: Sequence[int], code: str | None = "x") -> Program:
    return Program(Sample(tuple(tokens), tuple(-0.1 * i for i in range(len(tokens))), True), "", code)


def sampled(rewards: list[list[float]], usable: list[list[bool]] | None = None) -> Round:
    """Paths 10, 11, ... of two tokens each, group by group, with these rewards."""
    reward = np.array(rewards)
    paths = [program([10 + index, END]) for index in range(reward.size)]
    mask = np.ones(reward.shape, bool) if usable is None else np.array(usable)
    return Round(paths, [[1, 2]] * reward.size, reward, reward, reward, mask)


# Groups and what is learnt from.


def test_advantage_is_the_distance_to_the_mean_of_the_group():
    advantages, alive = group_advantages(np.array([[1.0, 0.0, 0.5]]), np.ones((1, 3), bool))
    assert advantages.tolist() == [[0.5, -0.5, 0.0]] and alive.tolist() == [True]


def test_path_that_could_not_be_checked_does_not_move_the_mean():
    advantages, _ = group_advantages(np.array([[1.0, 0.0, 9.0]]), np.array([[True, True, False]]))
    assert advantages.tolist() == [[0.5, -0.5, 0.0]]


def test_group_of_equal_rewards_is_dropped():
    examples, metrics = round_examples(sampled([[1.0, 1.0], [1.0, 0.0]]))
    assert [one["tokens"][2] for one in examples] == [12, 13] and metrics["groups_used"] == 0.5


def test_path_that_could_not_be_checked_gives_no_example():
    examples, metrics = round_examples(sampled([[1.0, 0.0, 0.0]], [[True, True, False]]))
    assert [one["tokens"][2] for one in examples] == [10, 11] and metrics["masked"] == 1


def test_group_that_differs_only_in_what_could_not_be_checked_is_dropped():
    assert round_examples(sampled([[1.0, 1.0, 0.0]], [[True, True, False]]))[0] == []


def test_advantage_stands_on_the_tokens_of_the_answer():
    [first, second] = round_examples(sampled([[1.0, 0.0]]))[0]
    assert first["tokens"].tolist() == [1, 2, 10, END] and first["weight"].tolist() == [0, 0, 1, 1]
    assert first["advantage"].tolist() == [0, 0, 0.5, 0.5] and second["advantage"].tolist() == [0, 0, -0.5, -0.5]


def test_old_probabilities_are_those_of_the_sampling():
    [first, _] = round_examples(sampled([[1.0, 0.0]]))[0]
    assert first["old"].tolist() == pytest.approx([0, 0, 0, -0.1])


def test_figures_leave_out_what_could_not_be_checked():
    _, metrics = round_examples(sampled([[1.0, 0.0, 7.0]], [[True, True, False]]))
    assert metrics["reward"] == 0.5 and metrics["outcome"] == 0.5 and metrics["process"] == 0.5


def test_round_that_could_not_be_checked_at_all_has_figures():
    examples, metrics = round_examples(sampled([[1.0, 0.0]], [[False, False]]))
    assert examples == [] and metrics["reward"] == 0.0


# Rewards of a round, with a reward model and a sandbox that are made up.


def judgement(verdict: Verdict) -> Judgement:
    return Judgement(verdict, True, int(verdict is Verdict.ACCEPTED), 1)


class FakeSession:
    """A session whose sandbox reads the verdict off the program."""

    def __init__(self, config: RLConfig, prompts: list[list[int]]):
        self.config = types.SimpleNamespace(rl=config)
        self.mesh = None
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
    """Computes a round for given programs; the score after token i of a sequence is i / 100."""

    def make(drawn: list[list[Program]], *, weight: float, gamma: float = 0.9) -> Round:
        config = RLConfig(samples=len(drawn[0]), phi=PhiConfig(gamma=gamma))
        session = FakeSession(config, [[1, 2, 3], [4, 5]])
        monkeypatch.setattr(rl, "sample_programs", lambda *a, **k: drawn)
        monkeypatch.setattr(
            rl, "score_sequences", lambda graph, weights, sequences, mesh: [np.arange(len(s)) / 100 for s in sequences]
        )
        problems = [problem(name) for name in "ab"[: len(drawn)]]
        policy = types.SimpleNamespace(stops=lambda: stop_ids(1 + max(STEP_END, END, 9), (STEP_END, END)))
        tests = {one.id: one.tests for one in problems}
        out: Round = sample_round(session, policy, (None, None), problems, tests, weight=weight, salt=0)  # type: ignore[arg-type]
        return out

    return make


def test_process_rewards_are_read_at_the_markers(round_of: Any):
    # Prompts of 3 and 2 tokens; the markers of the paths are their tokens 1 and 4, and 2.
    paths = [[program([7, STEP_END, 8, 9, END], "accepted")] * 2, [program([7, 8, END], "accepted")] * 2]
    process = round_of(paths, weight=0.0, gamma=1.0).process
    assert process.tolist() == [pytest.approx([0.055] * 2), pytest.approx([0.04] * 2)]


def test_reward_is_phi_of_outcome_and_process(round_of: Any):
    path = [7, STEP_END, 8, END]
    reward = round_of([[program(path, "accepted"), program(path, "wrong_answer")]], weight=0.6).reward
    rated = [0.04, 0.06]
    assert reward.tolist() == [[phi(outcome, rated, weight=0.6, gamma=0.9) for outcome in (1.0, 0.0)]]


def test_outcome_is_that_of_all_tests(round_of: Any):
    paths = [program([7, END], str(verdict)) for verdict in (Verdict.ACCEPTED, Verdict.TIME_LIMIT)]
    assert round_of([paths], weight=1.0).outcome.tolist() == [[1, 0]]


def test_path_without_a_program_has_failed(round_of: Any):
    made = round_of([[program([7, 8], None), program([7, END], "accepted")]], weight=1.0)
    assert made.outcome.tolist() == [[0, 1]] and made.usable.tolist() == [[True, True]]


def test_verdict_that_could_not_be_had_is_not_usable(round_of: Any):
    made = round_of([[program([7, END], "infra_error"), program([7, END], "accepted")]], weight=1.0)
    assert made.usable.tolist() == [[False, True]]


# Learning.


def bandit(reward_of: Any, *, updates: int, clip: ClipConfig) -> list[float]:
    """One-token answers, paid by `reward_of(token)`; returns the mean reward of each round."""
    mesh = make_mesh(MeshConfig())
    graph, weights = nnx.split(Transformer(MODEL, VOCABULARY, rngs=nnx.Rngs(0)))
    weights = replicate(mesh, weights)
    optimizer = OptimizerConfig(learning_rate=2e-2, warmup=0, schedule="constant")
    objective = Objective.of(losses.policy_gradient, clip=clip)
    trainer = Trainer(graph, weights, objective, optimizer, mesh, updates=updates)
    config = types.SimpleNamespace(rl=RLConfig(samples=16, minibatch=32))
    session: Any = types.SimpleNamespace(config=config, mesh=mesh, own_slice=lambda rows: slice(rows))
    means = []
    for update in range(updates):
        drawn = generate(
            graph,
            replicate(mesh, trainer.weights),
            [[3, 4], [5, 6]],
            samples=16,
            stops=stop_ids(VOCABULARY, range(VOCABULARY)),
            rows=32,
            answer_tokens=16,
            sampling=SamplingConfig(),
            mesh=mesh,
            seed=(0, update),
        )
        reward = np.array([[reward_of(one.tokens[0]) for one in group] for group in drawn])
        paths = [Program(one, "", "x") for group in drawn for one in group]
        prompts = [[3, 4]] * 16 + [[5, 6]] * 16
        made = Round(paths, prompts, reward, reward, reward, np.ones(reward.shape, bool))
        examples, _ = round_examples(made)
        for batch in minibatches(session, examples, Model(graph, weights), random.Random(0)) if examples else ():
            trainer.step(batch)
        means.append(float(reward.mean()))
    return means


def test_rewarded_answers_become_likelier():
    means = bandit(lambda token: float(token < 160), updates=20, clip=ClipConfig())
    assert 0.3 < means[0] < 0.7 and np.mean(means[-3:]) > 0.85


def test_penalty_keeps_the_policy_near_the_reference():
    free = bandit(lambda token: float(token < 160), updates=12, clip=ClipConfig(kl=0.0))
    held = bandit(lambda token: float(token < 160), updates=12, clip=ClipConfig(kl=20.0))
    assert np.mean(held[-3:]) < np.mean(free[-3:]) - 0.1


def test_each_path_is_used_once_per_epoch():
    mesh = make_mesh(MeshConfig())
    graph, weights = nnx.split(Transformer(MODEL, VOCABULARY, rngs=nnx.Rngs(0)))
    config = types.SimpleNamespace(rl=RLConfig(minibatch=4, epochs=2))
    session: Any = types.SimpleNamespace(config=config, mesh=mesh, own_slice=lambda rows: slice(rows))
    examples = round_examples(sampled([[1.0, 0.0, 0.0], [1.0, 0.0, 1.0]]))[0]
    tokens = [
        int(row[2])
        for batch in minibatches(session, examples, Model(graph, replicate(mesh, weights)), random.Random(0))
        for row in batch["tokens"]
        if row[2]
    ]
    assert sorted(tokens) == sorted([10, 11, 12, 13, 14, 15] * 2)


def test_stage_changes_the_policy_and_says_what_it_used(wee: Path):
    stages = results(wee)
    assert stages["001-rl"]["weights"] != stages["001-sft"]["weights"]
    rows = [row for row in read_lines(wee / "metrics.jsonl") if row["stage"] == "001-rl"]
    assert len(rows) == 2 and max(row["groups_used"] for row in rows) > 0
    assert stages["001-rl"]["executions"] > 0


def test_weight_of_the_outcome_falls_across_iterations(wee: Path):
    rows = [row for row in read_lines(wee / "metrics.jsonl") if row["stage"].endswith("-rl")]
    assert [row["step"] for row in rows] == [0, 1, 2, 3]
    assert [row["outcome_weight"] for row in rows] == pytest.approx([0.9, 0.7, 0.5, 0.5])


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
