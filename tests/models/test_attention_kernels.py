"""The kernels against plain attention, and which of them a device gets."""

from __future__ import annotations

import dataclasses
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from o1coder_jax.attention import attention, segment_mask
from o1coder_jax.attention_kernels import cudnn, kernel_for, splash
from o1coder_jax.errors import UserError
from o1coder_jax.model_config import ModelConfig

MODEL = ModelConfig(dtype="bfloat16", head_size=64)
GPU = SimpleNamespace(platform="gpu", device_kind="NVIDIA H100 80GB HBM3", compute_capability="9.0")
OLD_GPU = SimpleNamespace(platform="gpu", device_kind="Tesla V100-SXM2-16GB", compute_capability="7.0")
TPU = SimpleNamespace(platform="tpu", device_kind="TPU v4")
CPU = SimpleNamespace(platform="cpu", device_kind="cpu")


@pytest.mark.parametrize(
    ("device", "changes", "kernel"),
    [
        (CPU, {}, "xla"),
        (TPU, {}, "splash"),
        (GPU, {}, "cudnn"),
        (GPU, {"dtype": "float32"}, "xla"),
        (GPU, {"head_size": 260}, "xla"),
        (GPU, {"head_size": 60}, "xla"),
        (OLD_GPU, {}, "xla"),
        (TPU, {"attention": "xla"}, "xla"),
    ],
)
def test_auto_takes_the_kernel_of_the_device(device, changes, kernel):
    assert kernel_for(dataclasses.replace(MODEL, **changes), device) == kernel


@pytest.mark.parametrize(
    ("device", "changes", "complaint"),
    [
        (CPU, {"attention": "splash"}, "splash, which needs a TPU, and this is cpu"),
        (TPU, {"attention": "cudnn"}, "cudnn, which needs an NVIDIA GPU, and this is TPU v4"),
        (GPU, {"attention": "cudnn", "dtype": "float32"}, "needs model.dtype bfloat16, and that is float32"),
        (GPU, {"attention": "cudnn", "head_size": 512}, "sizes up to 256 in steps of 8, and model.head_size is 512"),
        (OLD_GPU, {"attention": "cudnn"}, "needs compute capability 8.0"),
    ],
)
def test_a_kernel_that_the_device_cannot_run_is_refused(device, changes, complaint):
    with pytest.raises(UserError, match=complaint):
        kernel_for(dataclasses.replace(MODEL, **changes), device)


def inputs(length: int, dtype: str = "float32"):
    """Two packed rows with padding at their ends: queries of 4 heads, keys and values of 2."""
    rng = np.random.default_rng(0)
    q, k, v = (jnp.asarray(rng.normal(size=(2, length, heads, 64)), dtype) for heads in (4, 2, 2))
    at = np.arange(length)
    segments = np.stack([1 + (at >= 70), np.where(at < length - 20, 1, 0)]).astype(np.int32)
    return q, k, v, jnp.asarray(segments)


def with_gradient(function, q, k, v, segments):
    """What real tokens get, and the gradients of a sum of it."""
    real = (segments > 0)[..., None, None]

    def total(q, k, v):
        out = jnp.where(real, function(q, k, v, segments).astype(jnp.float32), 0)
        return jnp.sum(out * jnp.arange(out.shape[-1])), out

    return jax.jit(jax.grad(total, argnums=(0, 1, 2), has_aux=True))(q, k, v)


@pytest.mark.parametrize("window", [None, 40])
def test_splash_is_plain_attention(window):
    """Interpreted. Rows of 150 tokens: they are padded to whole blocks."""
    near = None if window is None else jnp.int32(window)

    def kernel(q, k, v, segments):
        return splash(q, k, v, segments, near, sliding_window=window, interpret=True)

    def plain(q, k, v, segments):
        return attention(q, k, v, segments, near)

    found, expected = (with_gradient(function, *inputs(150)) for function in (kernel, plain))
    scale = max(float(jnp.abs(x).max()) for x in expected[0])
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=2e-5 * scale), found[0], expected[0])
    np.testing.assert_allclose(found[1], expected[1], atol=2e-3)


@pytest.mark.skipif(jax.default_backend() != "gpu", reason="cuDNN needs an NVIDIA GPU")
@pytest.mark.parametrize("window", [None, 40])
def test_cudnn_is_plain_attention(window):
    near = None if window is None else jnp.int32(window)

    def kernel(q, k, v, segments):
        return cudnn(q, k, v, segment_mask(segments, near))

    def plain(q, k, v, segments):
        return attention(q, k, v, segments, near)

    found, expected = (with_gradient(function, *inputs(256, "bfloat16")) for function in (kernel, plain))
    scale = max(float(jnp.abs(x).max()) for x in expected[0])
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=2e-2 * scale), found[0], expected[0])
