"""From the trainer to the sampler: plain weights in a layout of their own, brought there by one jitted function.

In training weights are split over `fsdp` and `tensor`, and may be a base with an adapter. What samples holds them
merged and cast, split over `tensor` alone: each row of the mesh has all it needs, and the token loop has no collective
over `data` or `fsdp`.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
from flax import nnx
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from o1coder_jax.adapters import Dtype, merged
from o1coder_jax.mesh import parameter_name, parameter_shardings
from o1coder_jax.transformer import Transformer

Graph = nnx.GraphDef[Transformer]
SAMPLER_AXES = ("tensor",)


def sampler_weights(graph: Graph, weights: Any, mesh: Mesh, dtype: Dtype | None = None) -> tuple[Graph, Any]:
    """A plain copy of a model for sampling, on every row of the mesh; its arrays are not those of `weights`.

    Args:
      weights: on `mesh`, as `mesh.shard_parameters` lays them.
      dtype: of activations and matrices; None takes that of the model's activations.
    """
    chosen: Dtype = dtype or nnx.merge(graph, weights).config.dtype
    abstract = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), weights)
    shapes, structure = jax.tree.flatten(abstract)
    plain, sync = _sync(graph, structure, tuple(shapes), mesh, chosen)
    return plain, sync(weights)


@functools.cache
def _sync(
    graph: Graph, structure: Any, shapes: tuple[jax.ShapeDtypeStruct, ...], mesh: Mesh, dtype: Dtype
) -> tuple[Graph, Callable[[Any], Any]]:
    """The sampler's graph, and merge, cast and reshard as one compiled function."""
    graphs: list[Graph] = []

    def merge(weights: Any) -> Any:
        plain, out = merged(graph, weights, dtype)
        graphs.append(plain)
        return out

    result = jax.eval_shape(merge, jax.tree.unflatten(structure, shapes))
    return graphs[0], jax.jit(merge, out_shardings=sampler_shardings(mesh, result))


def sampler_shardings(mesh: Mesh, weights: Any) -> Any:
    """Where the sampler has each parameter of a plain model: a tree of shardings. The tree may hold arrays or shapes.

    An embedding that is not the projection, too, lies whole on every device: split by the vocabulary, each token's
    look-up would be a sum over all devices.
    """
    names = {parameter_name(path) for path, _ in jax.tree_util.tree_leaves_with_path(weights)}
    untied = "projection" in names

    def place(path: tuple[Any, ...], given: NamedSharding) -> NamedSharding:
        return NamedSharding(mesh, P()) if untied and parameter_name(path) == "embedding" else given

    return jax.tree_util.tree_map_with_path(place, parameter_shardings(mesh, weights, axes=SAMPLER_AXES))
