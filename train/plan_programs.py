"""The jitted programs of a run, as shapes on a mesh: nothing is allocated, so any machine can compile for any other.

Each is the function that the stages call (`train/step.py`, `search/engine.py`), with arguments of the shapes and places
that they would have there.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from o1coder_jax import losses
from o1coder_jax.mesh import ROWS, parameter_shardings, row_shards
from o1coder_jax.model_config import ModelConfig
from o1coder_jax.stopping import stop_ids
from o1coder_jax.transformer import Transformer, parameter_count
from search import engine
from search.config import SearchConfig
from search.device import empty_plan, empty_reading
from search.engine import Plan, Reading, Sizes
from train.config import Config
from train.flops import Work, reading_work, training_work, wave_work
from train.step import Objective, OptimizerConfig, TrainState, jitted_step

SAMPLER_AXES = ("tensor",)


@dataclass(frozen=True)
class Role:
    """A model by its shape."""

    config: ModelConfig
    vocab_size: int
    value_head: bool = False


@dataclass(frozen=True)
class Program:
    """One jitted function of a stage.

    Attributes:
      name: the stage, and what of it.
      parameters: of its model.
      work: by formula.
      arguments: bytes on each chip of what it is called with, by kind.
      beside: bytes on each chip of what lies there meanwhile, by kind.
      lower: traces it.
      advice: configuration keys that make it smaller.
    """

    name: str
    parameters: int
    work: Work
    arguments: Mapping[str, float]
    lower: Callable[[], jax.stages.Lowered]
    advice: Sequence[str]
    beside: Mapping[str, float] = field(default_factory=dict)


def chip_bytes(tree: Any) -> float:
    """Bytes of a tree of placed shapes on one device."""
    return float(
        sum(
            jnp.dtype(leaf.dtype).itemsize * int(jnp.prod(jnp.array(leaf.sharding.shard_shape(leaf.shape) or (1,))))
            for leaf in jax.tree.leaves(tree)
        )
    )


def placed(tree: Any, shardings: Any) -> Any:
    """Shapes with their places: a sharding for all, or a tree of them."""
    if isinstance(shardings, NamedSharding):
        shardings = jax.tree.map(lambda _: shardings, tree)
    return jax.tree.map(lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), tree, shardings)


def abstract_model(role: Role) -> tuple[nnx.GraphDef[Transformer], Any]:
    """Graph and shapes of a model's weights, as `nnx.split` gives them."""
    model = nnx.eval_shape(
        lambda: Transformer(role.config, role.vocab_size, value_head=role.value_head, rngs=nnx.Rngs(0))
    )
    return nnx.split(model)
