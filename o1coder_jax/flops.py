"""Floating-point operations that a model's mathematics asks for, whatever is computed twice to save memory.

Two for each multiplication with its addition (arXiv 2204.02311, appendix B). With N the scalars of all matrices that a
token is multiplied by, and P the pairs of tokens that see each other,

    forward  = 2 N per token + 4 L H E per pair               (scores, and the sum of values)
    training = 4 N + 2 N_trained per token + 12 L H E per pair

that is 6 N per token where every weight is trained: forward, the gradient of what came in, the gradient of the
weights; frozen weights need no last one. Looking up embeddings, norms and rotations are left out. Unlike the source,
a pair counts only where the mask lets it through.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Int

from o1coder_jax.model_config import ModelConfig


def matrix_parameters(config: ModelConfig, vocab_size: int) -> int:
    """N: scalars of the layers' matrices and of the output projection (the embedding, where these are tied)."""
    c = config
    attention = c.width * c.head_size * (2 * c.heads + 2 * c.kv_heads)
    return c.layers * (attention + 3 * c.width * c.mlp_width) + vocab_size * c.width


def visible_pairs(segments: Int[np.ndarray, "B S"], window: int | None = None) -> int:
    """P of one layer: pairs (query, key) of one segment, key <= query, at most `window` tokens; no padding."""
    total = 0
    for row in segments:
        lengths = np.bincount(row)[1:].astype(np.int64)
        near = lengths if window is None else np.minimum(lengths, window)
        total += int((near * (near + 1) // 2 + (lengths - near) * near).sum())
    return total


def attention_pairs(config: ModelConfig, segments: Int[np.ndarray, "B S"]) -> int:
    """L P: pairs of all layers, each with its own window."""
    windowed = 0 if config.sliding_window is None else max(config.layers - config.full_layers, 0)
    near = visible_pairs(segments, config.sliding_window) if windowed else 0
    return windowed * near + (config.layers - windowed) * visible_pairs(segments)


def forward_flops(config: ModelConfig, vocab_size: int, segments: Int[np.ndarray, "B S"]) -> int:
    """Reading a batch, with logits at every token."""
    tokens = int((segments > 0).sum())
    pairs = attention_pairs(config, segments)
    return 2 * matrix_parameters(config, vocab_size) * tokens + 4 * config.heads * config.head_size * pairs


def training_flops(
    config: ModelConfig, vocab_size: int, segments: Int[np.ndarray, "B S"], *, trained: int | None = None
) -> int:
    """One update on a batch (B, S) of segments, 0 for padding.

    Args:
      trained: N_trained, scalars of matrices in training; all of them when None.
    """
    matrices = matrix_parameters(config, vocab_size)
    tokens = int((segments > 0).sum())
    pairs = attention_pairs(config, segments)
    per_token = 4 * matrices + 2 * (matrices if trained is None else trained)
    return per_token * tokens + 12 * config.heads * config.head_size * pairs
