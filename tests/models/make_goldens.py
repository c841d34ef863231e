"""Random small checkpoints and what transformers computes with them, for tests that have no torch.

    PYTHON tests/models/make_goldens.py tests/models/goldens

PYTHON is an interpreter with torch and transformers. Each case is a folder: `config.json` and safetensors as
transformers writes them (float16, which is exact: the weights are rounded to it first; one case bfloat16, one in
several files), and `expected.npz`: token ids (left- and right-padded rows), their mask, and in float32 the logits,
the mean loss of the next token and its gradient by some parameters.
"""

from __future__ import annotations

import contextlib
import io
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers

SHAPE: dict[str, Any] = {
    "vocab_size": 40,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
    "tie_word_embeddings": False,
}
LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 500.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 16,
}
LINEAR = {"rope_type": "linear", "rope_theta": 100_000.0, "factor": 4.0}
WINDOW = {"use_sliding_window": True, "sliding_window": 4}
CASES: dict[str, dict[str, Any]] = {
    "qwen2": {},
    "qwen2-tied": {"tie_word_embeddings": True},
    "qwen2-window": {**WINDOW, "max_window_layers": 1},
    "qwen2-theta": {"rope_parameters": {"rope_type": "default", "rope_theta": 50.0}},
    "qwen3": {"head_dim": 12},
    "qwen3-bias": {"head_dim": 4, "attention_bias": True, "tie_word_embeddings": True},
    "qwen3-window": {"head_dim": 4, **WINDOW, "layer_types": ["full_attention", "sliding_attention"]},
    "qwen3-linear": {"head_dim": 4, "rope_parameters": LINEAR},
    "llama": {},
    "llama-tied": {"tie_word_embeddings": True},
    "llama-llama3": {"rope_parameters": LLAMA3},
    "llama-linear": {"rope_parameters": LINEAR},
    "llama-bias": {"attention_bias": True},
    "llama-mlp": {"mlp_bias": True},
    "llama-head": {"head_dim": 6, "rms_norm_eps": 0.1},
    "llama-mha": {"num_key_value_heads": 4},
    "llama-mqa": {"num_key_value_heads": 1},
    "mistral": {"sliding_window": 3},
    "mistral-full": {"sliding_window": None, "head_dim": 8},
}
WITH_GRADIENTS = ("qwen2-window", "qwen3-bias", "llama-llama3", "llama-mlp", "mistral")
GRADIENTS = (
    "model.embed_tokens.weight",
    "model.layers.0.self_attn.q_proj.weight",
    "model.layers.0.self_attn.k_proj.bias",
    "model.layers.0.self_attn.q_norm.weight",
    "model.layers.0.self_attn.o_proj.weight",
    "model.layers.1.input_layernorm.weight",
    "model.layers.1.mlp.down_proj.weight",
    "model.layers.1.mlp.down_proj.bias",
    "lm_head.weight",
)
SAVED = {"llama-mha": {"dtype": torch.bfloat16}, "qwen2": {"max_shard_size": "4KB"}}


def make(kind: str, changes: dict[str, Any], folder: Path, seed: int, gradients: bool) -> None:
    """Writes one case."""
    torch.manual_seed(seed)
    config = transformers.AutoConfig.for_model(kind, **{**SHAPE, **changes})
    config._attn_implementation = "eager"
    model = transformers.AutoModelForCausalLM.from_config(config).float()
    saved = dict(SAVED.get(folder.name, {}))
    dtype = saved.pop("dtype", torch.float16)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            norm = 1.0 if "norm" in name else 0.0
            parameter.copy_((norm + 0.3 * torch.randn(parameter.shape)).to(dtype).float())
    tokens = torch.randint(0, SHAPE["vocab_size"], (3, 12))
    mask = torch.ones_like(tokens)
    mask[0, :4] = 0  # on the left
    mask[1, 9:] = 0  # on the right
    positions = (mask.cumsum(-1) - 1).clamp(min=0)
    logits = model(input_ids=tokens, attention_mask=mask, position_ids=positions).logits
    counted = (mask[:, 1:] * mask[:, :-1]).bool()
    loss = torch.nn.functional.cross_entropy(logits[:, :-1][counted], tokens[:, 1:][counted])
    loss.backward()
    found = {name: parameter.grad for name, parameter in model.named_parameters() if name in GRADIENTS}
    arrays = {"tokens": tokens, "mask": mask, "logits": logits, "loss": loss}
    if gradients:
        arrays |= {f"gradient:{name}": gradient for name, gradient in found.items() if gradient is not None}
    folder.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(folder / "expected.npz", **{name: array.detach().numpy() for name, array in arrays.items()})
    with contextlib.redirect_stderr(io.StringIO()):  # its progress bar
        model.to(dtype).save_pretrained(folder, **saved)
    (folder / "generation_config.json").unlink(missing_ok=True)


def main(folder: Path) -> None:
    """Writes all cases."""
    torch.set_num_threads(1)
    for seed, (name, changes) in enumerate(CASES.items()):
        make(name.split("-")[0], changes, folder / name, seed, name in WITH_GRADIENTS)
    print(f"{len(CASES)} cases, torch {torch.__version__}, transformers {transformers.__version__}")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
