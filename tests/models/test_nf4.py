"""NF4: against a plain NumPy reading of the paper, and what it takes in memory."""

from __future__ import annotations

from statistics import NormalDist

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from o1coder_jax.errors import UserError
from o1coder_jax.linear import Linear, packed_product, product
from o1coder_jax.nf4 import LEVELS, block_size, pack, pack_layers, unpack

OFFSET = 0.9677083  # arXiv 2305.14314: mean of 1 - 1/(2 * 15) and 1 - 1/(2 * 16), as its authors computed it


def quantiles() -> np.ndarray:
    """The 16 levels from the normal distribution: 8 positive, 7 negative and zero, divided by the largest."""
    inverse = NormalDist().inv_cdf
    positive = [inverse(p) for p in np.linspace(OFFSET, 0.5, 9)[:-1]]
    negative = [-inverse(p) for p in np.linspace(OFFSET, 0.5, 8)[:-1]]
    return np.sort(np.array([*positive, 0.0, *negative])) / max(positive)


def reference(weight: np.ndarray, block: int) -> np.ndarray:
    """Each weight as the nearest level times the largest of its block, one block after another."""
    out = np.empty(weight.size)
    flat, levels = weight.reshape(-1).astype(np.float64), quantiles()
    for start in range(0, len(flat), block):
        part = flat[start : start + block]
        scale = np.abs(part).max()
        for i, value in enumerate(part):
            out[start + i] = levels[np.argmin(np.abs(levels - value / scale))] * scale if scale else 0.0
    return out.reshape(weight.shape)


def random_weight(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).normal(size=shape).astype(np.float32)


def test_levels_are_quantiles_of_the_normal_distribution():
    np.testing.assert_allclose(LEVELS, quantiles(), atol=1e-6)


@pytest.mark.parametrize("shape", [(3, 64), (2, 5, 128), (4, 2, 16), (3, 24)])
def test_unpacked_weight_is_the_reference_within_rounding(shape: tuple[int, ...]):
    weight = random_weight(*shape)
    got = unpack(*pack(jnp.asarray(weight)))
    np.testing.assert_allclose(got, reference(weight, block_size(shape[-1])), rtol=1e-5, atol=1e-6)


def test_block_of_zeros_stays_zero():
    weight = random_weight(2, 128)
    weight[0, 64:] = 0
    assert not np.asarray(unpack(*pack(jnp.asarray(weight))))[0, 64:].any()


def test_packing_again_changes_nothing():
    once = unpack(*pack(jnp.asarray(random_weight(4, 64))))
    np.testing.assert_array_equal(unpack(*pack(once)), once)


def test_a_weight_takes_four_and_a_half_bits():
    weight = jnp.asarray(random_weight(2, 64, 256))
    codes, scales = pack_layers(weight)
    assert 8 * (codes.nbytes + scales.nbytes) / weight.size == 4.5


def test_layers_are_packed_as_each_alone():
    weight = jnp.asarray(random_weight(3, 4, 64))
    together, alone = pack_layers(weight), [pack(layer) for layer in weight]
    for part in (0, 1):
        np.testing.assert_array_equal(together[part], np.stack([pair[part] for pair in alone]))


def test_axis_without_blocks_is_refused_with_a_way_out():
    with pytest.raises(UserError, match=r"an axis of 100 weights has no blocks for nf4; .* multiples of 8"):
        pack(jnp.zeros((4, 100)))


def test_backward_pass_keeps_no_unpacked_weight():
    """The gradient is that of the unpacked product, and what waits for it holds codes, no weights."""
    x, weight = jnp.asarray(random_weight(1, 2, 64)), jnp.asarray(random_weight(64, 128))
    codes, scales = pack(weight)
    plain = unpack(codes, scales)
    out, back = jax.vjp(lambda x: packed_product(x, codes, scales, 1), x)
    expected, plainly = jax.vjp(lambda x: product(x, plain, 1), x)
    np.testing.assert_allclose(out, expected, atol=1e-5)
    np.testing.assert_allclose(back(out)[0], plainly(out)[0], atol=1e-4)
    waiting = {leaf.size for leaf in jax.tree.leaves(back)}
    assert codes.size in waiting and weight.size not in waiting


def test_scanned_layers_are_unpacked_one_at_a_time():
    """Training through a deep packed stack needs less memory than the stack has unpacked, forward and backward."""
    layers, width, inner = 16, 64, 1024
    codes, scales = pack_layers(jnp.asarray(random_weight(layers, width, inner)))

    def loss(x: jax.Array, codes: jax.Array, scales: jax.Array) -> jax.Array:
        def layer(x: jax.Array, weight: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, None]:
            return x + packed_product(x, *weight, 1)[..., :width], None

        return jnp.sum(jax.lax.scan(layer, x, (codes, scales))[0] ** 2)

    compiled = jax.jit(jax.grad(loss)).lower(jnp.ones((1, 2, width)), codes, scales).compile()
    unpacked = 4 * layers * width * inner
    assert compiled.memory_analysis().temp_size_in_bytes < unpacked / 2


def test_linear_with_a_packed_weight_gives_the_product_with_the_reference():
    linear = Linear((64,), (2, 32), fan_in=64, rngs=nnx.Rngs(0))
    weight = np.asarray(linear.weight[...])  # type: ignore[index]
    codes, scales = pack(jnp.asarray(weight))
    linear.weight, linear.codes, linear.scales = None, nnx.Variable(codes), nnx.Variable(scales)  # type: ignore[assignment]
    x = random_weight(1, 3, 64)
    expected = np.einsum("bsi,iho->bsho", x, reference(weight, 32))
    np.testing.assert_allclose(linear(jnp.asarray(x)), expected, atol=1e-4)
