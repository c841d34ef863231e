"""The decoder's shape, as a run's settings or a checkpoint's `config.json` give it."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import Literal

import numpy as np

from o1coder_jax.errors import UserError

UNROLLED_LAYERS = 4  # up to so many layers are unrolled: no slicing of stacked weights and caches at run time


@dataclass(frozen=True)
class RopeScaling:
    """How rotary frequencies are stretched for longer contexts.

    Attributes:
      kind: `linear` divides all frequencies by `factor`; `llama3` only those of wavelengths longer than
        `original_length / low_frequency`, blending up to `original_length / high_frequency` (Llama 3.1's rule).
      original_length: tokens of the context that the model was first trained with (`llama3` alone).
    """

    kind: Literal["linear", "llama3"] = "linear"
    factor: float = 1.0
    low_frequency: float = 1.0
    high_frequency: float = 4.0
    original_length: int = 8192

    def __post_init__(self) -> None:
        if self.factor < 1:
            raise UserError(f"model.rope_scaling.factor is {self.factor}; it must be at least 1")
        if self.kind == "llama3" and not 0 < self.low_frequency < self.high_frequency:
            raise UserError(
                f"model.rope_scaling: low_frequency {self.low_frequency} must be positive and below "
                f"high_frequency {self.high_frequency}"
            )
        if self.original_length < 1:
            raise UserError(f"model.rope_scaling.original_length is {self.original_length}; it must be at least 1")


@dataclass(frozen=True)
class ModelConfig:
    """The decoder's shape.

    Attributes:
      width, layers, heads, kv_heads, head_size, mlp_width: sizes; heads is a multiple of kv_heads.
      rope_theta, rope_scaling: base of the rotary frequencies, and how they are stretched.
      norm_eps: epsilon of every RMSNorm.
      qkv_bias: biases on the query, key and value projections (Qwen2); output_bias, mlp_bias: on the others.
      qk_norm: RMSNorm on each head's queries and keys (Qwen3).
      tied_embeddings: the output projection is the embedding.
      sliding_window: a token sees so many tokens, itself included, in the layers from `full_layers` on; null: all.
      embedding_rows: rows of the embedding where a checkpoint pads it beyond its tokenizer's ids, which then are never
        predicted; null: one for each id.
      dtype: of activations; weights in training are float32.
      attention: the kernel of whole sequences: `xla`, `cudnn` (NVIDIA GPUs), `splash` (TPUs); `auto` takes the one of
        the device that is there.
      rematerialize: what the backward pass computes again instead of keeping it: `none`; `dots`, all but matrix
        products without a batch axis; `layers`, everything within a layer.
    """

    width: int = 96
    layers: int = 3
    heads: int = 3
    kv_heads: int = 1
    head_size: int = 32
    mlp_width: int = 256
    rope_theta: float = 10_000.0
    rope_scaling: RopeScaling | None = None
    norm_eps: float = 1e-6
    qkv_bias: bool = False
    output_bias: bool = False
    mlp_bias: bool = False
    qk_norm: bool = False
    tied_embeddings: bool = True
    sliding_window: int | None = None
    full_layers: int = 0
    embedding_rows: int | None = None
    dtype: Literal["float32", "bfloat16"] = "float32"
    attention: Literal["auto", "xla", "cudnn", "splash"] = "auto"
    rematerialize: Literal["none", "dots", "layers"] = "none"

    def __post_init__(self) -> None:
        for field in ("width", "layers", "heads", "kv_heads", "head_size", "mlp_width"):
            if getattr(self, field) < 1:
                raise UserError(f"model.{field} is {getattr(self, field)}; it must be at least 1")
        if self.heads % self.kv_heads:
            raise UserError(f"model.heads {self.heads} is not a multiple of model.kv_heads {self.kv_heads}")
        if self.head_size % 2:
            raise UserError(f"model.head_size {self.head_size} is odd; rotary positions need an even size")
        if self.sliding_window is not None and self.sliding_window < 1:
            raise UserError(f"model.sliding_window is {self.sliding_window}; it must be at least 1, or null")
        if self.embedding_rows is not None and self.embedding_rows < 1:
            raise UserError(f"model.embedding_rows is {self.embedding_rows}; it must be at least 1, or null")
        if self.full_layers < 0:
            raise UserError(f"model.full_layers is {self.full_layers}; it must not be negative")

    @classmethod
    def from_dict(cls, values: dict[str, object]) -> ModelConfig:
        """Reads what `config.to_dict` wrote; a field that this version does not know is a `UserError`."""
        scaling = values.get("rope_scaling")
        known = {field.name for field in dataclasses.fields(cls)}
        if unknown := sorted(values.keys() - known):
            raise UserError(f"the model has settings that this version does not know: {', '.join(unknown)}")
        return cls(**(values | {"rope_scaling": RopeScaling(**scaling) if isinstance(scaling, dict) else scaling}))  # type: ignore[arg-type]

    @property
    def scanned(self) -> bool:
        """Whether the layers are scanned; a cache is then one array with the layers as its first axis."""
        return self.layers > UNROLLED_LAYERS

    def frequencies(self) -> np.ndarray:
        """Rotary frequencies, (E / 2,) in radians per position (arXiv 2104.09864), stretched as `rope_scaling` says."""
        half = self.head_size // 2
        plain = 1.0 / self.rope_theta ** (np.arange(half, dtype=np.float64) / half)
        scaling = self.rope_scaling
        if scaling is None:
            return plain.astype(np.float32)
        if scaling.kind == "linear":
            return (plain / scaling.factor).astype(np.float32)
        turns = scaling.original_length * plain / (2 * math.pi)
        blend = np.clip((turns - scaling.low_frequency) / (scaling.high_frequency - scaling.low_frequency), 0, 1)
        return ((1 - blend) * plain / scaling.factor + blend * plain).astype(np.float32)

    def windows(self) -> np.ndarray | None:
        """Tokens that a token sees in each layer, (L,); None where every layer sees all."""
        if self.sliding_window is None or self.full_layers >= self.layers:
            return None
        return np.where(np.arange(self.layers) < self.full_layers, 2**30, self.sliding_window).astype(np.int32)
