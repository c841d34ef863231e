"""Checkpoints: a tree of arrays and a dictionary of facts in one folder, whole or not at all.

The only module that knows Orbax. On disk there are plain nested dictionaries of arrays, whatever containers the
tree was made of, so that bare Orbax opens them without this package:

    import orbax.checkpoint as ocp

    tree = ocp.StandardCheckpointer().restore("/absolute/path/of/checkpoint")
    print(tree.keys())

Every process of a multi-host program calls `save` and `restore`; each writes and reads its own shards.
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import json
import logging
import math
import os
import zlib
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from etils import epath

from o1coder_jax.errors import UserError
from o1coder_jax.hosts import barrier

Tree = Any
PathLike = str | os.PathLike[str]

_MARKER = "_METADATA"  # Orbax's list of arrays, in every folder of its own
# Sizes and checksums of the files, written last. A checkpoint without it (bare Orbax wrote it) is taken as it is.
_INVENTORY = "inventory.json"
_CHECKSUM_LIMIT_BYTES = 64 * 2**20  # larger files are known by their size alone; reading all twice would take minutes


@dataclasses.dataclass(frozen=True)
class ArrayInfo:
    """One array of a checkpoint. `name` is its path in the tree, joined by `/`."""

    name: str
    shape: tuple[int, ...]
    dtype: str

    @property
    def size_bytes(self) -> int:
        return math.prod(self.shape) * jax.numpy.dtype(self.dtype).itemsize


def save(path: PathLike, tree: Tree, metadata: Mapping[str, Any] | None = None) -> None:
    """Writes a checkpoint and returns when it is complete.

    Args:
      path: the folder to create; a checkpoint that is there already is replaced.
      tree: any pytree of arrays, scalars and typed random keys (kept as their key data).
      metadata: JSON values, given back by `metadata`.

    Raises:
      UserError: the store is full.
    """
    folder = _absolute(path)
    with _quiet(), ocp.StandardCheckpointer() as checkpointer:
        try:
            checkpointer.save(folder, _nest(tree), force=True, custom_metadata=dict(metadata or {}))
            checkpointer.wait_until_finished()
            if jax.process_index() == 0:
                (folder / _INVENTORY).write_text(json.dumps(dict(_inventory(folder))))
            barrier(f"checkpoint {path}")  # nobody reads an inventory that is half written
        except (OSError, ValueError) as error:
            if not _disk_full(error):
                raise
            message = f"cannot write the checkpoint {path}: no space left; free space, then start the command again"
            raise UserError(message) from error


def restore(path: PathLike, like: Tree | None = None) -> Tree:
    """Reads a checkpoint.

    Args:
      path: the folder.
      like: a tree of arrays or `jax.ShapeDtypeStruct`s: the result has its containers, its dtypes (values are
        cast) and its shardings (the first local device where it names none; NumPy where it holds NumPy). Branches
        at the top of the checkpoint that `like` lacks are not read, such as an optimiser's state. None gives
        nested dictionaries of NumPy arrays.

    Raises:
      UserError: there is no such checkpoint, it is damaged, or an array's name or shape is another one.
    """
    if like is None:
        return _restore(path, _unflatten((i.name, np.empty(i.shape, jax.numpy.dtype(i.dtype))) for i in describe(path)))
    leaves, structure = jax.tree_util.tree_flatten(like)
    names = [name for name, _ in _named(like)]
    _check(path, dict(zip(names, leaves, strict=True)))
    nested = _restore(path, _nest(like))
    values = [_like_leaf(_lookup(nested, name), leaf) for name, leaf in zip(names, leaves, strict=True)]
    return jax.tree_util.tree_unflatten(structure, values)


def metadata(path: PathLike) -> dict[str, Any]:
    """The facts that were saved with a checkpoint; reads no array."""
    return dict(_metadata(path).custom_metadata or {})


def describe(path: PathLike) -> list[ArrayInfo]:
    """Names, shapes and dtypes of a checkpoint's arrays; reads none of them."""
    tree = _metadata(path).item_metadata.tree
    return [ArrayInfo(name, tuple(leaf.shape), str(leaf.dtype)) for name, leaf in _named(tree)]


# Trees and names.


def _named(tree: Tree) -> Iterator[tuple[str, Any]]:
    for keys, leaf in jax.tree_util.tree_flatten_with_path(tree)[0]:
        yield jax.tree_util.keystr(keys, simple=True, separator="/"), leaf


def _nest(tree: Tree) -> dict[str, Any]:
    """The same leaves in plain nested dictionaries, in a form that Orbax writes and takes as a template."""
    return _unflatten((name, _storable(leaf)) for name, leaf in _named(tree))


def _unflatten(leaves: Iterable[tuple[str, Any]]) -> dict[str, Any]:
    root: dict[str, Any] = {}
    for name, leaf in leaves:
        *parents, last = name.split("/")
        node = root
        for parent in parents:
            node = node.setdefault(parent, {})
            if not isinstance(node, dict):
                break
        if not last or not isinstance(node, dict) or last in node:
            raise ValueError(f"two arrays, or an array and a branch, are named {name!r}; give the tree other keys")
        node[last] = leaf
    return root


def _lookup(nested: Mapping[str, Any], name: str) -> Any:
    node: Any = nested
    for part in name.split("/"):
        node = node[part]
    return node


def _is_key(leaf: Any) -> bool:
    return hasattr(leaf, "dtype") and jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def _storable(leaf: Any) -> Any:
    if _is_key(leaf):
        return jax.random.key_data(leaf) if isinstance(leaf, jax.Array) else jax.eval_shape(jax.random.key_data, leaf)
    if isinstance(leaf, jax.ShapeDtypeStruct) and leaf.sharding is None:
        device = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
        return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=device)
    return leaf if hasattr(leaf, "dtype") else np.asarray(leaf)


def _like_leaf(value: Any, like: Any) -> Any:
    if _is_key(like):
        return jax.random.wrap_key_data(value, impl=_key_implementation(like))
    return value if hasattr(like, "dtype") else type(like)(value)


def _key_implementation(like: Any) -> Any:
    """The kind of generator of a typed key, abstract ones included (`jax.random.key_impl` takes no abstract key)."""
    kinds: list[Any] = []
    jax.eval_shape(lambda key: kinds.append(jax.random.key_impl(key)), like)
    return kinds[0]


# Reading.


def _absolute(path: PathLike) -> epath.Path:
    """Orbax takes absolute paths only; those of a store (`gs://...`) are."""
    text = os.fspath(path)
    return epath.Path(text if "://" in text else os.path.abspath(text))


def _metadata(path: PathLike) -> Any:
    folder = _absolute(path)
    if not folder.exists():
        raise UserError(f"there is no checkpoint at {path}; give the folder of one, such as RUN/checkpoints/NAME")
    if not (folder / _MARKER).exists():
        raise UserError(f"{path} is no checkpoint; give the folder of one, such as RUN/checkpoints/NAME")
    _check_files(path, folder)
    with ocp.StandardCheckpointer() as checkpointer:
        try:
            found = checkpointer.metadata(folder)
        except (OSError, ValueError, KeyError) as error:
            raise _damaged(path, error) from error
    if found.item_metadata is None:
        raise _damaged(path, "its list of arrays cannot be read")
    return found


def _check_files(path: PathLike, folder: epath.Path) -> None:
    """Finds damage before Orbax does, whose reader answers it with a traceback for each array."""
    if not (folder / _INVENTORY).exists():
        return
    try:
        written = json.loads((folder / _INVENTORY).read_text())
    except ValueError as error:
        raise _damaged(path, error) from error
    present = dict(_inventory(folder))
    for name, facts in written.items():
        if name not in present:
            raise _damaged(path, f"{name} is missing")
        if present[name] != facts:
            raise _damaged(path, f"{name} is not as it was written")


def _inventory(folder: epath.Path, prefix: str = "") -> Iterator[tuple[str, list[int]]]:
    """For each file its size and, up to a limit, its CRC-32."""
    for path in sorted(folder.iterdir()):
        name = prefix + path.name
        if path.is_dir():
            yield from _inventory(path, f"{name}/")
        elif name != _INVENTORY:
            size = path.stat().length
            yield name, [size, zlib.crc32(path.read_bytes()) if size <= _CHECKSUM_LIMIT_BYTES else 0]


def _damaged(path: PathLike, why: object) -> UserError:
    return UserError(f"the checkpoint {path} is damaged ({why}); remove it and redo its stage")


def _restore(path: PathLike, template: dict[str, Any]) -> Any:
    arguments = ocp.checkpoint_utils.construct_restore_args(template)
    with ocp.Checkpointer(ocp.PyTreeCheckpointHandler()) as checkpointer:
        try:
            return checkpointer.restore(
                _absolute(path),
                args=ocp.args.PyTreeRestore(item=template, restore_args=arguments, partial_restore=True),
            )
        except (OSError, ValueError) as error:
            raise _damaged(path, error) from error


def _check(path: PathLike, wanted: Mapping[str, Any]) -> None:
    """Every array that is wanted must be there in its shape, and every array there, in a wanted branch, be wanted."""
    stored = {info.name: info.shape for info in describe(path)}
    for name, leaf in wanted.items():
        shape = tuple(np.shape(_storable(leaf)))
        if name not in stored:
            raise UserError(f"checkpoint {path} has no array {name} {shape}; it belongs to another configuration")
        if stored[name] != shape:
            raise UserError(
                f"checkpoint {path}: array {name} has shape {stored[name]}, the configuration asks for {shape}; "
                "restore it with the configuration that it was saved with"
            )
    branches = {name.split("/")[0] for name in wanted}
    for name, shape in stored.items():
        if name not in wanted and name.split("/")[0] in branches:
            raise UserError(f"checkpoint {path} has an array {name} {shape} more than the configuration asks for")


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Orbax logs the traceback of an error in its writing thread before it raises that error here."""
    logger = logging.getLogger("absl")
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        logger.setLevel(level)


def _disk_full(error: BaseException) -> bool:
    return getattr(error, "errno", None) == errno.ENOSPC or "No space left" in str(error)
