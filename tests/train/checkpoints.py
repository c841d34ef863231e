"""Small random checkpoints in the form in which transformers writes them, made without torch."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
SHAPE = {"hidden_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2, "num_key_value_heads": 1}


def write_tokenizer(folder: Path, texts: list[str], *, size: int = 400, template: str | None = TEMPLATE) -> None:
    """A byte-level BPE fitted on texts, with turns that end in <|im_end|>."""
    pieces = Tokenizer(models.BPE())
    pieces.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    pieces.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    pieces.train_from_iterator(
        texts,
        trainers.BpeTrainer(
            vocab_size=size, special_tokens=list(SPECIAL), initial_alphabet=alphabet, show_progress=False
        ),
    )
    pieces.save(str(folder / "tokenizer.json"))
    settings: dict[str, Any] = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "<|im_end|>"}
    settings |= {"chat_template": template} if template else {}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": [2, 0]}))


def copy_tokenizer(folder: Path, source: Path) -> None:
    for name in ("tokenizer.json", "tokenizer_config.json"):
        if (source / name).exists():
            shutil.copyfile(source / name, folder / name)


def write_checkpoint(folder: Path, family: str = "qwen2", *, padding: int = 0, seed: int = 0, **shape: int) -> Path:
    """`config.json` and `model.safetensors` for the tokenizer that lies there, `padding` rows beyond its ids."""
    ids = Tokenizer.from_file(str(folder / "tokenizer.json")).get_vocab_size()
    sizes = SHAPE | shape
    width, heads, groups = sizes["hidden_size"], sizes["num_attention_heads"], sizes["num_key_value_heads"]
    head, inner, rows = width // heads, 2 * width, ids + padding
    config = {
        "architectures": [{"qwen2": "Qwen2ForCausalLM", "llama": "LlamaForCausalLM"}[family]],
        "model_type": family,
        "hidden_act": "silu",
        "intermediate_size": inner,
        "vocab_size": rows,
        "max_position_embeddings": 4096,
        "rms_norm_eps": 1e-5,
        "rope_theta": 20000.0,
        "tie_word_embeddings": family == "qwen2",
        **sizes,
    }
    (folder / "config.json").write_text(json.dumps(config))
    rng = np.random.default_rng(seed)

    def draw(*size: int) -> np.ndarray:
        return (rng.normal(size=size) * 0.3).astype(np.float32)

    tensors = {"model.embed_tokens.weight": draw(rows, width), "model.norm.weight": np.ones(width, np.float32)}
    if family == "llama":
        tensors["lm_head.weight"] = draw(rows, width)
    for layer in range(sizes["num_hidden_layers"]):
        at = f"model.layers.{layer}."
        for name, out in (("q", heads * head), ("k", groups * head), ("v", groups * head)):
            tensors[f"{at}self_attn.{name}_proj.weight"] = draw(out, width)
            if family == "qwen2":
                tensors[f"{at}self_attn.{name}_proj.bias"] = draw(out)
        tensors[f"{at}self_attn.o_proj.weight"] = draw(width, heads * head)
        tensors[f"{at}mlp.gate_proj.weight"] = draw(inner, width)
        tensors[f"{at}mlp.up_proj.weight"] = draw(inner, width)
        tensors[f"{at}mlp.down_proj.weight"] = draw(width, inner)
        for name in ("input_layernorm", "post_attention_layernorm"):
            tensors[f"{at}{name}.weight"] = np.ones(width, np.float32)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    return folder
