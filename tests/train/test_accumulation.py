"""Microbatches, rematerialisation and depth change what a step costs, not what it computes."""

from __future__ import annotations

import dataclasses
import resource
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.experimental.compilation_cache import compilation_cache

from o1coder_jax import losses
from o1coder_jax.model_config import UNROLLED_LAYERS
from o1coder_jax.policy_losses import ClipConfig, policy_gradient, value_error
from o1coder_jax.transformer import Transformer
from tests.tiny import SHAPE, VOCAB, decoder
from train.data import HostBatch
from train.step import Objective, OptimizerConfig, TrainState, _accumulated, update_step

ROWS, LENGTH = 8, 10
OBJECTIVES = {
    "sft": Objective.of(losses.sft),
    "dpo": Objective.of(losses.dpo, beta=0.3, sft_weight=0.2),
    "prm_pointwise": Objective.of(losses.prm_pointwise),
    "prm_pairwise": Objective.of(losses.prm_pairwise),
    "policy_gradient": Objective.of(policy_gradient, clip=ClipConfig(kl=0.1)),
    "cispo": Objective.of(policy_gradient, clip=ClipConfig(kl=0.1), cispo=True),
    "value_error": Objective.of(value_error, clip=0.2),
}


def batch(objective: str) -> HostBatch:
    """Rows of very different weights, so that a mean of means would be another number; one pair is padding."""
    rng = np.random.default_rng(0)
    at, lengths = np.arange(LENGTH), rng.integers(3, LENGTH + 1, (ROWS, 1))
    inside = at < lengths
    weight = inside & (at >= 2) & (rng.random((ROWS, LENGTH)) < np.linspace(0.2, 1, ROWS)[:, None])
    weight |= at == lengths - 1
    out: HostBatch = {
        "tokens": np.where(inside, rng.integers(1, VOCAB, (ROWS, LENGTH)), 0).astype(np.int32),
        "positions": np.tile(at.astype(np.int32), (ROWS, 1)),
        "segments": inside.astype(np.int32),
        "weight": (at == lengths - 1 if objective == "prm_pairwise" else weight).astype(np.float32),
    }
    drawn = rng.normal(size=(ROWS, LENGTH)).astype(np.float32)
    if objective in ("dpo", "prm_pairwise"):
        out["valid"] = np.repeat([1, 1, 0, 1], 2).astype(np.float32)
    if objective == "dpo":
        out["reference"] = drawn[:, 0] - 20
    if objective == "prm_pointwise":
        out["label"] = np.clip(np.abs(drawn), 0, 1)
    if objective == "value_error":
        out |= {"returns": drawn, "value": drawn[::-1]}
    if objective in ("policy_gradient", "cispo"):
        out |= {"old": -np.abs(drawn) - 2, "reference": -np.abs(drawn[::-1]) - 2, "advantage": drawn}
    return out


def near(found: Any, expected: Any) -> None:
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5, rtol=1e-5), found, expected)


@pytest.mark.parametrize("name", OBJECTIVES)
def test_accumulated_is_one_batch(name: str):
    """Loss, metrics and gradients of four parts, one after another, and of the whole."""
    graph, weights = nnx.split(decoder(dataclasses.replace(SHAPE, layers=1), value_head=True))

    @jax.jit
    def both(weights: Any, batch: Any) -> Any:
        def loss_of(weights: Any, part: Any) -> Any:
            return OBJECTIVES[name](nnx.merge(graph, weights), part)

        return [_accumulated(loss_of, weights, batch, count) for count in (4, 1)]

    near(*both(weights, batch(name)))


@pytest.mark.parametrize("layers", [2, 5])
def test_rematerialised_is_what_it_is_without(layers: int):
    """Unrolled and scanned layers."""
    assert (layers > UNROLLED_LAYERS) == (layers == 5)

    def computed(what: Any) -> Any:
        shape = dataclasses.replace(SHAPE, layers=layers, rematerialize=what)
        graph, weights = nnx.split(decoder(shape))

        def loss(weights: Any) -> Any:
            return losses.sft(nnx.merge(graph, weights), batch("sft"))

        return jax.jit(jax.value_and_grad(loss, has_aux=True))(weights)

    plain = computed("none")
    for what in ("dots", "layers"):
        near(computed(what), plain)


@pytest.fixture
def jax_without_a_store() -> Iterator[None]:
    """Compiles for real, and with the optimisations that users have: other tests of this folder leave them out."""
    names = ("jax_enable_compilation_cache", "jax_disable_most_optimizations")
    before = {name: jax.config.values[name] for name in names}
    for name in names:
        jax.config.update(name, False)
    compilation_cache.reset_cache()
    yield
    for name, value in before.items():
        jax.config.update(name, value)
    compilation_cache.reset_cache()


def compile_seconds(layers: int) -> float:
    """CPU seconds of this process to trace and compile a training step."""
    shape = dataclasses.replace(SHAPE, width=64, head_size=16, mlp_width=128, layers=layers)
    graph, weights = nnx.split(nnx.eval_shape(lambda: Transformer(shape, VOCAB, rngs=nnx.Rngs(0))))
    optimizer = OptimizerConfig()
    moments = jax.eval_shape(optimizer.transformation().init, weights)
    state = TrainState(weights, moments, jax.ShapeDtypeStruct((), jnp.int32))
    like = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), batch("sft"))
    rate = jax.ShapeDtypeStruct((), jnp.float32)

    def step(*given: Any) -> Any:  # a function of its own, which JAX does not know from an earlier call
        return update_step(*given, graph=graph, objective=OBJECTIVES["sft"], optimizer=optimizer)

    before = resource.getrusage(resource.RUSAGE_SELF)
    jax.jit(step).lower(state, {}, like, rate).compile()
    after = resource.getrusage(resource.RUSAGE_SELF)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def test_compile_time_does_not_grow_with_depth(jax_without_a_store: None):
    compile_seconds(1)  # what is imported once
    four, thirty_two = compile_seconds(4), compile_seconds(32)
    assert thirty_two <= 1.5 * four
