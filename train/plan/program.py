"""A jitted program as shapes on a mesh: nothing is allocated, so any machine can compile it for any other."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax.sharding import Mesh, NamedSharding

from o1coder_jax.adapters import AdapterConfig, Dtype, attach, merged
from o1coder_jax.mesh import parameter_shardings
from o1coder_jax.model_config import ModelConfig
from o1coder_jax.sampler import sampler_shardings
from o1coder_jax.transformer import Transformer
from train.plan.executed import Work

# Kinds of memory.
PARAMETERS, OPTIMISER, PAGES, ROWS, INPUTS = "parameters", "optimiser", "KV pages", "KV rows", "inputs"
SCRATCH, OTHERS = "activations", "other models"
KINDS = (PARAMETERS, OPTIMISER, PAGES, ROWS, INPUTS, SCRATCH, OTHERS)


@dataclass(frozen=True)
class Role:
    """A model by its shape.

    Attributes:
      adapter: what of it is trained, where that is not all.
      sampling: dtype of whatever samples, see `GenerationConfig.dtype`.
    """

    config: ModelConfig
    vocab_size: int
    value_head: bool = False
    adapter: AdapterConfig | None = None
    sampling: Dtype | None = None


@dataclass(frozen=True)
class Program:
    """One jitted function of a stage.

    Attributes:
      name: the stage, and what of it.
      parameters: of its model.
      work: by formula.
      held: bytes on each chip, by kind, of what it is called with.
      lower: traces it.
      smaller: settings that would make it need less memory.
      others: bytes on each chip of other models (and their pages) that lie there meanwhile.
      scratch: bytes on each chip of activations and gradients by formula, for where no compiler says; `traffic`: bytes
        that each chip moves, likewise.
    """

    name: str
    parameters: int
    work: Work
    held: Mapping[str, float]
    lower: Callable[[], jax.stages.Lowered]
    smaller: Sequence[str]
    others: float = 0.0
    scratch: float | None = None
    traffic: float | None = None


def chip_bytes(tree: Any) -> float:
    """Bytes on one device of a tree of placed shapes."""
    leaves = jax.tree.leaves(tree)
    return float(sum(math.prod(x.sharding.shard_shape(x.shape)) * jnp.dtype(x.dtype).itemsize for x in leaves))


def placed(tree: Any, places: Any) -> Any:
    """The shapes of a tree's arrays with their places: one sharding for all, or a tree of them."""
    if isinstance(places, NamedSharding):
        places = jax.tree.map(lambda _: places, tree)
    return jax.tree.map(lambda x, place: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=place), tree, places)


def training_weights(role: Role, mesh: Mesh) -> tuple[nnx.GraphDef[Transformer], Any]:
    """A model's graph and the shapes of its weights, where training has them."""
    model = nnx.eval_shape(
        lambda: Transformer(role.config, role.vocab_size, value_head=role.value_head, rngs=nnx.Rngs(0))
    )
    graph, weights = nnx.split(model)
    if (adapter := role.adapter) is not None:
        graph, weights = _shapes(lambda given: attach(graph, given, adapter, jax.random.key(0)), weights)
    return graph, placed(weights, parameter_shardings(mesh, weights))


def sampling_weights(role: Role, mesh: Mesh) -> tuple[nnx.GraphDef[Transformer], Any]:
    """The same where the search has them, see `o1coder_jax/sampler.py`."""
    graph, weights = training_weights(role, mesh)
    graph, weights = _shapes(lambda given: merged(graph, given, role.sampling or role.config.dtype), weights)
    return graph, placed(weights, sampler_shardings(mesh, weights))


def _shapes(make: Callable[[Any], tuple[nnx.GraphDef[Transformer], Any]], weights: Any) -> Any:
    """The graph that a function of weights makes, and the shapes of its weights."""
    graphs = []

    def traced(given: Any) -> Any:
        graph, made = make(given)
        graphs.append(graph)
        return made

    made = jax.eval_shape(traced, weights)
    return graphs[0], made
