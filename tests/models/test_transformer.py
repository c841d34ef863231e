"""The decoder: packing, padding, causality, its variants, and what it refuses."""

from __future__ import annotations

import dataclasses
import operator

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from o1coder_jax import model_config
from o1coder_jax.attention import segment_mask
from o1coder_jax.errors import UserError
from o1coder_jax.transformer import ModelConfig, Transformer, parameter_count
from tests.tiny import SHAPE, VOCAB, decoder

FIRST, SECOND = [3, 1, 4, 1, 5], [9, 2, 6]


@pytest.fixture(scope="module")
def model() -> Transformer:
    return decoder()


@nnx.jit
def read(model, tokens, positions, segments):
    return model.read(tokens, positions, segments)


def states(model: Transformer, tokens: list[int], positions: list[int], segments: list[int]) -> np.ndarray:
    return np.asarray(read(model, *(jnp.array([x]) for x in (tokens, positions, segments))))[0]


def alone(model: Transformer, tokens: list[int], length: int = 10) -> np.ndarray:
    """States of one sequence, padded on the right."""
    rest = length - len(tokens)
    padded = states(model, tokens + [0] * rest, [*range(len(tokens)), *[0] * rest], [1] * len(tokens) + [0] * rest)
    return padded[: len(tokens)]


def test_packed_sequences_read_as_if_each_were_alone(model):
    packed = states(model, [*FIRST, *SECOND, 0, 0], [*range(5), *range(3), 0, 0], [1] * 5 + [2] * 3 + [0] * 2)
    np.testing.assert_allclose(packed[:5], alone(model, FIRST), atol=1e-5)
    np.testing.assert_allclose(packed[5:8], alone(model, SECOND), atol=1e-5)


def test_content_of_padding_has_no_influence(model):
    segments = [1] * 5 + [0] * 5
    zeros = states(model, [*FIRST, 0, 0, 0, 0, 0], [*range(10)], segments)
    others = states(model, [*FIRST, 7, 8, 9, 10, 11], [*range(10)], segments)
    np.testing.assert_array_equal(zeros[:5], others[:5])


def test_padding_states_are_finite(model):
    assert np.isfinite(states(model, FIRST * 2, [*range(10)], [0] * 10)).all()


def test_a_token_does_not_see_the_future(model):
    sequence = [*FIRST, *SECOND, 1, 1]
    changed = [*FIRST, 12, 12, 12, 12, 12]
    before = states(model, sequence, [*range(10)], [1] * 10)
    after = states(model, changed, [*range(10)], [1] * 10)
    np.testing.assert_array_equal(before[:5], after[:5])
    assert (np.abs(before[5:] - after[5:]).max(axis=1) > 1e-3).all()


def test_a_token_sees_all_of_its_past(model):
    before = states(model, [*FIRST, *SECOND, 1, 1], [*range(10)], [1] * 10)
    after = states(model, [12, *FIRST[1:], *SECOND, 1, 1], [*range(10)], [1] * 10)
    assert (np.abs(before - after).max(axis=1) > 1e-4).all()


def test_order_of_the_past_matters(model):
    forwards, backwards = alone(model, [1, 2, 3, 4]), alone(model, [3, 2, 1, 4])
    assert np.abs(forwards[3] - backwards[3]).max() > 1e-3


def test_only_relative_positions_matter(model):
    shifted = states(model, [*FIRST, *SECOND, 1, 1], [*range(100, 110)], [1] * 10)
    straight = states(model, [*FIRST, *SECOND, 1, 1], [*range(10)], [1] * 10)
    np.testing.assert_allclose(shifted, straight, atol=2e-4)


def test_segment_mask_by_hand():
    mask = np.asarray(segment_mask(jnp.array([[1, 1, 2, 0]])))[0, 0]
    assert mask.tolist() == [
        [True, False, False, False],
        [True, True, False, False],
        [False, False, True, False],
        [False, False, False, True],
    ]


def test_scanned_layers_equal_unrolled_ones(model, monkeypatch):
    tokens = jnp.array([FIRST])
    positions, segments = jnp.arange(5)[None], jnp.ones((1, 5), jnp.int32)
    unrolled = model.read(tokens, positions, segments)
    monkeypatch.setattr(model_config, "UNROLLED_LAYERS", 1)
    np.testing.assert_allclose(model.read(tokens, positions, segments), unrolled, atol=1e-5)


def test_scanned_layers_hand_back_what_unrolled_ones_do(model, monkeypatch):
    """Caches in and out: each layer gets its own, whichever way the layers run."""
    cache = [jnp.full((1,), 10.0 * layer) for layer in range(SHAPE.layers)]

    def attend(own, q, k, v, _):
        return jax.nn.dot_product_attention(q, k, v, is_causal=True) + own, (k, own)

    def run(cache):
        return model.hidden(jnp.array([FIRST]), jnp.arange(5)[None], attend, cache)

    hidden, kept = run(cache)
    monkeypatch.setattr(model_config, "UNROLLED_LAYERS", 1)
    scanned, [scanned_kept] = run([jnp.stack(cache)])
    np.testing.assert_allclose(scanned, hidden, atol=1e-5)
    kept = jax.tree.map(lambda *layers: jnp.stack(layers), *kept)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), scanned_kept, kept)
    assert scanned_kept[1].ravel().tolist() == [0.0, 10.0]


def test_query_heads_of_a_group_share_keys():
    """With one key-value head copied into two, grouped queries equal ungrouped ones."""
    single = decoder(dataclasses.replace(SHAPE, kv_heads=1))
    double = decoder(dataclasses.replace(SHAPE, kv_heads=2))
    state = nnx.to_pure_dict(nnx.state(single))
    for name in ("key", "value"):
        state["blocks"][name]["weight"] = jnp.repeat(state["blocks"][name]["weight"], 2, axis=2)
    nnx.update(double, state)
    np.testing.assert_allclose(alone(double, FIRST), alone(single, FIRST), atol=1e-5)


def test_keys_and_values_have_one_row_per_key_value_head(model):
    def attend(_, q, k, v, window):
        return jax.nn.dot_product_attention(q, k, v), (q.shape, k.shape, v.shape)

    _, kept = model.hidden(jnp.array([FIRST]), jnp.arange(5)[None], attend)
    assert kept == [((1, 5, 4, 8), (1, 5, 2, 8), (1, 5, 2, 8))] * SHAPE.layers


@pytest.mark.parametrize(
    ("variant", "parameter"),
    [
        ({"qkv_bias": True}, "query.bias"),
        ({"qkv_bias": True}, "key.bias"),
        ({"qkv_bias": True}, "value.bias"),
        ({"output_bias": True}, "output.bias"),
        ({"mlp_bias": True}, "gate.bias"),
        ({"mlp_bias": True}, "up.bias"),
        ({"mlp_bias": True}, "down.bias"),
        ({"qk_norm": True}, "query_norm"),
        ({"qk_norm": True}, "key_norm"),
    ],
)
def test_variant_uses_its_parameter(variant, parameter):
    changed = decoder(dataclasses.replace(SHAPE, **variant))
    before = alone(changed, FIRST)
    leaf = operator.attrgetter(parameter)(changed.blocks)
    leaf[...] = leaf[...] + jax.random.normal(jax.random.key(1), leaf.shape)
    assert np.abs(alone(changed, FIRST) - before).max() > 1e-3


def test_untied_embeddings_use_their_projection():
    model = decoder(dataclasses.replace(SHAPE, tied_embeddings=False))
    hidden = jnp.ones((1, SHAPE.width))
    np.testing.assert_allclose(model.logits(hidden), hidden @ model.projection[...], atol=1e-5)


def test_tied_embeddings_project_with_the_embedding(model):
    hidden = jnp.arange(SHAPE.width, dtype=jnp.float32)[None]
    np.testing.assert_allclose(model.logits(hidden), hidden @ model.embedding[...].T, rtol=1e-5)


def test_bfloat16_is_close_to_float32(model):
    low = decoder(dataclasses.replace(SHAPE, dtype="bfloat16"))
    assert low.read(jnp.array([FIRST]), jnp.arange(5)[None], jnp.ones((1, 5), jnp.int32)).dtype == jnp.bfloat16
    np.testing.assert_allclose(np.float32(alone(low, FIRST)), alone(model, FIRST), atol=0.1)


def test_logits_are_float32_under_bfloat16():
    low = decoder(dataclasses.replace(SHAPE, dtype="bfloat16"))
    assert low.logits(jnp.ones((1, SHAPE.width), jnp.bfloat16)).dtype == jnp.float32


def test_parameters_are_counted(model):
    heads = SHAPE.width * SHAPE.head_size * (2 * SHAPE.heads + 2 * SHAPE.kv_heads)
    layer = heads + 3 * SHAPE.width * SHAPE.mlp_width + 2 * SHAPE.width
    assert parameter_count(nnx.state(model)) == VOCAB * SHAPE.width + SHAPE.width + SHAPE.layers * layer


def test_every_parameter_gets_a_finite_gradient():
    model = decoder(dataclasses.replace(SHAPE, qkv_bias=True, qk_norm=True, tied_embeddings=False))

    @nnx.jit
    def gradient(model):
        def loss(model):
            segments = jnp.array([[1, 1, 1, 2, 2, 0]])
            hidden = model.read(jnp.array([[1, 2, 3, 4, 5, 0]]), jnp.array([[0, 1, 2, 0, 1, 0]]), segments)
            return jnp.sum(jax.nn.log_softmax(model.logits(hidden))[:, :5, 2])

        return nnx.grad(loss)(model)

    for path, leaf in nnx.to_flat_state(gradient(model)):
        assert np.isfinite(leaf[...]).all(), path
        assert np.abs(leaf[...]).max() > 0, path


@pytest.fixture(scope="module")
def fresh() -> Transformer:
    return nnx.jit(lambda: Transformer(SHAPE, VOCAB, value_head=True, rngs=nnx.Rngs(0)))()


def test_value_head_starts_at_zero(fresh):
    assert fresh.values(jnp.ones((2, SHAPE.width))).tolist() == [0.0, 0.0]


def test_layers_start_with_different_weights(fresh):
    query = fresh.blocks.query.weight[...]
    assert np.abs(query[0] - query[1]).max() > 0.01


def test_weights_start_at_the_scale_of_their_inputs(fresh):
    assert float(jnp.std(fresh.blocks.query.weight[...])) == pytest.approx(SHAPE.width**-0.5, rel=0.1)


@pytest.mark.parametrize(
    ("field", "value"),
    [("width", 0), ("layers", 0), ("heads", -1), ("kv_heads", 0), ("head_size", 0), ("mlp_width", 0)],
)
def test_sizes_below_one_are_refused(field, value):
    with pytest.raises(UserError, match=rf"model\.{field} is {value}"):
        ModelConfig(**{field: value})


def test_heads_that_do_not_divide_are_refused():
    with pytest.raises(UserError, match=r"model\.heads 3 is not a multiple of model\.kv_heads 2"):
        ModelConfig(heads=3, kv_heads=2)


def test_odd_head_size_is_refused():
    with pytest.raises(UserError, match=r"head_size 7 is odd"):
        ModelConfig(head_size=7)
