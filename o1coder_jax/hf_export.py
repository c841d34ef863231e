"""Writes a decoder as a folder that transformers and vLLM load, or an adapter as one that peft loads."""

from __future__ import annotations

import dataclasses
import json
import math
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from safetensors.numpy import save_file

from o1coder_jax.errors import UserError
from o1coder_jax.hf import CONFIG, FAMILIES, config_from, read_json
from o1coder_jax.mesh import parameter_name
from o1coder_jax.model_config import ModelConfig
from o1coder_jax.weights import INDEX, STORED, STORED_HEAD, VALUE_HEAD, WHOLE, stored_tensors

GENERATION = "generation_config.json"
TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer.model",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "chat_template.jinja",
    "chat_template.json",
)
FILE_BYTES = 4 * 2**30  # of one file of weights, and about what the host holds while it is written
POSITIONS = 32_768  # `max_position_embeddings` where nothing says how far the model can read
_HOW = ("dtype", "attention", "rematerialize")  # fields that say how a model is computed, and not what it is
_METADATA = {"format": "pt"}  # transformers refuses files that do not say so

Dtype = Any


def write_weights(folder: Path, weights: Any, dtype: Dtype, *, file_bytes: int = FILE_BYTES) -> None:
    """Writes a model's weights, its scalar head to a file of its own; the host holds one file's tensors at a time.

    Args:
      folder: exists.
      weights: of an `nnx.split` Transformer without adapters, wherever they lie.
      dtype: of the files.
      file_bytes: a file holds at most so many, or one tensor.
    """
    tree: Mapping[str, Any] = nnx.to_pure_dict(weights)
    _write_head(folder, tree)
    tree = {name: part for name, part in tree.items() if name not in STORED_HEAD}
    parts = _parts(tree, jnp.dtype(dtype).itemsize, file_bytes)
    places: dict[str, str] = {}
    for number, part in enumerate(parts, 1):
        file = WHOLE if len(parts) == 1 else f"model-{number:05d}-of-{len(parts):05d}.safetensors"
        save_file({name: _tensor(*where, dtype) for name, where in part.items()}, folder / file, _METADATA)
        places |= dict.fromkeys(part, file)
    if len(parts) > 1:
        total = jnp.dtype(dtype).itemsize * sum(leaf.size for leaf in jax.tree.leaves(tree))
        _write_json(folder / INDEX, {"metadata": {"total_size": total}, "weight_map": dict(sorted(places.items()))})


def write_adapter(folder: Path, tree: Mapping[str, Any], *, rank: int, alpha: float, dropout: float, base: str) -> None:
    """Writes an adapter as peft does: `adapter_config.json` and `adapter_model.safetensors`; a scalar head beside them.

    Args:
      folder: exists.
      tree: what an adapter trained: `blocks` with `lora_a` (L, *in, r) and `lora_b` (L, r, *out) of some products.
      rank, alpha, dropout: of the adapter; the product of its factors is scaled by alpha / rank.
      base: name or folder of the model that it belongs to, for `adapter_config.json`.
    """
    _write_head(folder, tree)
    tensors: dict[str, np.ndarray] = {}
    products = set()
    for ours, parts in tree["blocks"].items():
        product = STORED[f"{ours}.weight"].name.removesuffix(".weight")
        products.add(product.rpartition(".")[2])
        for layer, (a, b) in enumerate(zip(np.asarray(parts["lora_a"]), np.asarray(parts["lora_b"]), strict=True)):
            name = f"base_model.model.{product.format(layer)}"
            tensors[f"{name}.lora_A.weight"] = np.ascontiguousarray(a.reshape(-1, rank).T)
            tensors[f"{name}.lora_B.weight"] = np.ascontiguousarray(b.reshape(rank, -1).T)
    save_file(tensors, folder / "adapter_model.safetensors", _METADATA)
    settings = {"r": rank, "lora_alpha": alpha, "lora_dropout": dropout, "target_modules": sorted(products)}
    fixed = {"peft_type": "LORA", "task_type": "CAUSAL_LM", "bias": "none", "inference_mode": True}
    _write_json(folder / "adapter_config.json", {**fixed, **settings, "base_model_name_or_path": base})


def _write_head(folder: Path, tree: Mapping[str, Any]) -> None:
    """Writes the scalar head, if the model has one, to a file of its own."""
    shapes = {"value": (1, -1), "value_bias": (1,)}
    head = {STORED_HEAD[name].name: np.asarray(tree[name]).reshape(shapes[name]) for name in shapes if name in tree}
    if head:
        save_file(head, folder / VALUE_HEAD, _METADATA)


Where = tuple[str, jax.Array, int | None]  # a parameter's name, its array, and the layer if it is stacked


def _parts(tree: Mapping[str, Any], item_bytes: int, file_bytes: int) -> list[dict[str, Where]]:
    """Which tensor goes to which file: name of the tensor -> where it comes from."""
    parts: list[dict[str, Where]] = [{}]
    size = 0
    for name, where, count in _tensors(tree):
        if parts[-1] and size + count * item_bytes > file_bytes:
            parts.append({})
            size = 0
        parts[-1][name] = where
        size += count * item_bytes
    return parts


def _tensors(tree: Mapping[str, Any]) -> Iterator[tuple[str, Where, int]]:
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        ours = parameter_name(path)
        names = stored_tensors(path, leaf.shape)
        for layer, (name, shape) in enumerate(names):
            yield name, (ours, leaf, layer if shape != leaf.shape else None), math.prod(shape)


def _tensor(ours: str, array: jax.Array, layer: int | None, dtype: Dtype) -> np.ndarray:
    """A tensor as the files hold it: (outputs, inputs)."""
    stored = STORED[ours]
    own = np.asarray((array if layer is None else array[layer]).astype(dtype))
    if not stored.transposed:
        return np.ascontiguousarray(own.reshape(stored.shape(own.shape)))
    return np.ascontiguousarray(own.reshape(stored.shape(own.shape)[::-1]).T)


def write_config(
    folder: Path, config: ModelConfig, rows: int, dtype: str, *, like: Path | None = None, end_ids: tuple[int, ...] = ()
) -> None:
    """Writes `config.json` and `generation_config.json`.

    Args:
      rows: of the embedding.
      like: folder of the checkpoint that the model came from, whose files are taken over; they must fit.
      end_ids: of the tokens that end a text, where there is no such folder.
    """
    if like is None:
        ends: Any = end_ids[0] if len(end_ids) == 1 else list(end_ids) or None
        _write_json(folder / CONFIG, {**config_for(config, rows, dtype), "eos_token_id": ends})
        _write_json(folder / GENERATION, {"eos_token_id": ends})
        return
    values = read_json(like / CONFIG)
    theirs = dataclasses.replace(config_from(values, like / CONFIG), **{name: getattr(config, name) for name in _HOW})
    if theirs != dataclasses.replace(config, embedding_rows=rows):
        raise UserError(f"the model in {like} has another shape than this one; give the checkpoint that it came from")
    _write_json(folder / CONFIG, {**values, "torch_dtype" if "torch_dtype" in values else "dtype": dtype})
    if (like / GENERATION).exists():
        shutil.copyfile(like / GENERATION, folder / GENERATION)


def config_for(config: ModelConfig, rows: int, dtype: str) -> dict[str, Any]:
    """The `config.json` of a model, in the first family that can say all of it; `UserError` if there is none."""
    scaling, windowed = config.rope_scaling, config.sliding_window is not None
    shared: dict[str, Any] = {
        "vocab_size": rows,
        "hidden_size": config.width,
        "intermediate_size": config.mlp_width,
        "num_hidden_layers": config.layers,
        "num_attention_heads": config.heads,
        "num_key_value_heads": config.kv_heads,
        "head_dim": config.head_size,
        "hidden_act": "silu",
        "rms_norm_eps": config.norm_eps,
        "tie_word_embeddings": config.tied_embeddings,
        "rope_theta": config.rope_theta,
        "rope_scaling": None,
        "max_position_embeddings": POSITIONS,
        "torch_dtype": dtype,
    }
    if scaling is not None:
        shared["rope_scaling"] = {"rope_type": scaling.kind, "factor": scaling.factor}
    if scaling is not None and scaling.kind == "llama3":
        shared["rope_scaling"] |= {
            "low_freq_factor": scaling.low_frequency,
            "high_freq_factor": scaling.high_frequency,
            "original_max_position_embeddings": scaling.original_length,
        }
        shared["max_position_embeddings"] = max(POSITIONS, int(scaling.original_length * scaling.factor))
    own: dict[str, dict[str, Any]] = {
        "llama": {"attention_bias": config.output_bias, "mlp_bias": config.mlp_bias},
        "mistral": {"sliding_window": config.sliding_window},
        "qwen2": {
            "use_sliding_window": windowed,
            "sliding_window": config.sliding_window,
            "max_window_layers": config.full_layers if windowed else config.layers,
        },
    }
    own["qwen3"] = {**own["qwen2"], "attention_bias": config.output_bias}
    plain = dataclasses.replace(config, embedding_rows=rows, **{name: getattr(ModelConfig(), name) for name in _HOW})
    for kind, values in own.items():
        if kind == "llama" and config.width % config.heads:
            continue  # transformers refuses it
        found = {"architectures": [FAMILIES[kind].architecture], "model_type": kind, **shared, **values}
        if config_from(found) == plain:
            return found
    raise UserError(
        "no family of checkpoints has this model's shape (its biases, norms of queries and keys, and sliding window "
        f"together); known are {', '.join(FAMILIES)}"
    )


def copy_tokenizer(source: Path, folder: Path) -> list[str]:
    """Copies what a folder holds of a tokenizer; returns the names of the files."""
    names = [name for name in TOKENIZER_FILES if (source / name).exists()]
    for name in names:
        shutil.copyfile(source / name, folder / name)
    return names


def _write_json(path: Path, values: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(values, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
