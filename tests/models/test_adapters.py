"""Adapters: what is trained, what stays, and that a merged model computes the same."""

from __future__ import annotations

import dataclasses
import functools
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from o1coder_jax import losses
from o1coder_jax.adapters import AdapterConfig, adapt, attach, dropout_of, freeze, merged, trained
from o1coder_jax.config import parse
from o1coder_jax.errors import UserError
from o1coder_jax.nf4 import pack_layers, unpack
from o1coder_jax.transformer import parameter_count
from tests.tiny import SHAPE, VOCAB, decoder, forward
from train.config import Config
from train.step import dropout_seeds

ROOT = Path(__file__).resolve().parent.parent.parent

TOKENS = jnp.asarray(np.random.default_rng(0).integers(0, VOCAB, (2, 8)))
EVERY = AdapterConfig(rank=2, alpha=6.0, targets=("*",))
SCANNED = dataclasses.replace(SHAPE, layers=6)


def plain(config: Any = SHAPE, *, value_head: bool = False) -> tuple[Any, Any]:
    return nnx.split(decoder(config, value_head=value_head))


def moved(weights: Any, size: float = 0.3) -> Any:
    """The same with the trained weights as after some training: B is no longer zero."""
    rng = np.random.default_rng(1)
    after = jax.tree.map(lambda w: w + size * rng.normal(size=w.shape).astype(np.float32), trained(weights))
    return nnx.merge_state(weights, after)


def names(weights: Any) -> set[str]:
    return {".".join(str(part) for part in path) for path, _ in nnx.to_flat_state(weights)}


@pytest.mark.parametrize("base", ["float32", "nf4"])
@pytest.mark.parametrize("config", [SHAPE, SCANNED], ids=["unrolled", "scanned"])
def test_merged_model_computes_what_the_adapted_one_does(config: Any, base: Any):
    graph, weights = attach(*plain(config), dataclasses.replace(EVERY, base=base), jax.random.key(0))
    weights = moved(weights)
    expected = forward(graph, weights, TOKENS)
    np.testing.assert_allclose(forward(*merged(graph, weights), TOKENS), expected, atol=2e-4)
    assert abs(forward(*plain(config), TOKENS) - expected).max() > 0.1  # the adapter does something


def test_new_adapter_changes_nothing():
    graph, weights = attach(*plain(), EVERY, jax.random.key(0))
    np.testing.assert_array_equal(forward(graph, weights, TOKENS), forward(*plain(), TOKENS))


def test_product_is_the_weight_plus_the_scaled_factors():
    graph, weights = attach(*plain(), EVERY, jax.random.key(0))
    weights = moved(weights)
    before = nnx.to_pure_dict(weights)["blocks"]["output"]
    after = nnx.to_pure_dict(merged(graph, weights)[1])["blocks"]["output"]["weight"]
    change = 3.0 * np.einsum("lher,lrd->lhed", before["lora_a"], before["lora_b"])
    np.testing.assert_allclose(after, before["weight"] + change, atol=1e-5)


def test_merged_graph_is_that_of_a_plain_model():
    graph, _ = merged(*attach(*plain(), EVERY, jax.random.key(0)))
    assert graph == plain()[0] and hash(graph) == hash(plain()[0])


@pytest.mark.parametrize("pattern", [("query", "value"), ("q_proj", "v_proj"), ("[qv]*",)])
def test_targets_are_patterns_over_either_name(pattern: tuple[str, ...]):
    _, weights = attach(*plain(), AdapterConfig(rank=1, targets=pattern), jax.random.key(0))
    assert names(trained(weights)) == {f"blocks.{name}.lora_{part}" for name in ("query", "value") for part in "ab"}


def test_all_projections_at_once():
    assert len(AdapterConfig(targets=("*_proj",)).names) == len(AdapterConfig(targets=("*",)).names) == 7


def test_value_head_stays_in_training_and_the_rest_is_frozen():
    _, weights = attach(*plain(value_head=True), AdapterConfig(targets=("down",)), jax.random.key(0))
    assert names(trained(weights)) == {"value", "value_bias", "blocks.down.lora_a", "blocks.down.lora_b"}
    assert not [leaf for leaf in jax.tree.leaves(freeze(*plain(), "float32")[1], is_leaf=_is_param) if _is_param(leaf)]


def _is_param(leaf: Any) -> bool:
    return isinstance(leaf, nnx.Param)


def test_rank_decides_how_many_weights_are_trained():
    counts = []
    for rank in (1, 8):
        _, weights = attach(*plain(), AdapterConfig(rank=rank, targets=("gate",)), jax.random.key(0))
        counts.append(parameter_count(trained(weights)))
    assert counts == [2 * (16 + 24), 8 * 2 * (16 + 24)]


def test_roles_on_one_base_share_its_arrays():
    base = freeze(*plain(), "nf4")
    first, second = (adapt(*base, EVERY, jax.random.key(seed))[1] for seed in (0, 1))
    frozen = [nnx.split_state(weights, nnx.Param, ...)[1] for weights in (first, second)]
    assert all(a is b for a, b in zip(*map(jax.tree.leaves, frozen), strict=True))
    a, b = (nnx.to_pure_dict(trained(weights))["blocks"]["query"]["lora_a"] for weights in (first, second))
    assert (a != b).any()


def test_base_in_nf4_holds_codes_and_small_floats():
    big = dataclasses.replace(SHAPE, width=64, heads=2, head_size=64, mlp_width=128)
    _, weights = freeze(*plain(big), "nf4")
    block = nnx.to_pure_dict(weights)["blocks"]
    packed = [block[name] for name in ("query", "key", "value", "output", "gate", "up", "down")]
    count = sum(2 * part["codes"].size for part in packed)
    assert sum(8 * (part["codes"].nbytes + part["scales"].nbytes) for part in packed) / count == 4.5
    assert all("weight" not in part for part in packed)
    assert nnx.to_pure_dict(weights)["embedding"].dtype == jnp.bfloat16
    assert block["attention_norm"].dtype == jnp.float32


def test_base_in_nf4_computes_with_the_unpacked_weights():
    graph, weights = plain(SCANNED)
    rounded = jax.tree_util.tree_map_with_path(
        lambda path, leaf: unpack(*pack_layers(leaf)) if "weight" in str(path) else leaf, weights
    )
    rounded["embedding"] = jax.tree.map(lambda x: x.astype(jnp.bfloat16).astype(jnp.float32), rounded["embedding"])
    expected = forward(graph, rounded, TOKENS)
    np.testing.assert_allclose(forward(*freeze(graph, weights, "nf4"), TOKENS), expected, atol=1e-4)


def test_merging_into_bfloat16_gives_a_bfloat16_model():
    graph, weights = merged(*attach(*plain(value_head=True), EVERY, jax.random.key(0)), "bfloat16")
    model = nnx.merge(graph, weights)
    assert model.config.dtype == model.blocks.config.dtype == "bfloat16"
    assert {str(leaf.dtype) for leaf in jax.tree.leaves(nnx.state(model.blocks))} == {"bfloat16", "float32"}
    assert model.blocks.query.weight[...].dtype == model.embedding[...].dtype == jnp.bfloat16
    assert model.value[...].dtype == model.norm[...].dtype == jnp.float32


# Dropout.

HIDING = AdapterConfig(rank=2, dropout=0.5, targets=("*",))


def loss(weights: Any, graph: Any, seeds: np.ndarray | None) -> float:
    batch = {
        "tokens": TOKENS,
        "positions": jnp.broadcast_to(jnp.arange(8), (2, 8)),
        "segments": jnp.ones((2, 8), jnp.int32),
        "weight": jnp.ones((2, 8)),
    }
    return float(_loss(graph, weights, batch if seeds is None else batch | {"dropout": jnp.asarray(seeds)}))


@functools.partial(jax.jit, static_argnums=0)
def _loss(graph: Any, weights: Any, batch: Any) -> Any:
    return losses.sft(nnx.merge(graph, weights), batch)[0]


def test_dropout_follows_its_seeds_and_is_absent_without():
    graph, weights = attach(*plain(SCANNED), HIDING, jax.random.key(0))
    weights = moved(weights)
    whole = loss(weights, graph, None)
    never = attach(*plain(SCANNED), dataclasses.replace(HIDING, dropout=0.0), jax.random.key(0))[0]
    assert whole == loss(weights, never, None)
    first, again, other = (loss(weights, graph, dropout_seeds(0, update, 2)) for update in (1, 1, 2))
    assert first == again and len({whole, first, other}) == 3


def test_dropout_keeps_the_mean_of_what_it_hides():
    graph, weights = attach(*plain(), HIDING, jax.random.key(0))
    linear = nnx.merge(graph, jax.tree.map(lambda w: w[0] if w.ndim > 1 else w, moved(weights))).blocks.gate
    x = jnp.ones((512, 1, 16))
    drawn = linear(x, jnp.asarray(dropout_seeds(0, 0, 512)))
    assert (drawn[0] != drawn[1]).any()
    np.testing.assert_allclose(drawn.mean(axis=0), linear(x)[0], atol=0.6)


def test_only_an_adapter_that_hides_needs_seeds():
    assert dropout_of(*plain()) == 0
    assert dropout_of(*attach(*plain(), EVERY, jax.random.key(0))) == 0
    assert dropout_of(*attach(*plain(), HIDING, jax.random.key(0))) == 0.5


def test_every_row_of_every_update_has_a_seed_of_its_own():
    seeds = np.concatenate([dropout_seeds(seed, update, 8) for seed in (0, 1) for update in range(4)])
    assert len({tuple(seed) for seed in seeds.tolist()}) == len(seeds)


@pytest.mark.parametrize(
    ("settings", "complaint"),
    [
        ({"rank": 0}, "rank 0 must be at least 1"),
        ({"alpha": 0.0}, "alpha 0.0 positive"),
        ({"dropout": 1.0}, r"dropout is 1.0; it must lie in \[0, 1\)"),
        ({"targets": ()}, "targets is empty; name some of query, key"),
        ({"targets": ("query", "wq")}, "'wq' matches no product; the products are query, key"),
    ],
)
def test_settings_that_cannot_be_are_refused(settings: dict[str, Any], complaint: str):
    with pytest.raises(UserError, match=complaint):
        AdapterConfig(**settings)


# The paper's recipes.


def recipe(role: str, file: str) -> tuple[AdapterConfig, Any]:
    """The adapter and the optimiser of a role in the configuration that is laid over the embedded one."""
    over = [f"--config={ROOT / 'configs' / name}.yaml" for name in ("tiny", file)]
    section = getattr(parse(Config, over), role)
    assert section.adapter is not None
    return section.adapter, section.optimizer


def test_recipe_of_the_generator_is_rank_1_on_all_projections_of_a_packed_base():
    adapter, optimizer = recipe("tcg", "qlora-tcg")
    assert (adapter.rank, len(adapter.names), adapter.base, optimizer.learning_rate) == (1, 7, "nf4", 5e-4)
    _, weights = attach(*plain(), adapter, jax.random.key(0))
    assert len(jax.tree.leaves(trained(weights))) == 14


def test_recipe_of_the_reward_model_is_rank_8_on_queries_and_values():
    adapter, _ = recipe("prm", "lora-prm")
    assert (adapter.rank, adapter.names) == (8, ["query", "value"])
    _, weights = attach(*plain(value_head=True), adapter, jax.random.key(0))
    assert len(jax.tree.leaves(trained(weights))) == 6


def test_adapters_are_settings_of_all_three_roles():
    given = [f"--{role}.adapter.rank=3" for role in ("policy", "prm", "tcg")]
    config = parse(Config, given)
    assert [role.adapter for role in (config.policy, config.prm, config.tcg)] == [AdapterConfig(rank=3)] * 3
    assert parse(Config, []).policy.adapter is None


def test_shape_that_cannot_be_packed_is_refused_before_anything_runs():
    with pytest.raises(UserError, match="an axis of 20 weights has no blocks for nf4"):
        parse(Config, ["--tcg.adapter.base=nf4", "--model.mlp_width=20"])
