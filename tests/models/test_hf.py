"""`config.json` and `ModelConfig`: both forms of the file, its defaults, what is refused, and the way back."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest

from o1coder_jax import hf, hf_export
from o1coder_jax.errors import UserError
from o1coder_jax.model_config import ModelConfig, RopeScaling

SIZES = {
    "vocab_size": 40,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
}
LLAMA3 = {"factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 16}


def read(kind: str = "llama", **changes) -> ModelConfig:
    return hf.config_from({"model_type": kind, **SIZES, **changes})


def test_what_a_file_leaves_out_is_what_transformers_takes_for_it():
    llama = hf.config_from({"model_type": "llama", **SIZES} | {"num_key_value_heads": None})
    assert (llama.kv_heads, llama.head_size, llama.norm_eps) == (4, 4, 1e-6)
    assert (llama.rope_theta, llama.rope_scaling, llama.tied_embeddings) == (10_000.0, None, False)
    assert read("mistral").sliding_window == 4096
    assert read("qwen2").sliding_window is None
    assert read("qwen3").head_size == 128
    assert read("qwen2").qkv_bias and not read("qwen2").output_bias and not read("qwen3").qkv_bias
    assert read("qwen3").qk_norm and not read("qwen2").qk_norm
    assert read(attention_bias=True).qkv_bias and read(attention_bias=True).output_bias


@pytest.mark.parametrize(
    ("old", "scaling"),
    [
        ({"rope_theta": 5e5}, None),
        ({"rope_theta": 5e5, "rope_scaling": {"type": "linear", "factor": 4.0}}, RopeScaling("linear", 4.0)),
        ({"rope_theta": 5e5, "rope_scaling": {"rope_type": "llama3", **LLAMA3}}, RopeScaling("llama3", 8.0, 1, 4, 16)),
    ],
)
def test_both_forms_of_rotary_settings_say_the_same(old, scaling):
    new = {"rope_parameters": {"rope_type": "default", **old.get("rope_scaling", {}), "rope_theta": 5e5}}
    new["rope_parameters"]["rope_type"] = scaling.kind if scaling else "default"
    assert read(**old) == read(**new)
    assert read(**old).rope_theta == 5e5 and read(**old).rope_scaling == scaling


def test_length_of_the_first_training_defaults_to_the_positions():
    rope = {"rope_type": "llama3", **{k: v for k, v in LLAMA3.items() if not k.startswith("original")}}
    scaling = read(rope_scaling=rope, max_position_embeddings=32).rope_scaling
    assert scaling is not None and scaling.original_length == 32


@pytest.mark.parametrize(
    ("changes", "window", "full"),
    [
        ({"use_sliding_window": False, "sliding_window": 8}, None, 0),
        ({"use_sliding_window": True, "sliding_window": 8, "max_window_layers": 3}, 8, 3),
        ({"use_sliding_window": True, "sliding_window": 8, "max_window_layers": 4}, None, 0),
        ({"use_sliding_window": True, "sliding_window": 8, "max_window_layers": 0}, 8, 0),
        (
            {
                "use_sliding_window": True,
                "sliding_window": 8,
                "layer_types": ["full_attention"] + ["sliding_attention"] * 3,
            },
            8,
            1,
        ),
    ],
)
def test_windows_of_layers(changes, window, full):
    config = read("qwen2", **changes)
    assert (config.sliding_window, config.full_layers) == (window, full)


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"model_type": "gemma"}, "model_type 'gemma' is not understood; give one of qwen2, qwen3, llama, mistral"),
        ({"model_type": None}, "model_type None is not understood"),
        ({"architectures": ["LlamaForSequenceClassification"]}, "LlamaForSequenceClassification"),
        ({"num_experts": 8}, r"the field num_experts \(8\) of a llama is not understood"),
        ({"quantization_config": {"bits": 4}}, "the field quantization_config"),
        ({"sliding_window": 8}, "the field sliding_window"),
        ({"hidden_act": "gelu"}, "hidden_act 'gelu' is not understood; only 'silu' is"),
        ({"attention_dropout": 0.1}, "attention_dropout 0.1 is not understood"),
        ({"partial_rotary_factor": 0.5}, "partial_rotary_factor 0.5"),
        ({"rope_scaling": {"rope_type": "yarn", "factor": 4.0}}, "the rope type 'yarn' is not understood"),
        ({"rope_scaling": {"type": "linear"}}, "a linear rope needs a number for factor; it has None"),
        ({"rope_scaling": {"type": "linear", "factor": 2.0, "mscale": 1.0}}, "the field mscale"),
        ({"rope_scaling": {"type": "linear", "factor": 0.5}}, "factor is 0.5; it must be at least 1"),
        ({"hidden_size": "16"}, "hidden_size is '16', which is of the wrong type"),
        ({"tie_word_embeddings": None}, "tie_word_embeddings is None"),
        ({"num_key_value_heads": 3}, "model.heads 4 is not a multiple of model.kv_heads 3"),
        ({"head_dim": 5}, "model.head_size 5 is odd"),
    ],
)
def test_what_is_not_understood_is_refused_by_name(changes, line):
    with pytest.raises(UserError, match=line) as caught:
        read(**changes)
    assert "config.json" in str(caught.value)


def test_a_missing_size_is_refused_by_name():
    with pytest.raises(UserError, match=r"config\.json lacks vocab_size"):
        hf.config_from({"model_type": "llama", **{k: v for k, v in SIZES.items() if k != "vocab_size"}})


def test_alternating_windows_are_refused():
    types = ["sliding_attention", "full_attention"] * 2
    with pytest.raises(UserError, match="layer_types"):
        read("qwen3", use_sliding_window=True, sliding_window=8, layer_types=types)
    with pytest.raises(UserError, match="layer_types"):
        read("qwen3", layer_types=["sliding_attention"] * 4)


@pytest.mark.parametrize("content", ["{", "[]"])
def test_a_damaged_file_is_refused(tmp_path: Path, content: str):
    with pytest.raises(UserError, match="cannot read"):
        hf.model_config(tmp_path)
    (tmp_path / "config.json").write_text(content)
    with pytest.raises(UserError, match="download the checkpoint again"):
        hf.model_config(tmp_path)


PLAIN = ModelConfig(width=16, layers=4, heads=4, kv_heads=2, head_size=8, mlp_width=24)


@pytest.mark.parametrize(
    ("changes", "kind"),
    [
        ({}, "llama"),
        ({"qkv_bias": True, "output_bias": True, "mlp_bias": True, "tied_embeddings": False}, "llama"),
        ({"rope_theta": 5e5, "rope_scaling": RopeScaling("llama3", 8.0, 1.0, 4.0, 8192)}, "llama"),
        ({"rope_scaling": RopeScaling("linear", 4.0)}, "llama"),
        ({"width": 18, "norm_eps": 1e-5}, "mistral"),
        ({"sliding_window": 8}, "mistral"),
        ({"qkv_bias": True}, "qwen2"),
        ({"qkv_bias": True, "sliding_window": 8, "full_layers": 2}, "qwen2"),
        ({"qk_norm": True}, "qwen3"),
        ({"qk_norm": True, "qkv_bias": True, "output_bias": True, "sliding_window": 8, "full_layers": 1}, "qwen3"),
    ],
)
def test_what_is_written_is_read_again(changes, kind):
    config = dataclasses.replace(PLAIN, embedding_rows=40, **changes)
    written = json.loads(json.dumps(hf_export.config_for(config, 40, "bfloat16")))
    assert written["model_type"] == kind and written["torch_dtype"] == "bfloat16"
    assert hf.config_from(written) == config


def test_a_shape_of_no_family_is_not_written():
    with pytest.raises(UserError, match="no family of checkpoints has this model's shape"):
        hf_export.config_for(dataclasses.replace(PLAIN, qk_norm=True, mlp_bias=True), 40, "float32")
