"""The device mesh, and which array goes where on it.

Axes: `data` (rows and trees are split), `fsdp` (rows and parameters are split), `tensor` (parameters are split).
"""

from __future__ import annotations

import functools
import os
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
from jaxtyping import Array

from o1coder_jax.allocation import collect_seldom, keep_freed_memory
from o1coder_jax.errors import UserError

T = TypeVar("T")
AXES = ("data", "fsdp", "tensor")
ROWS = ("data", "fsdp")
COMPILED = ".compiled"  # inside the folder of all runs: what XLA compiled, for the next run of the same shapes


@dataclass(frozen=True)
class MeshConfig:
    """Sizes of the axes.

    Attributes:
      data: -1 takes all devices that the other axes leave.
      fsdp, tensor: parameters are split over them.
      cpu_devices: without an accelerator, virtual devices to split the CPU into, no more than there are cores; two
        cores decode 1.6 times faster as two devices than as one.
    """

    data: int = -1
    fsdp: int = 1
    tensor: int = 1
    cpu_devices: int = 2

    def __post_init__(self) -> None:
        for axis in ("fsdp", "tensor", "cpu_devices"):
            if getattr(self, axis) < 1:
                raise UserError(f"mesh.{axis} is {getattr(self, axis)}; it must be at least 1")
        if self.data == 0 or self.data < -1:
            raise UserError(f"mesh.data is {self.data}; it must be positive, or -1 for all devices that are left")


def prepare_cpu(config: MeshConfig) -> None:
    """Asks for virtual CPU devices, memory that stays and few collections; must run before JAX meets its devices."""
    keep_freed_memory()
    collect_seldom()
    jax.config.update("jax_num_cpu_devices", min(config.cpu_devices, len(os.sched_getaffinity(0))))


def keep_compiled(folder: Path) -> None:
    """Keeps what XLA compiles under a folder, for the next process that needs the same."""
    # That only costs time; a full disk is said once, by what has to be written.
    warnings.filterwarnings("ignore", message="Error (reading|writing) persistent compilation cache")
    jax.config.update("jax_compilation_cache_dir", str((folder / COMPILED).absolute()))


def make_mesh(config: MeshConfig) -> Mesh:
    """Arranges all devices; sizes that do not divide them are refused with a suggestion."""
    return arrange(config, np.array(jax.devices()))


def arrange(config: MeshConfig, devices: np.ndarray) -> Mesh:
    """A mesh of these devices, which need not be there: a plan compiles for those of another machine."""
    rest = config.fsdp * config.tensor
    data = len(devices) // rest if config.data == -1 else config.data
    if data * rest != len(devices):
        raise UserError(
            f"mesh {data} x {config.fsdp} x {config.tensor} (data x fsdp x tensor) does not use the "
            f"{len(devices)} devices; set mesh.data to -1 and fsdp * tensor to a divisor of {len(devices)}"
        )
    return Mesh(devices.reshape(data, config.fsdp, config.tensor), AXES)


def row_shards(mesh: Mesh) -> int:
    """In how many parts rows are split."""
    return mesh.shape["data"] * mesh.shape["fsdp"]


def place(tree: T, sharding: NamedSharding) -> T:
    """Puts arrays where a sharding says; with several processes each gives the same, and keeps its own shards."""
    if sharding.is_fully_addressable:
        return jax.device_put(tree, sharding)

    def put(array: Any) -> jax.Array:
        if isinstance(array, jax.Array) and not array.is_fully_addressable:
            return _moved(sharding)(array)
        host = np.asarray(array)
        return jax.make_array_from_callback(host.shape, sharding, lambda index: host[index])

    return jax.tree.map(put, tree)


@functools.cache
def _moved(sharding: NamedSharding) -> Callable[[jax.Array], jax.Array]:
    return jax.jit(lambda array: array, out_shardings=sharding)


def host_copy(tree: Any) -> Any:
    """Host copies of whole arrays, in every process, wherever their parts lie; all processes must call it."""

    def read(array: Any) -> np.ndarray:
        if isinstance(array, jax.Array) and not array.is_fully_addressable and not array.is_fully_replicated:
            return np.asarray(multihost_utils.process_allgather(array, tiled=True))
        return np.asarray(jax.device_get(array))

    return jax.tree.map(read, tree)


def shard_rows(mesh: Mesh, tree: T) -> T:
    """Puts host arrays, the same in every process, on the mesh, their first axis split over the row axes."""
    return place(tree, NamedSharding(mesh, P(ROWS)))


def own_shards(mesh: Mesh) -> range:
    """The row parts that this process holds; all of them where it is alone."""
    rows = mesh.devices.reshape(row_shards(mesh), -1)
    own = [d for d, devices in enumerate(rows) if all(x.process_index == jax.process_index() for x in devices)]
    held = sum(any(x.process_index == jax.process_index() for x in devices) for devices in rows)
    if not own or held != len(own) or own != list(range(own[0], own[-1] + 1)):
        raise UserError("the mesh splits a row part between processes; keep tensor within a process")
    return range(own[0], own[-1] + 1)


def shard_own_rows(mesh: Mesh, tree: T) -> T:
    """As `shard_rows`, from the rows of this process's parts alone; every process must give as many."""
    if mesh.is_multi_process:
        split = NamedSharding(mesh, P(ROWS))
        return jax.tree.map(lambda x: jax.make_array_from_process_local_data(split, np.asarray(x)), tree)
    return shard_rows(mesh, tree)


def shard_own_caches(mesh: Mesh, tree: T, *, heads: int) -> T:
    """As `shard_own_rows`; keys and values are split over `tensor` by their heads, too, which are the axis `heads`,
    counted from the end.

    That is how the products that make them leave them: a cache that began otherwise would be moved, and whatever reads
    it compiled, a second time.
    """

    def put(x: Any, split: NamedSharding) -> Any:
        if mesh.is_multi_process:
            return jax.make_array_from_process_local_data(split, np.asarray(x))
        return jax.device_put(x, split)

    return jax.tree.map(put, tree, cache_shardings(mesh, tree, heads=heads))


def cache_shardings(mesh: Mesh, tree: Any, *, heads: int) -> Any:
    """Where `shard_own_caches` puts each array of a tree, or of its shapes: a tree of shardings."""

    def place(path: tuple[Any, ...], x: Any) -> NamedSharding:
        names = {key.name for key in path if isinstance(key, jax.tree_util.GetAttrKey)}
        if not names & {"keys", "values"}:
            return NamedSharding(mesh, P(ROWS))
        split: list[Any] = [ROWS, *[None] * (x.ndim - 1)]
        split[heads] = "tensor" if x.shape[heads] % mesh.shape["tensor"] == 0 else None
        return NamedSharding(mesh, P(*split))

    return jax.tree_util.tree_map_with_path(place, tree)


def own_slice(mesh: Mesh, rows: int) -> slice:
    """Which of a batch's rows this process holds; `UserError` when they cannot be shared out evenly."""
    parts, own = row_shards(mesh), own_shards(mesh)
    if rows % parts:
        raise UserError(f"a batch of {rows} rows cannot be split over {parts} devices; give a multiple of {parts} rows")
    return slice(own.start * rows // parts, own.stop * rows // parts)


def own_rows(mesh: Mesh, tree: Any) -> Any:
    """Host copies of arrays that are split over the row axes: the rows of this process's parts."""
    if not mesh.is_multi_process:
        return jax.device_get(tree)

    def read(array: jax.Array) -> np.ndarray:
        first = {shard.index[0].start or 0: shard.data for shard in array.addressable_shards}
        rows = np.concatenate([np.asarray(first[start]) for start in sorted(first)])
        assert len(rows) * row_shards(mesh) == len(array) * len(own_shards(mesh))
        return rows

    return jax.tree.map(read, tree)


def agree(mesh: Mesh, *wants: int) -> tuple[int, ...]:
    """The largest of each number (a flag is 0 or 1) in any process: what steers jitted calls must not differ in any.

    One gather, whatever is asked; each process must ask as many.
    """
    if not mesh.is_multi_process:
        return wants
    gathered = multihost_utils.process_allgather(np.array(wants, np.int32))
    return tuple(gathered.reshape(-1, len(wants)).max(axis=0).tolist())


def replicate(mesh: Mesh, tree: T) -> T:
    """Puts a copy of every array on every device."""
    return place(tree, NamedSharding(mesh, P()))


RULES: dict[str, P] = {
    # By a parameter's name. Stacked layers keep their first axis whole; width goes to `fsdp`, heads, the MLP's inner
    # axis and the vocabulary to `tensor`.
    "query.weight": P(None, "fsdp", "tensor", None),
    "key.weight": P(None, "fsdp", "tensor", None),
    "value.weight": P(None, "fsdp", "tensor", None),
    "output.weight": P(None, "tensor", None, "fsdp"),
    "gate.weight": P(None, "fsdp", "tensor"),
    "up.weight": P(None, "fsdp", "tensor"),
    "down.weight": P(None, "tensor", "fsdp"),
    "query.bias": P(None, "tensor", None),
    "key.bias": P(None, "tensor", None),
    "value.bias": P(None, "tensor", None),
    "gate.bias": P(None, "tensor"),
    "up.bias": P(None, "tensor"),
    "query.lora_a": P(None, "fsdp", None),
    "key.lora_a": P(None, "fsdp", None),
    "value.lora_a": P(None, "fsdp", None),
    "output.lora_a": P(None, "tensor", None, None),
    "gate.lora_a": P(None, "fsdp", None),
    "up.lora_a": P(None, "fsdp", None),
    "down.lora_a": P(None, "tensor", None),
    "query.lora_b": P(None, None, "tensor", None),
    "key.lora_b": P(None, None, "tensor", None),
    "value.lora_b": P(None, None, "tensor", None),
    "output.lora_b": P(None, None, "fsdp"),
    "gate.lora_b": P(None, None, "tensor"),
    "up.lora_b": P(None, None, "tensor"),
    "down.lora_b": P(None, None, "fsdp"),
    "embedding": P("tensor", "fsdp"),
    "projection": P("fsdp", "tensor"),
}
# A packed weight has its blocks on the last axis, and its codes one axis more, within a block: both lie as it would.
_WEIGHTS = {name: rule for name, rule in RULES.items() if name.endswith(".weight")}
RULES |= {name.replace("weight", "scales"): rule for name, rule in _WEIGHTS.items()}
RULES |= {name.replace("weight", "codes"): P(*rule, None) for name, rule in _WEIGHTS.items()}
PARTS_OF_LINEAR = ("weight", "codes", "scales", "bias", "lora_a", "lora_b")


def parameter_name(path: tuple[Any, ...]) -> str:
    """A parameter's name from its path in a tree (or in one that mirrors it), as `query.weight` or `embedding`."""
    names = [str(key.key) for key in path if hasattr(key, "key")]
    return ".".join(names[-2:] if names[-1:] and names[-1] in PARTS_OF_LINEAR else names[-1:])


def parameter_spec(name: str, shape: tuple[int, ...], sizes: Mapping[str, int], *, axes: Sequence[str] = AXES) -> P:
    """How a parameter is split, by `RULES`; over `axes` alone. What an axis does not divide is not split over it."""
    rule = RULES.get(name, P())
    if len(rule) != len(shape):
        return P()

    def split(axis: Any, size: int) -> Any:
        return axis if axis in axes and size % sizes[axis] == 0 else None

    return P(*(split(axis, size) for axis, size in zip(rule, shape, strict=True)))


def parameter_shardings(mesh: Mesh, weights: Any, *, axes: Sequence[str] = AXES) -> Any:
    """Where each parameter of a tree goes: a tree of shardings. The tree may hold arrays or their shapes."""

    def place(path: tuple[Any, ...], leaf: Any) -> NamedSharding:
        return NamedSharding(mesh, parameter_spec(parameter_name(path), leaf.shape, mesh.shape, axes=axes))

    return jax.tree_util.tree_map_with_path(place, weights)


def shard_parameters(mesh: Mesh, weights: T) -> T:
    """Puts a tree of parameters (and whatever mirrors it, such as moments) on the mesh by `parameter_spec`."""
    shardings = parameter_shardings(mesh, weights)
    return jax.tree.map(place, weights, shardings) if mesh.is_multi_process else jax.device_put(weights, shardings)


def constrain(x: Array, *axes: Any) -> Array:
    """How an array in a jitted function is split over the mesh that `jax.set_mesh` names; without one, nothing."""
    return x if jax.sharding.get_abstract_mesh().empty else jax.lax.with_sharding_constraint(x, P(*axes))


def dividing(axis: str, size: int) -> str | None:
    """The axis, where the mesh that `jax.set_mesh` names can split so many places over it evenly; else None."""
    sizes = jax.sharding.get_abstract_mesh().shape
    return axis if axis in sizes and size % sizes[axis] == 0 else None
