"""The optimiser step: it learns, it survives a broken batch, and it is the same on every mesh."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from o1coder_jax import hardware, losses
from o1coder_jax.errors import UserError
from o1coder_jax.flops import training_flops
from o1coder_jax.linear import Frozen
from o1coder_jax.mesh import MeshConfig, make_mesh, replicate
from o1coder_jax.transformer import ModelConfig, Transformer
from tests.train.world import ENVIRONMENT, ROOT
from train.data import HostBatch, example, padded_batch
from train.meter import Meter
from train.step import Objective, OptimizerConfig, Trainer, fit, token_scores

MODEL = ModelConfig(width=32, layers=1, heads=2, head_size=16, mlp_width=64)
VOCABULARY = 320
SFT = Objective.of(losses.sft)
FAST = OptimizerConfig(learning_rate=1e-2, warmup=0, schedule="constant")


def batch(rows: int = 4) -> HostBatch:
    return padded_batch([example([1, 2, 3], [10 + row, 11, 12, 13]) for row in range(rows)], rows, 16)


def broken_batch() -> HostBatch:
    out = batch()
    out["weight"][0, 4] = np.inf
    return out


def model() -> tuple[nnx.GraphDef[Transformer], Any]:
    return nnx.split(Transformer(MODEL, VOCABULARY, rngs=nnx.Rngs(0)))


def trainer(optimizer: OptimizerConfig = FAST, objective: Objective = SFT, updates: int = 10) -> Trainer:
    graph, weights = model()
    mesh = make_mesh(MeshConfig())
    return Trainer(graph, replicate(mesh, weights), objective, optimizer, mesh, updates=updates)


def values(tree: Any) -> list[np.ndarray]:
    return [np.asarray(leaf) for leaf in jax.tree.leaves(tree)]


def same(a: Any, b: Any) -> bool:
    return all((x == y).all() for x, y in zip(values(a), values(b), strict=True))


MUON = OptimizerConfig(kind="muon", learning_rate=1e-2, warmup=0, schedule="constant")


@pytest.mark.parametrize("optimizer", [FAST, MUON], ids=["adamw", "muon"])
def test_updates_lower_the_loss(optimizer: OptimizerConfig):
    one = trainer(optimizer)
    losses_seen = [float(one.step(batch())["loss"]) for _ in range(8)]
    assert losses_seen[-1] < losses_seen[0] - 1


def test_loss_is_that_before_the_update():
    one = trainer()
    scores = token_scores(one.graph, one.weights, batch(), one.mesh)
    expected = -scores[batch()["weight"] > 0].mean()
    assert float(one.step(batch())["loss"]) == pytest.approx(expected, abs=1e-5)


def test_batch_that_is_not_finite_changes_nothing():
    one = trainer()
    one.step(batch())
    before = values((one.state.weights, one.state.moments))
    one.step(broken_batch())
    assert same(before, (one.state.weights, one.state.moments))


def test_batch_that_is_not_finite_is_counted():
    one = trainer(updates=3)
    last = fit(one, iter([batch(), broken_batch(), batch()]), report=lambda update, metrics: None)
    assert last["skipped_updates"] == 1


def test_training_goes_on_after_a_batch_that_is_not_finite():
    one, other = trainer(), trainer()
    for part in (batch(), broken_batch(), batch()):
        one.step(part)
    for part in (batch(), batch()):
        other.step(part)
    assert same(one.weights, other.weights)


def test_weights_of_the_caller_stay():
    graph, weights = model()
    mesh = make_mesh(MeshConfig())
    weights = replicate(mesh, weights)
    before = values(weights)
    Trainer(graph, weights, SFT, FAST, mesh, updates=1).step(batch())
    assert same(before, weights)


def test_gradient_is_clipped_to_its_norm():
    plain = OptimizerConfig(learning_rate=1.0, clip_norm=1e-3)
    clipped, _ = plain.transformation().update(*_clip_arguments(plain, 5.0))
    small, _ = plain.transformation().update(*_clip_arguments(plain, 1e-3))
    assert np.allclose(clipped, small)


def _clip_arguments(config: OptimizerConfig, size: float) -> tuple[Any, Any, Any]:
    weights = jnp.zeros(4)
    return jnp.array([size, 0.0, 0.0, 0.0]), config.transformation().init(weights), weights


def test_weight_decay_pulls_towards_zero():
    decaying = OptimizerConfig(weight_decay=0.1)
    weights = jnp.array([2.0])
    update, _ = decaying.transformation().update(jnp.array([0.0]), decaying.transformation().init(weights), weights)
    assert float(update[0]) == pytest.approx(0.2)


def test_step_is_compiled_once_for_all_updates():
    traces = []

    def counted(model: Transformer, batch: Any) -> Any:
        traces.append(1)
        return losses.sft(model, batch)

    one = trainer(objective=Objective(counted))
    before = one._update_step._cache_size()
    for _ in range(4):
        one.step(batch())
    # One trace, and one compilation: the second update must not see other shardings than the first.
    assert len(traces) == 1 and one._update_step._cache_size() == before + 1


# The learning rate.


def test_rate_warms_up_in_equal_steps():
    config = OptimizerConfig(learning_rate=1.0, warmup=3)
    assert [config.rate(update, 10) for update in range(4)] == [0.25, 0.5, 0.75, 1.0]


@pytest.mark.parametrize(("schedule", "half"), [("constant", 1.0), ("linear", 0.55), ("cosine", 0.55)])
def test_rate_half_way_down(schedule: Any, half: float):
    config = OptimizerConfig(learning_rate=1.0, warmup=0, schedule=schedule, final_share=0.1)
    assert config.rate(5, 10) == pytest.approx(half)


@pytest.mark.parametrize(("schedule", "end"), [("constant", 1.0), ("linear", 0.1), ("cosine", 0.1)])
def test_rate_at_and_after_the_end(schedule: Any, end: float):
    config = OptimizerConfig(learning_rate=1.0, warmup=2, schedule=schedule, final_share=0.1)
    assert config.rate(10, 10) == pytest.approx(end) and config.rate(99, 10) == pytest.approx(end)


def test_cosine_falls_slowly_at_first():
    config = OptimizerConfig(learning_rate=1.0, warmup=0, schedule="cosine", final_share=0.0)
    assert config.rate(1, 10) == pytest.approx(0.5 * (1 + math.cos(math.pi / 10)))


def test_rate_of_zero_moves_nothing():
    one = trainer(OptimizerConfig(learning_rate=1e-30, warmup=0))
    before = values(one.weights)
    one.step(batch())
    assert same(before, one.weights)


def test_every_planned_update_is_done_and_reported():
    reports: list[tuple[int, dict[str, float | None]]] = []
    one, other = trainer(updates=5), trainer(updates=5)
    batches = [batch(), batch(), broken_batch(), batch(), batch()]
    fit(one, iter(batches), report=lambda update, metrics: reports.append((update, metrics)), every=2)
    assert one.update == 5 and [update for update, _ in reports] == [1, 2, 3, 4, 5]
    seen = [float(other.step(rows)["loss"]) for rows in batches]
    np.testing.assert_array_equal([metrics["loss"] for _, metrics in reports], seen)
    assert not np.isfinite(seen[2])


# Meshes.

_ON_TWO_DEVICES = """
import json, sys
from tests.train import test_step
from o1coder_jax.mesh import MeshConfig, make_mesh, prepare_cpu, replicate
from o1coder_jax.errors import UserError
from train.step import Trainer
from train import step
import jax

prepare_cpu(MeshConfig(cpu_devices=2))
assert len(jax.devices()) == 2
out = {}
for name, config in (("data", MeshConfig()), ("fsdp", MeshConfig(fsdp=2)), ("tensor", MeshConfig(tensor=2))):
    mesh = make_mesh(config)
    graph, weights = test_step.model()
    one = Trainer(graph, replicate(mesh, weights), test_step.SFT, test_step.FAST, mesh, updates=10)
    seen = [float(one.step(test_step.batch())["loss"]) for _ in range(3)]
    moved = [float(abs(leaf).sum()) for leaf in test_step.values(one.weights)]
    lie = sum(leaf.addressable_shards[0].data.size for leaf in jax.tree.leaves((one.weights, one.state.moments)))
    made = step._first_moments(test_step.FAST, mesh, one.state.weights)
    born = sum(leaf.addressable_shards[0].data.size for leaf in jax.tree.leaves(made))
    whole = sum(leaf.size for leaf in jax.tree.leaves(made))
    out[name] = {"losses": seen, "sums": moved, "compiled": one._update_step._cache_size(), "per_device": lie}
    out[name]["first_moments"] = born / whole
    if name == "data":
        try:
            one.step(test_step.batch(3))
        except UserError as error:
            out["refused"] = str(error)
print(json.dumps(out))
"""


@pytest.fixture(scope="module")
def two_devices() -> dict[str, Any]:
    """Three updates on each mesh of two devices, in a process of its own."""
    done = subprocess.run(
        [sys.executable, "-c", _ON_TWO_DEVICES],
        cwd=ROOT,
        env={**os.environ, **ENVIRONMENT},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    out: dict[str, Any] = json.loads(done.stdout)
    return out


@pytest.mark.parametrize("mesh", ["data", "fsdp", "tensor"])
def test_update_is_the_same_on_two_devices(two_devices: dict[str, Any], mesh: str):
    one = trainer()
    seen = [float(one.step(batch())["loss"]) for _ in range(3)]
    assert two_devices[mesh]["losses"] == pytest.approx(seen, rel=1e-5)
    assert two_devices[mesh]["sums"] == pytest.approx(
        [float(abs(leaf).sum()) for leaf in values(one.weights)], rel=1e-5
    )


@pytest.mark.parametrize("mesh", ["data", "fsdp", "tensor"])
def test_step_is_compiled_once_on_two_devices(two_devices: dict[str, Any], mesh: str):
    assert two_devices[mesh]["compiled"] == 1


def test_weights_and_moments_are_split_by_fsdp(two_devices: dict[str, Any]):
    # Norms and counters stay whole, so a little more than half.
    assert two_devices["fsdp"]["per_device"] < 0.55 * two_devices["data"]["per_device"]


def test_first_moments_are_made_in_parts(two_devices: dict[str, Any]):
    """Whole on one device they are twice a model's float32 weights, which no chip of a pod need hold."""
    assert two_devices["data"]["first_moments"] == 1.0
    assert two_devices["fsdp"]["first_moments"] < 0.55


def test_weights_that_are_not_float32_are_refused():
    graph, weights = model()
    halved = jax.tree.map(lambda x: x.astype(jnp.bfloat16), weights)
    mesh = make_mesh(MeshConfig())
    with pytest.raises(ValueError, match="weights in training are bfloat16; they must be float32"):
        Trainer(graph, replicate(mesh, halved), SFT, FAST, mesh, updates=1)


def test_rows_that_devices_cannot_share_are_refused(two_devices: dict[str, Any]):
    assert two_devices["refused"] == ("a batch of 3 rows cannot be split over 2 devices; give a multiple of 2 rows")


def test_settings_that_cannot_be_are_refused():
    with pytest.raises(UserError, match=r"learning_rate 0.* must be positive"):
        OptimizerConfig(learning_rate=0)


# What is reported.


def test_speed_flops_and_memory_are_reported(monkeypatch: pytest.MonkeyPatch):
    """A CPU has no peak in the table, so no utilisation; a device that has one has their quotient."""
    one = trainer(updates=2)
    tokens = int((batch()["segments"] > 0).sum())
    flops = training_flops(MODEL, VOCABULARY, batch()["segments"])
    for peak, share in ((None, None), (1e9, 1e-9)):
        monkeypatch.setattr(hardware, "peak_flops", lambda devices, peak=peak: peak)
        meter = Meter(one)
        meter.count(batch())
        seen = meter.read()
        assert seen["tflops_per_second"] / seen["tokens_per_second"] == pytest.approx(flops / tokens / 1e12)
        assert seen["mfu"] == (share and pytest.approx(seen["tflops_per_second"] * 1e12 * share))
        assert seen["memory_gib"] > 0.01


def test_every_report_has_the_figures():
    reports: list[dict[str, Any]] = []
    fit(trainer(updates=2), iter([batch()] * 2), report=lambda update, metrics: reports.append(metrics), every=1)
    names = {"loss", "gradient_norm", "tokens_per_second", "tflops_per_second", "mfu", "memory_gib"}
    assert len(reports) == 2 and all(names <= set(metrics) for metrics in reports)


def test_frozen_weights_cost_fewer_operations_and_no_moments():
    graph, weights = model()
    frozen = jax.tree.map(lambda x: x, weights)
    frozen["blocks"]["query"]["weight"] = Frozen(weights["blocks"]["query"]["weight"][...])
    mesh = make_mesh(MeshConfig())
    meters, sizes = [], []
    for given in (weights, frozen):
        one = Trainer(graph, replicate(mesh, given), SFT, FAST, mesh, updates=1)
        meters.append(Meter(one)._trained)
        sizes.append(sum(leaf.size for leaf in jax.tree.leaves(one.state.moments)))
    query = weights["blocks"]["query"]["weight"][...].size
    assert meters[0] - meters[1] == query and sizes[0] - sizes[1] == 2 * query
