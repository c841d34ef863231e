"""Operations counted by hand and by the compiler; devices found by the names that JAX gives them."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from o1coder_jax import hardware
from o1coder_jax.flops import attention_pairs, forward_flops, matrix_parameters, training_flops, visible_pairs
from o1coder_jax.model_config import ModelConfig
from o1coder_jax.transformer import Transformer

SHAPE = ModelConfig(width=64, layers=2, heads=4, kv_heads=2, head_size=16, mlp_width=128)
VOCAB = 96


def test_pairs_by_hand():
    segments = np.array([[1, 1, 1, 2, 2, 0], [1, 0, 0, 0, 0, 0]])
    assert visible_pairs(segments) == (1 + 2 + 3) + (1 + 2) + 1
    assert visible_pairs(segments, 2) == (1 + 2 + 2) + (1 + 2) + 1


def test_windowed_layers_count_their_own_pairs():
    mixed = dataclasses.replace(SHAPE, layers=3, sliding_window=2, full_layers=1)
    segments = np.ones((1, 4), np.int32)
    assert attention_pairs(mixed, segments) == 10 + 2 * 7
    assert attention_pairs(dataclasses.replace(mixed, full_layers=5), segments) == 3 * 10


def test_matrices_are_those_of_the_model():
    model = nnx.eval_shape(lambda: Transformer(SHAPE, VOCAB, rngs=nnx.Rngs(0)))
    leaves = jax.tree_util.tree_leaves_with_path(nnx.to_pure_dict(nnx.state(model)))
    assert matrix_parameters(SHAPE, VOCAB) == sum(x.size for path, x in leaves if "norm" not in str(path))


def test_forward_operations_are_about_those_that_the_compiler_counts():
    """The compiler counts masked pairs, norms and softmax, too, hence a tolerance; a short row keeps them few."""
    graph, weights = nnx.split(nnx.eval_shape(lambda: Transformer(SHAPE, VOCAB, rngs=nnx.Rngs(0))))
    row = jax.ShapeDtypeStruct((8, 8), jnp.int32)

    def logits(weights, tokens, positions, segments):
        model = nnx.merge(graph, weights)
        return model.logits(model.read(tokens, positions, segments))

    counted = jax.jit(logits).lower(weights, row, row, row).compile().cost_analysis()["flops"]
    assert forward_flops(SHAPE, VOCAB, np.ones((8, 8), np.int32)) == pytest.approx(counted, rel=0.1)


def test_training_is_three_times_the_forward_pass():
    segments = np.array([[1, 1, 1, 2, 2, 0]])
    assert training_flops(SHAPE, VOCAB, segments) == 3 * forward_flops(SHAPE, VOCAB, segments)


def test_frozen_matrices_need_no_gradient_of_their_own():
    segments = np.array([[1, 1]])
    saved = training_flops(SHAPE, VOCAB, segments) - training_flops(SHAPE, VOCAB, segments, trained=0)
    assert saved == 2 * 2 * matrix_parameters(SHAPE, VOCAB)


@pytest.mark.parametrize(
    ("kind", "name", "peak"),
    [
        ("TPU v4", "TPU v4", 275e12),
        ("TPU v5 lite", "TPU v5e", 197e12),
        ("TPU v5", "TPU v5p", 459e12),
        ("TPU v5p", "TPU v5p", 459e12),
        ("NVIDIA H100 80GB HBM3", "H100", 989e12),
        ("NVIDIA H100 PCIe", "H100 PCIe", 756e12),
        ("NVIDIA H200", "H200", 989e12),
        ("NVIDIA A100-SXM4-40GB", "A100 40GB", 312e12),
        ("NVIDIA A100-SXM4-80GB", "A100 80GB", 312e12),
    ],
)
def test_devices_are_found_by_their_kind(kind: str, name: str, peak: float):
    device = hardware.find(kind)
    assert device is not None and (device.name, device.peak_flops) == (name, peak)


@pytest.mark.parametrize("kind", ["cpu", "TPU v55", "NVIDIA L40S", "NVIDIA H20"])
def test_a_device_that_the_table_lacks_is_none(kind: str):
    assert hardware.find(kind) is None


def test_a_cpu_has_no_peak_but_memory():
    assert hardware.peak_flops(jax.devices()) is None
    assert hardware.peak_memory_bytes(jax.devices()) > 2**20
