"""A checkpoint's `config.json` and a `ModelConfig`, both ways.

Read are the families qwen2, qwen3, llama and mistral, in the form of transformers 4 (`rope_theta`, `rope_scaling`) and
of transformers 5 (`rope_parameters`); what a file leaves out is what transformers takes for it. Every key is honoured,
is known to have no part in the model's function (`IRRELEVANT`), is null, or is refused by name.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from o1coder_jax.errors import UserError
from o1coder_jax.model_config import ModelConfig, RopeScaling

CONFIG = "config.json"


@dataclass(frozen=True)
class Family:
    """What transformers takes for a key that a file leaves out, and the keys that only some families have.

    Attributes:
      architecture: of the decoder with its language model head.
      defaults: of keys that may be left out.
    """

    architecture: str
    defaults: Mapping[str, Any]


_WINDOWED = {"use_sliding_window": False, "sliding_window": 4096, "max_window_layers": 28, "layer_types": None}
FAMILIES = {
    "qwen2": Family("Qwen2ForCausalLM", {"num_key_value_heads": 32, "head_dim": None, **_WINDOWED}),
    "qwen3": Family(
        "Qwen3ForCausalLM", {"num_key_value_heads": 32, "head_dim": 128, "attention_bias": False, **_WINDOWED}
    ),
    "llama": Family(
        "LlamaForCausalLM", {"num_key_value_heads": None, "head_dim": None, "attention_bias": False, "mlp_bias": False}
    ),
    "mistral": Family("MistralForCausalLM", {"num_key_value_heads": 8, "head_dim": None, "sliding_window": 4096}),
}
SIZES = ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads")
SHARED = {"rms_norm_eps": 1e-6, "tie_word_embeddings": False}
ROPE = ("rope_theta", "rope_scaling", "rope_parameters", "max_position_embeddings")
# Keys with one value that is understood.
ONLY: dict[str, tuple[Any, ...]] = {
    "hidden_act": ("silu", "swish"),
    "attention_dropout": (0,),
    "partial_rotary_factor": (1,),
    "use_mrope": (False,),
    "is_encoder_decoder": (False,),
    "add_cross_attention": (False,),
}
IRRELEVANT = frozenset(
    """
    model_type architectures _name_or_path name_or_path transformers_version torch_dtype dtype use_cache
    initializer_range bos_token_id eos_token_id pad_token_id unk_token_id output_attentions output_hidden_states
    return_dict return_dict_in_generate chunk_size_feed_forward id2label label2id num_labels problem_type
    pretraining_tp _attn_implementation attn_implementation _attn_implementation_autoset torchscript
    tokenizer_class prefix task_specific_params finetuning_task
    """.split()
)
ROPE_TYPES = {  # keys of `rope_scaling` or `rope_parameters`, beside its type and base
    "default": (),
    "linear": ("factor",),
    "llama3": ("factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings"),
}


def model_config(folder: Path) -> ModelConfig:
    """The decoder that a checkpoint's `config.json` describes; `UserError` for one that is not understood."""
    return config_from(read_json(folder / CONFIG), folder / CONFIG)


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from a file of a checkpoint."""
    try:
        read = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}; give the folder of a checkpoint") from error
    except ValueError as error:
        raise UserError(f"{path} is no JSON ({error}); download the checkpoint again") from error
    if not isinstance(read, dict):
        raise UserError(f"{path} holds no JSON object; download the checkpoint again")
    return read


def config_from(values: Mapping[str, Any], where: Path | str = CONFIG) -> ModelConfig:
    """The same from the file's content."""
    family = FAMILIES.get(str(values.get("model_type")))
    if family is None:
        raise UserError(
            f"{where}: model_type {values.get('model_type')!r} is not understood; give one of {', '.join(FAMILIES)}"
        )
    names = values.get("architectures") or [family.architecture]
    if names != [family.architecture]:
        raise UserError(f"{where}: architectures {names} are not understood; give a {family.architecture}")
    read = {**SHARED, **family.defaults, **dict.fromkeys(ROPE), **values}
    for key, value in values.items():
        if key in ONLY and value is not None and value not in ONLY[key]:
            raise UserError(f"{where}: {key} {value!r} is not understood; only {ONLY[key][0]!r} is")
        if value is not None and key not in {*SIZES, *SHARED, *ROPE, *ONLY, *family.defaults, *IRRELEVANT}:
            raise UserError(f"{where}: the field {key} ({value!r}) of a {values['model_type']} is not understood")
    for key in SIZES:
        if key not in values:
            raise UserError(f"{where} lacks {key}; download the checkpoint again")
    _check_types(read, where)
    try:
        return _config(str(values["model_type"]), read, where)
    except UserError as error:
        raise error if str(where) in str(error) else UserError(f"{where}: {error}") from error


def _config(kind: str, read: Mapping[str, Any], where: Path | str) -> ModelConfig:
    heads, layers = read["num_attention_heads"], read["num_hidden_layers"]
    theta, scaling = _rope(read, where)
    window, full = _windows(kind, read, layers, where)
    bias = bool(read.get("attention_bias"))
    return ModelConfig(
        width=read["hidden_size"],
        layers=layers,
        heads=heads,
        kv_heads=read["num_key_value_heads"] or heads,
        head_size=read["head_dim"] or read["hidden_size"] // max(heads, 1),
        mlp_width=read["intermediate_size"],
        rope_theta=theta,
        rope_scaling=scaling,
        norm_eps=float(read["rms_norm_eps"]),
        qkv_bias=kind == "qwen2" or bias,
        output_bias=bias,
        mlp_bias=bool(read.get("mlp_bias")),
        qk_norm=kind == "qwen3",
        tied_embeddings=read["tie_word_embeddings"],
        sliding_window=window,
        full_layers=full,
        embedding_rows=read["vocab_size"],
    )


def _check_types(read: Mapping[str, Any], where: Path | str) -> None:
    kinds: dict[str, type | tuple[type, ...]] = dict.fromkeys((*SIZES, "max_position_embeddings"), int)
    kinds |= {"num_key_value_heads": int, "head_dim": int, "sliding_window": int, "max_window_layers": int}
    kinds |= {"rms_norm_eps": (int, float), "rope_theta": (int, float)}
    kinds |= dict.fromkeys(("tie_word_embeddings", "attention_bias", "mlp_bias", "use_sliding_window"), bool)
    kinds |= {"rope_scaling": dict, "rope_parameters": dict, "layer_types": list}
    needed = (*SIZES, *SHARED, "attention_bias", "mlp_bias", "use_sliding_window")
    for key, kind in kinds.items():
        if key not in read or (read[key] is None and key not in needed):
            continue
        if not isinstance(read[key], kind) or (isinstance(read[key], bool) and kind is not bool):
            raise UserError(f"{where}: {key} is {read[key]!r}, which is of the wrong type; download it again")


def _rope(read: Mapping[str, Any], where: Path | str) -> tuple[float, RopeScaling | None]:
    """Base and stretching of the rotary frequencies."""
    rope = read["rope_scaling"] or read["rope_parameters"] or {}
    kind = rope.get("rope_type", rope.get("type", "default"))
    if kind not in ROPE_TYPES:
        raise UserError(f"{where}: the rope type {kind!r} is not understood; known are {', '.join(ROPE_TYPES)}")
    for key, value in rope.items():
        known = {"rope_type", "type", "rope_theta", *ROPE_TYPES[kind]}
        if key not in known and value is not None and (key, value) != ("partial_rotary_factor", 1):
            raise UserError(f"{where}: the field {key} ({value!r}) of a {kind} rope is not understood")
    theta = next((x for x in (rope.get("rope_theta"), read["rope_theta"]) if x is not None), 10_000.0)
    if kind == "default":
        return float(theta), None
    rope = {"original_max_position_embeddings": read["max_position_embeddings"], **rope}
    for key in ROPE_TYPES[kind]:
        if not isinstance(rope.get(key), int | float):
            raise UserError(f"{where}: a {kind} rope needs a number for {key}; it has {rope.get(key)!r}")
    if kind == "linear":
        return float(theta), RopeScaling("linear", float(rope["factor"]))
    return float(theta), RopeScaling(
        "llama3",
        float(rope["factor"]),
        float(rope["low_freq_factor"]),
        float(rope["high_freq_factor"]),
        int(rope["original_max_position_embeddings"]),
    )


def _windows(kind: str, read: Mapping[str, Any], layers: int, where: Path | str) -> tuple[int | None, int]:
    """The sliding window, and how many layers at the bottom do without."""
    window = read.get("sliding_window")
    if kind in ("qwen2", "qwen3"):
        window = window if read["use_sliding_window"] else None
        types: Sequence[str] | None = read["layer_types"]
        full = layers if window is None else min(read["max_window_layers"], layers)
        if types is not None:
            full = next((i for i, name in enumerate(types) if name != "full_attention"), len(types))
            wanted = ["full_attention"] * full + ["sliding_attention"] * (layers - full)
            if list(types) != wanted or (window is None and full < layers):
                raise UserError(
                    f"{where}: layer_types {types} are not understood; all {layers} layers must be named, "
                    "those with full attention first, then those with a sliding window"
                )
    else:
        full = 0
    return (None, 0) if window is None or full >= layers else (window, full)
