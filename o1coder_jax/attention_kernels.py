"""The kernels of whole sequences: which one a device runs, and those that are not XLA's own."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Float, Int

from o1coder_jax.errors import UserError
from o1coder_jax.mesh import ROWS
from o1coder_jax.model_config import ModelConfig

SPLASH_BLOCKS = (512, 256, 128)  # tokens of a block, the largest first that divides a row; 128 is a register's width
Device = Any  # `jax.Device`, or the `AbstractDevice` of a mesh: both have `platform` and `device_kind`
Kernel = Callable[[Array, Array, Array, Array], Array]


def kernel_for(config: ModelConfig, device: Device | None = None) -> str:
    """The kernel that `model.attention` comes to on a device: `xla`, `cudnn` or `splash`.

    Args:
      device: that of the mesh which `jax.set_mesh` names, or else the first one here, when None.

    Raises:
      UserError: a kernel was named that this device cannot run; no other one takes its place.
    """
    device = device or jax.sharding.get_abstract_mesh().abstract_device or jax.devices()[0]
    if config.attention == "xla":
        return "xla"
    obstacles = {"cudnn": _cudnn_obstacle(config, device), "splash": _splash_obstacle(device)}
    if config.attention == "auto":
        return next((name for name, obstacle in obstacles.items() if obstacle is None), "xla")
    if obstacle := obstacles[config.attention]:
        raise UserError(f"model.attention is {config.attention}, {obstacle}; set it to auto, or to xla")
    return config.attention


def _cudnn_obstacle(config: ModelConfig, device: Device) -> str | None:
    """Limits of cuDNN's flash attention (NVIDIA cuDNN frontend, scaled dot product attention)."""
    if device.platform != "gpu" or not device.device_kind.startswith(("NVIDIA", "Tesla", "Quadro", "GeForce")):
        return f"which needs an NVIDIA GPU, and this is {device.device_kind}"
    if config.dtype != "bfloat16":
        return f"which needs model.dtype bfloat16, and that is {config.dtype}"
    told = [getattr(one, "compute_capability", None) for one in (device, jax.devices()[0])]  # a mesh's does not tell
    capability = float(next((one for one in told if one), "8.0"))
    largest = 256 if capability >= 9 else 128
    if capability < 8:
        return f"which needs compute capability 8.0, and {device.device_kind} has {capability}"
    if config.head_size % 8 or config.head_size > largest:
        return f"which takes head sizes up to {largest} in steps of 8, and model.head_size is {config.head_size}"
    return None


def _splash_obstacle(device: Device) -> str | None:
    return None if device.platform == "tpu" else f"which needs a TPU, and this is {device.device_kind}"


def cudnn(q: Array, k: Array, v: Array, mask: Array) -> Array:
    """cuDNN's flash attention; the mask reaches it as a bias of (B, 1, S, S) in the dtype of the queries."""
    return jax.nn.dot_product_attention(q, k, v, mask=mask, implementation="cudnn")


def splash(
    q: Float[Array, "B S H E"],
    k: Float[Array, "B S G E"],
    v: Float[Array, "B S G E"],
    segments: Int[Array, "B S"],
    window: Int[Array, ""] | None = None,
    *,
    sliding_window: int | None = None,
    interpret: bool = False,
) -> Float[Array, "B S H E"]:
    """JAX's block-sparse attention for TPUs: causal, within segments; blocks that see nothing are not computed.

    Args:
      window: tokens that a token sees in this layer; `sliding_window` or more than the row has.
      sliding_window: that of the model. Masks are made when the program is compiled, so a layer whose window is known
        only at run time chooses between two kernels.
      interpret: computed by XLA, operation by operation (tests on a CPU).
    """
    length = q.shape[1]
    padding = -length % SPLASH_BLOCKS[-1]
    if padding:  # of segment 0, behind: no token sees it
        q, k, v = (jnp.pad(x, ((0, 0), (0, padding), (0, 0), (0, 0))) for x in (q, k, v))
        segments = jnp.pad(segments, ((0, 0), (0, padding)))

    def local(q: Array, k: Array, v: Array, segments: Array, window: Array | None) -> Array:
        whole = _splash_kernel(q.shape[2], q.shape[1], None, interpret)
        if window is None or sliding_window is None:
            return whole(q, k, v, segments)
        near = _splash_kernel(q.shape[2], q.shape[1], sliding_window, interpret)
        return jax.lax.cond(window > sliding_window, whole, near, q, k, v, segments)

    sizes = jax.sharding.get_abstract_mesh()
    if sizes.empty:
        out = local(q, k, v, segments, window)
    else:
        rows = ROWS if q.shape[0] % math.prod(sizes.shape[axis] for axis in ROWS) == 0 else None
        heads = P(rows, None, "tensor" if k.shape[2] % sizes.shape["tensor"] == 0 else None, None)
        split = jax.shard_map(
            local, in_specs=(heads, heads, heads, P(rows, None), P()), out_specs=heads, check_vma=False
        )
        out = split(q, k, v, segments, window)
    return out[:, :length]


def _splash_kernel(heads: int, length: int, window: int | None, interpret: bool) -> Kernel:
    from jax.experimental.pallas.ops.tpu import splash_attention as library  # imports a compiler; only TPUs pay for it

    size = next(block for block in SPLASH_BLOCKS if length % block == 0)
    names = ("q", "kv", "kv_compute", "q_dkv", "kv_dkv", "kv_dkv_compute", "q_dq", "kv_dq")
    sizes: dict[str, Any] = {f"block_{name}": size for name in names}
    shape = (length, length)
    # A causal mask sees up to the token itself; of a window of n it sees the n - 1 before it, too.
    mask = library.CausalMask(shape) if window is None else library.LocalMask(shape, (window - 1, 0), 0)
    kernel = library.make_splash_mha_single_device(
        library.MultiHeadMask([mask] * heads), block_sizes=library.BlockSizes(**sizes), interpret=interpret
    )

    def apply(q: Array, k: Array, v: Array, segments: Array) -> Array:
        q, k, v = (jnp.moveaxis(x, 2, 1) for x in (q * q.shape[-1] ** -0.5, k, v))
        out = jax.vmap(kernel)(q, k, v, library.SegmentIds(segments, segments))
        return jnp.moveaxis(out, 1, 2)

    return apply
