"""Reads the weights of a Hugging Face checkpoint, tensor by tensor, each straight into its sharding.

A device gets only what it holds, and the host keeps one tensor of one layer at a time, whatever the model's size.
Matrices lie in the files as (outputs, inputs), here as (inputs, outputs) with heads on an axis of their own and the
layers stacked.
"""

from __future__ import annotations

import contextlib
import functools
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
from jaxtyping import Array
from safetensors import SafetensorError, safe_open

from o1coder_jax.errors import UserError
from o1coder_jax.hf import read_json
from o1coder_jax.mesh import parameter_name, parameter_shardings
from o1coder_jax.transformer import ModelConfig, Transformer

WHOLE, INDEX = "model.safetensors", "model.safetensors.index.json"
VALUE_HEAD = "value_head.safetensors"  # beside the model's files; transformers does not look at it
READABLE = ("F32", "F16", "BF16")
_ROWS = 8192  # of a matrix that is compared with another, held at a time

Index = tuple[slice, ...]


@dataclass(frozen=True)
class Stored:
    """How a parameter lies in a checkpoint's files.

    Attributes:
      name: of the tensor; `{}` stands for the layer.
      groups: how many of our axes (the layers' left out) make up each of its axes.
      transposed: whether its axes are in the reverse order.
    """

    name: str
    groups: tuple[int, ...] = (1,)
    transposed: bool = False

    def shape(self, ours: tuple[int, ...]) -> tuple[int, ...]:
        """The tensor's shape."""
        sizes = tuple(math.prod(ours[begin:end]) for begin, end in self._spans())
        return sizes[::-1] if self.transposed else sizes

    def slices(self, ours: tuple[int, ...], index: Index) -> Index:
        """Where in the tensor a part of ours lies; of a group only the first axis may be cut."""
        found = []
        for begin, end in self._spans():
            rest = math.prod(ours[begin + 1 : end])
            cut = slice(*index[begin].indices(ours[begin]))
            whole = (index[axis].indices(ours[axis])[:2] == (0, ours[axis]) for axis in range(begin + 1, end))
            assert all(whole), "only the first axis of a group may be split"
            found.append(slice(cut.start * rest, cut.stop * rest))
        return tuple(found[::-1] if self.transposed else found)

    def _spans(self) -> list[tuple[int, int]]:
        ends = np.cumsum(self.groups).tolist()
        return list(zip([0, *ends], ends, strict=False))


def _linear(ours: str, theirs: str, inputs: int, outputs: int) -> dict[str, Stored]:
    name = f"model.layers.{{}}.{theirs}"
    return {
        f"{ours}.weight": Stored(f"{name}.weight", (inputs, outputs), transposed=True),
        f"{ours}.bias": Stored(f"{name}.bias", (outputs,)),
    }


STORED = {
    "embedding": Stored("model.embed_tokens.weight", (1, 1)),
    "norm": Stored("model.norm.weight"),
    "projection": Stored("lm_head.weight", (1, 1), transposed=True),
    "attention_norm": Stored("model.layers.{}.input_layernorm.weight"),
    "mlp_norm": Stored("model.layers.{}.post_attention_layernorm.weight"),
    "query_norm": Stored("model.layers.{}.self_attn.q_norm.weight"),
    "key_norm": Stored("model.layers.{}.self_attn.k_norm.weight"),
    **_linear("query", "self_attn.q_proj", 1, 2),
    **_linear("key", "self_attn.k_proj", 1, 2),
    **_linear("value", "self_attn.v_proj", 1, 2),
    **_linear("output", "self_attn.o_proj", 2, 1),
    **_linear("gate", "mlp.gate_proj", 1, 1),
    **_linear("up", "mlp.up_proj", 1, 1),
    **_linear("down", "mlp.down_proj", 1, 1),
}
# The names of TRL's `AutoModelForCausalLMWithValueHead`: (1, D) and (1,).
STORED_HEAD = {"value": Stored("v_head.summary.weight", (1,)), "value_bias": Stored("v_head.summary.bias", ())}


def load(
    folder: Path,
    config: ModelConfig,
    mesh: Mesh,
    dtype: Any = jnp.float32,
    *,
    vocab_size: int | None = None,
    value_head: bool = False,
) -> tuple[nnx.GraphDef[Transformer], Any]:
    """A checkpoint's decoder.

    Args:
      folder: holds `model.safetensors`, or the files that `model.safetensors.index.json` names.
      config: its shape, as `hf.model_config` reads it.
      mesh: the weights are split over it as `mesh.RULES` says.
      dtype: of the result, whatever that of the files.
      vocab_size: ids of the tokenizer; None for as many as the embedding has rows.
      value_head: adds a scalar head, that of `value_head.safetensors` where there is one, otherwise zeros.

    Raises:
      UserError: a file is missing or damaged, a tensor is missing, has another shape, or is not understood.
    """
    ids = vocab_size or config.embedding_rows
    if ids is None:
        raise ValueError("a configuration without embedding_rows needs vocab_size")
    model = nnx.eval_shape(lambda: Transformer(config, ids, value_head=value_head, rngs=nnx.Rngs(0)))
    graph, weights = nnx.split(model)
    shapes = nnx.to_pure_dict(weights)
    with contextlib.ExitStack() as stack:
        tensors = Tensors(folder, stack)
        head = {path: shapes.pop(path) for path in STORED_HEAD if path in shapes}
        tensors.check(shapes)
        places = parameter_shardings(mesh, shapes)
        loaded = jax.tree_util.tree_map_with_path(functools.partial(_read, tensors, dtype), shapes, places)
        for name, leaf in head.items():
            found = _head_tensor(folder, name, leaf.shape)
            loaded[name] = jax.device_put(found.astype(dtype), NamedSharding(mesh, P()))
    nnx.replace_by_pure_dict(weights, loaded)
    return graph, weights


class Tensors:
    """The tensors of a checkpoint's files by name.

    Args:
      folder: of the checkpoint.
      stack: keeps the files open.
    """

    def __init__(self, folder: Path, stack: contextlib.ExitStack):
        self.folder = folder
        self._slices: dict[str, Any] = {}
        for name, expected in _files(folder).items():
            try:
                file = stack.enter_context(safe_open(folder / name, "np"))
                found = list(file.keys())
                self._slices |= {key: file.get_slice(key) for key in found}
            except FileNotFoundError as error:
                raise UserError(f"{folder} lacks {name}, which {INDEX} names; download it again") from error
            except (SafetensorError, OSError) as error:
                raise UserError(f"{folder / name} is damaged ({error}); download it again") from error
            if expected is not None and (absent := sorted(set(expected) - set(found))):
                raise UserError(f"{folder / name} lacks {absent[0]}, which {INDEX} puts there; download it again")

    def shape(self, name: str) -> tuple[int, ...]:
        return tuple(self._slices[name].get_shape())

    def read(self, name: str, index: Index) -> np.ndarray:
        """A part of a tensor, as it is stored."""
        try:
            part: np.ndarray = self._slices[name][index]
        except SafetensorError as error:
            raise UserError(f"{self.folder}: {name} cannot be read ({error}); download it again") from error
        return part

    def check(self, shapes: Mapping[str, Any]) -> None:
        """Raises a `UserError` unless the files hold the parameters of these shapes and nothing else."""
        wanted: dict[str, tuple[int, ...]] = {}
        for path, leaf in jax.tree_util.tree_leaves_with_path(shapes):
            for name, ours in stored_tensors(path, leaf.shape):
                wanted[name] = STORED[parameter_name(path)].shape(ours)
        for name, shape in wanted.items():
            if name not in self._slices:
                raise UserError(f"{self.folder} has no tensor {name} {shape}, which its config.json asks for")
            if self.shape(name) != shape:
                raise UserError(f"{self.folder}: {name} has shape {self.shape(name)}, its config.json asks for {shape}")
            if (kind := self._slices[name].get_dtype()) not in READABLE:
                raise UserError(f"{self.folder}: {name} is of type {kind}; only {', '.join(READABLE)} are understood")
        for name in self._slices:
            if name in wanted or name.endswith(".rotary_emb.inv_freq"):  # what older versions computed beforehand
                continue
            if name != "lm_head.weight":
                raise UserError(f"{self.folder}: the tensor {name} {self.shape(name)} is not understood")
            if not self._same(name, "model.embed_tokens.weight"):
                raise UserError(
                    f"{self.folder}: {name} is not the embedding that config.json ties it to; "
                    "set its tie_word_embeddings to false"
                )

    def _same(self, one: str, other: str) -> bool:
        """Whether two matrices are equal; a few rows are held at a time."""
        rows = self.shape(one)[0]
        parts = ((slice(begin, min(begin + _ROWS, rows)),) for begin in range(0, rows, _ROWS))
        return self.shape(one) == self.shape(other) and all(
            np.array_equal(self.read(one, part), self.read(other, part)) for part in parts
        )


def _files(folder: Path) -> dict[str, list[str] | None]:
    """A checkpoint's files, and the tensors that its index puts in each; None without an index."""
    if (folder / INDEX).exists():
        places = read_json(folder / INDEX).get("weight_map")
        if not isinstance(places, dict) or not all(isinstance(name, str) for name in places.values()):
            raise UserError(f"{folder / INDEX} has no weight_map; download it again")
        return {file: [name for name, place in places.items() if place == file] for file in sorted({*places.values()})}
    if not (folder / WHOLE).exists():
        raise UserError(f"{folder} has neither {WHOLE} nor {INDEX}; give the folder of a checkpoint in safetensors")
    return {WHOLE: None}


def stored_tensors(path: tuple[Any, ...], shape: tuple[int, ...]) -> list[tuple[str, tuple[int, ...]]]:
    """Names of the tensors that make up a parameter, one for each layer if it is stacked, and our shape of each."""
    name = STORED[parameter_name(path)].name
    return [(name.format(layer), shape[1:]) for layer in range(shape[0])] if "{}" in name else [(name, shape)]


def _read(tensors: Tensors, dtype: Any, path: tuple[Any, ...], leaf: Any, place: NamedSharding) -> Array:
    """One parameter in its sharding."""
    stored = STORED[parameter_name(path)]
    parts = stored_tensors(path, leaf.shape)
    if parts[0][0] == stored.name:
        array = jax.make_array_from_callback(leaf.shape, place, _reader(tensors, stored, *parts[0]))
        return jax.block_until_ready(_cast(place, jnp.dtype(dtype))(array))
    stacked = jnp.zeros(leaf.shape, dtype, device=place)
    within = NamedSharding(place.mesh, P(*place.spec[1:]))
    for layer, (name, shape) in enumerate(parts):
        piece = jax.make_array_from_callback(shape, within, _reader(tensors, stored, name, shape))
        # Waiting keeps the host from reading ahead, which would fill its memory.
        stacked = jax.block_until_ready(_put(place)(stacked, piece, layer))
    return stacked


def _reader(
    tensors: Tensors, stored: Stored, name: str, shape: tuple[int, ...]
) -> Callable[[Index | None], np.ndarray]:
    """Reads a part of a tensor in our shape; devices that hold the same part share it."""
    found: dict[str, np.ndarray] = {}

    def read(index: Index | None) -> np.ndarray:
        index = index or ()
        key = str(index)
        if key not in found:
            part = tensors.read(name, stored.slices(shape, index))
            sizes = [len(range(*cut.indices(size))) for cut, size in zip(index, shape, strict=True)]
            found[key] = (part.T if stored.transposed else part).reshape(sizes)
        return found[key]

    return read


@functools.cache
def _put(place: NamedSharding) -> Callable[[Array, Array, int], Array]:
    """Puts a layer's piece into a stacked parameter, which is given up."""

    def put(stacked: Array, piece: Array, layer: Array) -> Array:
        return stacked.at[layer].set(piece.astype(stacked.dtype))

    return jax.jit(put, donate_argnums=0, out_shardings=place)


@functools.cache
def _cast(place: NamedSharding, dtype: Any) -> Callable[[Array], Array]:
    return jax.jit(lambda array: array.astype(dtype), out_shardings=place)


def _head_tensor(folder: Path, name: str, shape: tuple[int, ...]) -> np.ndarray:
    """A parameter of the scalar head; zeros where the checkpoint has none."""
    path = folder / VALUE_HEAD
    if not path.exists():
        return np.zeros(shape, np.float32)
    stored = STORED_HEAD[name].name
    with safe_open(path, "np") as file:
        found: Iterable[str] = file.keys()
        if stored not in found or math.prod(file.get_slice(stored).get_shape()) != math.prod(shape):
            raise UserError(f"{path} has no {stored} of {math.prod(shape)} numbers; export the reward model again")
        tensor: np.ndarray = file.get_tensor(stored)
    return tensor.reshape(shape)
