"""Training with adapters: what it costs, what it leaves alone, and the stages of a run whose roles share a base."""

from __future__ import annotations

import dataclasses
import gc
import io
from collections.abc import Iterator
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from flax import nnx

from o1coder_jax import checkpoint
from o1coder_jax.adapters import AdapterConfig, attach, trained
from o1coder_jax.mesh import shard_parameters
from o1coder_jax.transformer import parameter_count
from search.models import load_policy
from tests.tiny import one_device
from tests.train.test_step import FAST, SFT, batch, model, same, values
from tests.train.world import opened, read_lines
from train import evaluate, prm, reason, rl, sft, tcg
from train.session import Session
from train.step import Trainer

HIDING = AdapterConfig(rank=2, alpha=4.0, dropout=0.3, targets=("*",))
PACKED = dataclasses.replace(HIDING, dropout=0.0, base="nf4")


def start(adapter: AdapterConfig) -> tuple[Any, Any]:
    return attach(*model(), adapter, jax.random.key(0))


def trainer(adapter: AdapterConfig, *, microbatches: int = 1, seed: int = 0, dropout: bool = True) -> Trainer:
    optimizer = dataclasses.replace(FAST, microbatches=microbatches)
    return Trainer(*start(adapter), SFT, optimizer, one_device(), updates=10, seed=seed, dropout=dropout)


def test_frozen_weights_have_no_optimiser_state_and_are_not_copied():
    graph, weights = start(PACKED)
    weights = shard_parameters(one_device(), weights)
    one = Trainer(graph, weights, SFT, FAST, one_device(), updates=1)
    count = parameter_count(trained(weights))
    assert parameter_count(one.state.moments) == 2 * count + 1  # Adam's two moments, and its counter
    frozen = jax.tree.leaves(nnx.split_state(weights, nnx.Param, ...)[1])
    held = [leaf.unsafe_buffer_pointer() for leaf in jax.tree.leaves(one.frozen)]
    assert held == [leaf.unsafe_buffer_pointer() for leaf in frozen]


def test_updates_lower_the_loss_and_leave_the_base():
    one = trainer(PACKED)
    before = values(one.frozen)
    seen = [float(one.step(batch())["loss"]) for _ in range(12)]
    assert seen[-1] < seen[0] - 0.1 and same(before, one.frozen)


def test_parts_of_a_batch_hide_what_the_whole_batch_does():
    whole, parts = trainer(HIDING), trainer(HIDING, microbatches=2)
    for one in (whole, parts):
        one.step(batch())
        one.step(batch())
    for a, b in zip(values(whole.state.weights), values(parts.state.weights), strict=True):
        np.testing.assert_allclose(a, b, atol=2e-4)


def test_dropout_is_that_of_the_seed_and_of_the_update():
    losses = {seed: [float(one.step(batch())["loss"]) for _ in range(3)] for seed in (0, 1) for one in [warm(seed)]}
    assert losses[0] == [float(one.step(batch())["loss"]) for one in [warm(0)] for _ in range(3)]
    assert losses[0] != losses[1]


def test_nothing_is_hidden_where_dropout_is_off():
    """As in RL, whose first update of a round must find the probabilities that were taken before it."""
    silent = [float(warm(seed, dropout=False).step(batch())["loss"]) for seed in (0, 1)]
    assert silent[0] == silent[1] != float(warm(0).step(batch())["loss"])


def warm(seed: int, *, dropout: bool = True) -> Trainer:
    """A trainer whose B is not zero, so that what is hidden from A shows at once."""
    one = trainer(HIDING, seed=seed, dropout=dropout)
    one.state = dataclasses.replace(one.state, weights=jax.tree.map(lambda w: w + 0.1, one.state.weights))
    return one


# Stages.

ROLE = {"rank": 2, "alpha": 4.0, "base": "nf4"}
POLICY = AdapterConfig(**ROLE, targets=("*",))  # type: ignore[arg-type]
PRM = AdapterConfig(**ROLE, targets=("q_proj", "v_proj"))  # type: ignore[arg-type]


@pytest.fixture
def session(wee: Path, runs: Path) -> Iterator[Session]:
    """A run after its first search, in which policy and reward model train adapters."""
    changes = {"policy": {"adapter": POLICY}, "prm": {"adapter": PRM, "updates": 3}, "sft": {"updates": 3}}
    with opened(wee, runs, upto="001-search", **changes, rl={"updates": 1}) as session:
        yield session


def facts(session: Session, name: str) -> dict[str, Any]:
    return checkpoint.metadata(session.run.checkpoint(name))


def large() -> list[tuple[int, ...]]:
    """Shapes of the arrays on the device that are as large as a model's."""
    gc.collect()
    return sorted(array.shape for array in jax.live_arrays() if array.size >= 4000)


def test_stages_train_adapters_on_one_base_and_leave_nothing_behind(session: Session):
    before = large()
    for stage, iteration in ((sft, 1), (prm, 1), (rl, 1), (evaluate, 1), (reason, 2)):
        with redirect_stdout(io.StringIO()):
            stage.run(session, iteration)
        session.release()
        assert large() == before, stage.__name__
    roles = {name: facts(session, name) for name in ("sft-001", "prm-001", "policy-001")}
    base = {"checkpoint": "policy-000", "fingerprint": facts(session, "policy-000")["fingerprint"]}
    assert [role["base"] for role in roles.values()] == [base] * 3
    adapters = [AdapterConfig.from_dict(role["adapter"]) for role in roles.values()]
    assert adapters == [POLICY, PRM, POLICY]
    names = {info.name for info in checkpoint.describe(session.run.checkpoint("policy-001"))}
    assert {name.rsplit("_", 1)[0].rsplit("/", 1)[1] for name in names} == {"lora"}
    # RL went on with the adapter of SFT, and the next round's policy is ready to sample as a plain model.
    policy = session.load_policy("policy-001")
    assert policy.graph == session.graph and policy.fingerprint == roles["policy-001"]["fingerprint"]
    outside = load_policy(session.run.checkpoint("policy-001"), session.tokenizer, session.mesh)
    assert outside.graph == policy.graph and same(outside.weights, policy.weights)
    rows = read_lines(session.run.folder / "metrics.jsonl")
    synced = {row["stage"] for row in rows if row.get("sync_seconds", 0) > 0}
    assert synced >= {"001-rl", "001-evaluate", "002-search"}


def test_generator_trains_an_adapter_and_samples_in_bfloat16(wee: Path, runs: Path):
    changes = {
        "tcg": {"adapter": POLICY, "sft_updates": 2, "dpo_updates": 2, "judged_problems": 2},
        "generation": {"dtype": "bfloat16"},
    }
    with opened(wee, runs, upto="000-evaluate", **changes) as session:
        before = large()
        with redirect_stdout(io.StringIO()):
            tcg.run(session)
        session.release()
        assert large() == before
        stored = [facts(session, name) for name in ("tcg-sft", "tcg")]
        assert [role["base"]["checkpoint"] for role in stored] == ["policy-000"] * 2
        assert stored[0]["fingerprint"] != stored[1]["fingerprint"]
        assert session.require("tcg", "train.tcg")["tokens_generated"] > 0
        policy = session.load_policy("policy-000")
        assert nnx.merge(policy.graph, policy.weights).config.dtype == "bfloat16" and policy.graph == session.graph
