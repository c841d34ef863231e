"""Adapters: a frozen base with small trained factors beside its products (LoRA arXiv 2106.09685, QLoRA 2305.14314).

`freeze` turns a model's weights into a base that is not trained, in float32, bfloat16 or NF4; `adapt` adds the factors.
Models that are adapted from one base hold the same arrays. What is trained, and all that a checkpoint of a role needs,
is `trained(weights)`. `merged` makes a plain model of it again.
"""

from __future__ import annotations

import dataclasses
import fnmatch
import math
from dataclasses import dataclass
from typing import Any, Literal

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array

from o1coder_jax.errors import UserError
from o1coder_jax.linear import Frozen, Linear
from o1coder_jax.model_config import ModelConfig
from o1coder_jax.nf4 import block_size, pack_layers, unpack
from o1coder_jax.transformer import Transformer

Graph = nnx.GraphDef[Transformer]
Dtype = Literal["float32", "bfloat16"]
BaseKind = Literal["float32", "bfloat16", "nf4"]
PROJECTIONS = {  # ours, and what checkpoints of the Hugging Face form call it
    "query": "q_proj",
    "key": "k_proj",
    "value": "v_proj",
    "output": "o_proj",
    "gate": "gate_proj",
    "up": "up_proj",
    "down": "down_proj",
}
HEAD = ("value", "value_bias")


@dataclass(frozen=True)
class AdapterConfig:
    """A role's adapter.

    Attributes:
      rank: of the factors; their product is scaled by `alpha` / `rank`.
      dropout: share of a product's inputs that training hides from its factors.
      targets: patterns of the products that get factors: query, key, value, output, gate, up, down (or q_proj, ... ,
        down_proj), with * and ? as in file names.
      base: what the frozen weights are kept in; `nf4` packs the products' weights into four bits and keeps the
        embeddings in bfloat16. Norms and biases stay in float32.
    """

    rank: int = 8
    alpha: float = 16.0
    dropout: float = 0.0
    targets: tuple[str, ...] = ("query", "value")
    base: BaseKind = "float32"

    def __post_init__(self) -> None:
        if self.rank < 1 or self.alpha <= 0:
            raise UserError(f"adapter: rank {self.rank} must be at least 1 and alpha {self.alpha} positive")
        if not 0 <= self.dropout < 1:
            raise UserError(f"adapter.dropout is {self.dropout}; it must lie in [0, 1)")
        known = ", ".join(PROJECTIONS)
        if not self.targets:
            raise UserError(f"adapter.targets is empty; name some of {known}, or '*' for all")
        for pattern in self.targets:
            if not any(_matches(name, pattern) for name in PROJECTIONS):
                raise UserError(f"adapter.targets: {pattern!r} matches no product; the products are {known}")

    def check(self, model: ModelConfig) -> None:
        """Raises a `UserError` where a model of this shape cannot be packed."""
        if self.base == "nf4":
            for size in (model.head_size, model.width, model.mlp_width):
                block_size(size)

    @property
    def scale(self) -> float:
        return self.alpha / self.rank

    @property
    def names(self) -> list[str]:
        """The products that get factors."""
        return [name for name in PROJECTIONS if any(_matches(name, pattern) for pattern in self.targets)]

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> AdapterConfig:
        """Reads what `config.to_dict` wrote."""
        return cls(**(values | {"targets": tuple(values["targets"])}))


def _matches(name: str, pattern: str) -> bool:
    return fnmatch.fnmatchcase(name, pattern) or fnmatch.fnmatchcase(PROJECTIONS[name], pattern)


def freeze(graph: Graph, weights: Any, base: BaseKind) -> tuple[Graph, Any]:
    """The same model with no weight in training but those of its value head."""
    model = nnx.merge(graph, weights)
    dtype = jnp.float32 if base == "float32" else jnp.bfloat16
    for linear in _linears(model).values():
        weight = linear.weight
        if base == "nf4" and weight is not None:
            codes, scales = pack_layers(weight[...])
            linear.weight, linear.codes, linear.scales = None, Frozen(codes), Frozen(scales)
    _change(model, lambda name, array: Frozen(array.astype(dtype) if _is_matrix(name, array) else array), head=False)
    return nnx.split(model)


def adapt(graph: Graph, weights: Any, config: AdapterConfig, key: Array) -> tuple[Graph, Any]:
    """A base with factors: A uniform in +-1 / sqrt(inputs), B zero, so that at first nothing changes.

    Args:
      key: draws A.
    """
    model = nnx.merge(graph, weights)
    for number, name in enumerate(config.names):
        linear = _linears(model)[name]
        layers, *shape = _weight_shape(linear)
        inputs, outputs = tuple(shape[: linear.inputs]), tuple(shape[linear.inputs :])
        bound = math.prod(inputs) ** -0.5
        drawn = jax.random.uniform(
            jax.random.fold_in(key, number), (layers, *inputs, config.rank), minval=-bound, maxval=bound
        )
        linear.lora_a = nnx.LoRAParam(drawn)
        linear.lora_b = nnx.LoRAParam(jnp.zeros((layers, config.rank, *outputs)))
        linear.scale, linear.dropout = config.scale, config.dropout
    return nnx.split(model)


def attach(graph: Graph, weights: Any, config: AdapterConfig, key: Array) -> tuple[Graph, Any]:
    """A model as a frozen base with an adapter; its value head, if it has one, stays in training."""
    return adapt(*freeze(graph, weights, config.base), config, key)


def trained(weights: Any) -> Any:
    """The weights in training: those of the adapter and the value head, or all of a plain model."""
    return nnx.filter_state(weights, nnx.Param)


def merged(graph: Graph, weights: Any, dtype: Dtype | None = None) -> tuple[Graph, Any]:
    """A plain model that computes the same: W + s A B for each product, everything an `nnx.Param`.

    Args:
      dtype: of its activations and matrices; None keeps the model's activations, and takes float32 for matrices that
        were packed or have factors.
    """
    model = nnx.merge(graph, weights)
    for linear in _linears(model).values():
        if linear.codes is not None or linear.lora_a is not None:
            linear.weight = nnx.Param(_merged_weight(linear, jnp.dtype(dtype or jnp.float32)))
        linear.codes = linear.scales = linear.lora_a = linear.lora_b = None
        linear.scale, linear.dropout = 1.0, 0.0

    def plain(name: str, array: Array) -> nnx.Param[Any]:
        return nnx.Param(array.astype(dtype) if dtype is not None and _is_matrix(name, array) else array)

    _change(model, plain, head=True)
    if dtype is not None:
        model.config = model.blocks.config = dataclasses.replace(model.config, dtype=dtype)
    return nnx.split(model)


def _merged_weight(linear: Linear, dtype: Any) -> Array:
    """(L, *in, *out), one layer after another: in float32 it exists for one at a time."""
    shape = _weight_shape(linear)[1:]

    def layer(parts: dict[str, Array]) -> Array:
        weight = unpack(parts["codes"], parts["scales"]) if "codes" in parts else parts["weight"].astype(jnp.float32)
        if "lora_a" in parts:
            a, b = parts["lora_a"], parts["lora_b"]
            low, high = a.reshape(-1, a.shape[-1]), b.reshape(b.shape[0], -1)
            change = jnp.matmul(low, high, precision=jax.lax.Precision.HIGHEST).reshape(shape)
            weight = weight + linear.scale * change
        return weight.astype(dtype)

    names = ("weight", "codes", "scales", "lora_a", "lora_b")
    parts = {name: getattr(linear, name)[...] for name in names if getattr(linear, name) is not None}
    return jax.lax.map(layer, parts)


def dropout_of(graph: Graph, weights: Any) -> float:
    """The largest share of inputs that training hides from an adapter; 0 without one."""
    shapes = jax.eval_shape(lambda: weights)
    return max(linear.dropout for linear in _linears(nnx.merge(graph, shapes)).values())


def _linears(model: Transformer) -> dict[str, Linear]:
    return {name: getattr(model.blocks, name) for name in PROJECTIONS}


def _weight_shape(linear: Linear) -> tuple[int, ...]:
    """(L, *in, *out)."""
    if linear.codes is not None:
        *lead, blocks, half = linear.codes[...].shape
        return (*lead, blocks * half * 2)
    assert linear.weight is not None
    return tuple(linear.weight[...].shape)


def _is_matrix(name: str, array: Array) -> bool:
    return name in ("weight", "embedding", "projection") and jnp.issubdtype(array.dtype, jnp.floating)


def _change(model: Transformer, change: Any, *, head: bool) -> None:
    """Puts `change(name, array)` in the place of every weight that is no part of an adapter or of a packed weight.

    Args:
      head: the value head as well.
    """
    kept = ("codes", "scales", "lora_a", "lora_b")
    for module in (model, model.blocks, *_linears(model).values()):
        for name, variable in list(vars(module).items()):
            if (
                not isinstance(variable, nnx.Variable)
                or name in kept
                or (module is model and name in HEAD and not head)
            ):
                continue
            setattr(module, name, change(name, variable[...]))
