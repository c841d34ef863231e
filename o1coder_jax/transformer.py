"""One decoder for all roles: policy, process reward model and test case generator.

A pre-norm decoder with RMSNorm, rotary positions, grouped queries and SwiGLU (the Qwen2/3 and Llama form).
Layers are stacked on a leading axis; deep models scan them, so that compile time does not grow with depth. How queries
meet keys is handed in as a function: training, prefill and decoding differ in nothing else.

Shapes: B rows, S positions, V vocabulary, D width, H query heads, G key-value heads, E head size, L layers.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any, Literal

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float, Int

from o1coder_jax.errors import UserError

UNROLLED_LAYERS = 4  # up to so many layers are unrolled: no slicing of stacked weights and caches at run time

# (cache of this layer, queries (B, S, H, E), keys (B, S, G, E), values (B, S, G, E))
#   -> (attended (B, S, H, E), what the layer hands back, e.g. its keys and values)
Attend = Callable[[Any, Array, Array, Array], tuple[Array, Any]]


@dataclasses.dataclass(frozen=True)
class ModelConfig:
    """The decoder's shape.

    Attributes:
      width, layers, heads, kv_heads, head_size, mlp_width: sizes; heads is a multiple of kv_heads.
      rope_theta: base of the rotary frequencies.
      norm_eps: epsilon of every RMSNorm.
      qkv_bias: biases on the query, key and value projections (Qwen2).
      qk_norm: RMSNorm on each head's queries and keys (Qwen3).
      tied_embeddings: the output projection is the embedding.
      dtype: of activations; parameters are float32.
    """

    width: int = 96
    layers: int = 3
    heads: int = 3
    kv_heads: int = 1
    head_size: int = 32
    mlp_width: int = 256
    rope_theta: float = 10_000.0
    norm_eps: float = 1e-6
    qkv_bias: bool = False
    qk_norm: bool = False
    tied_embeddings: bool = True
    dtype: Literal["float32", "bfloat16"] = "float32"

    def __post_init__(self) -> None:
        for field in ("width", "layers", "heads", "kv_heads", "head_size", "mlp_width"):
            if getattr(self, field) < 1:
                raise UserError(f"model.{field} is {getattr(self, field)}; it must be at least 1")
        if self.heads % self.kv_heads:
            raise UserError(f"model.heads {self.heads} is not a multiple of model.kv_heads {self.kv_heads}")
        if self.head_size % 2:
            raise UserError(f"model.head_size {self.head_size} is odd; rotary positions need an even size")


def _normal(rngs: nnx.Rngs, shape: tuple[int, ...], fan_in: int) -> nnx.Param:
    return nnx.Param(jax.random.normal(rngs.params(), shape, jnp.float32) * fan_in**-0.5)


def rms_norm(x: Float[Array, "... D"], scale: Float[Array, " D"], eps: float) -> Float[Array, "... D"]:
    """x / rms(x) * scale over the last axis, computed in float32 (arXiv 1910.07467)."""
    x32 = x.astype(jnp.float32)
    x32 = x32 * jax.lax.rsqrt(jnp.mean(x32 * x32, axis=-1, keepdims=True) + eps)
    return (x32 * scale).astype(x.dtype)


def rotate(x: Float[Array, "B S N E"], positions: Int[Array, "B S"], theta: float) -> Float[Array, "B S N E"]:
    """Rotary positions (arXiv 2104.09864), halves convention of the Hugging Face checkpoints."""
    half = x.shape[-1] // 2
    frequencies = theta ** (-jnp.arange(half, dtype=jnp.float32) / half)
    angles = positions[..., None, None].astype(jnp.float32) * frequencies
    cos, sin = jnp.cos(angles), jnp.sin(angles)
    first, second = x[..., :half].astype(jnp.float32), x[..., half:].astype(jnp.float32)
    return jnp.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1).astype(x.dtype)


def project(x: Float[Array, "B S D"], weight: Float[Array, "D *out"]) -> Float[Array, "B S *out"]:
    """x times a weight over the last axis of x, as one matrix product of all tokens.

    Two axes on each side: the gradient of a three-axis product takes 3.4 times as long on a CPU.
    """
    flat = x.reshape(-1, x.shape[-1]) @ weight.reshape(weight.shape[0], -1).astype(x.dtype)
    return flat.reshape(*x.shape[:-1], *weight.shape[1:])


class Block(nnx.Module):
    """One decoder layer: attention and SwiGLU, each with its pre-norm and residual."""

    def __init__(self, config: ModelConfig, *, rngs: nnx.Rngs):
        c = config
        self.config = config
        self.attention_norm = nnx.Param(jnp.ones(c.width))
        self.query = _normal(rngs, (c.width, c.heads, c.head_size), c.width)
        self.key = _normal(rngs, (c.width, c.kv_heads, c.head_size), c.width)
        self.value = _normal(rngs, (c.width, c.kv_heads, c.head_size), c.width)
        self.output = _normal(rngs, (c.heads, c.head_size, c.width), c.heads * c.head_size * 2 * c.layers)
        if c.qkv_bias:
            self.query_bias = nnx.Param(jnp.zeros((c.heads, c.head_size)))
            self.key_bias = nnx.Param(jnp.zeros((c.kv_heads, c.head_size)))
            self.value_bias = nnx.Param(jnp.zeros((c.kv_heads, c.head_size)))
        if c.qk_norm:
            self.query_norm = nnx.Param(jnp.ones(c.head_size))
            self.key_norm = nnx.Param(jnp.ones(c.head_size))
        self.mlp_norm = nnx.Param(jnp.ones(c.width))
        self.gate = _normal(rngs, (c.width, c.mlp_width), c.width)
        self.up = _normal(rngs, (c.width, c.mlp_width), c.width)
        self.down = _normal(rngs, (c.mlp_width, c.width), c.mlp_width * 2 * c.layers)

    def __call__(
        self, x: Float[Array, "B S D"], positions: Int[Array, "B S"], attend: Callable[..., tuple[Array, Any]]
    ) -> tuple[Float[Array, "B S D"], Any]:
        c = self.config
        h = rms_norm(x, self.attention_norm[...], c.norm_eps)
        q, k, v = (project(h, weight[...]) for weight in (self.query, self.key, self.value))
        if c.qkv_bias:
            q = q + self.query_bias[...].astype(x.dtype)
            k = k + self.key_bias[...].astype(x.dtype)
            v = v + self.value_bias[...].astype(x.dtype)
        if c.qk_norm:
            q = rms_norm(q, self.query_norm[...], c.norm_eps)
            k = rms_norm(k, self.key_norm[...], c.norm_eps)
        attended, kept = attend(rotate(q, positions, c.rope_theta), rotate(k, positions, c.rope_theta), v)
        merged = attended.reshape(*x.shape[:2], c.heads * c.head_size)
        x = x + project(merged, self.output[...].reshape(-1, c.width))
        h = rms_norm(x, self.mlp_norm[...], c.norm_eps)
        gated = jax.nn.silu(project(h, self.gate[...])) * project(h, self.up[...])
        return x + project(gated, self.down[...]), kept


class Transformer(nnx.Module):
    """The decoder, with an output projection and, when asked for, a scalar value head.

    Args:
      config: shape.
      vocab_size: V.
      value_head: adds a scalar head (the process reward model's).
      rngs: initial weights.
    """

    def __init__(self, config: ModelConfig, vocab_size: int, *, value_head: bool = False, rngs: nnx.Rngs):
        self.config = config
        self.embedding = nnx.Param(jax.random.normal(rngs.params(), (vocab_size, config.width)) * 0.02)

        @nnx.split_rngs(splits=config.layers)
        @nnx.vmap(in_axes=(0,), out_axes=0)
        def stacked(rngs: nnx.Rngs) -> Block:
            return Block(config, rngs=rngs)

        self.blocks = stacked(rngs)
        self.norm = nnx.Param(jnp.ones(config.width))
        if not config.tied_embeddings:
            self.projection = _normal(rngs, (config.width, vocab_size), config.width)
        if value_head:
            self.value = nnx.Param(jnp.zeros(config.width))
            self.value_bias = nnx.Param(jnp.zeros(()))

    @property
    def vocab_size(self) -> int:
        return int(self.embedding[...].shape[0])

    def hidden(
        self,
        tokens: Int[Array, "B S"],
        positions: Int[Array, "B S"],
        attend: Attend,
        cache: Sequence[Any] | None = None,
    ) -> tuple[Float[Array, "B S D"], list[Any]]:
        """Runs the layers.

        Args:
          tokens, positions: what is read, and where each token stands in its sequence.
          attend: how queries meet keys; called once per layer with that layer's cache.
          cache: L trees of arrays, one per layer, or None.

        Returns:
          The final, normed states, and what each layer's `attend` handed back: L trees.
        """
        layers = self.config.layers
        graph, weights = nnx.split(self.blocks)
        x = self.embedding[...][tokens].astype(self.config.dtype)

        def layer(x: Array, scanned: tuple[Any, Any]) -> tuple[Array, Any]:
            layer_weights, layer_cache = scanned
            return nnx.merge(graph, layer_weights)(x, positions, functools.partial(attend, layer_cache))

        kept: list[Any] = []
        if layers <= UNROLLED_LAYERS:
            for index in range(layers):
                layer_weights = jax.tree.map(lambda w, i=index: w[i], weights)
                x, out = layer(x, (layer_weights, cache[index] if cache else None))
                kept.append(out)
        else:
            stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *cache) if cache else None
            x, out = jax.lax.scan(layer, x, (weights, stacked), length=layers)
            kept = [jax.tree.map(lambda leaf, i=index: leaf[i], out) for index in range(layers)]
        return rms_norm(x, self.norm[...], self.config.norm_eps), kept

    def logits(self, hidden: Float[Array, "... D"]) -> Float[Array, "... V"]:
        """Next-token scores in float32."""
        if self.config.tied_embeddings:
            weight = self.embedding[...].T
        else:
            weight = self.projection[...]
        return jnp.matmul(hidden, weight.astype(hidden.dtype), preferred_element_type=jnp.float32)

    def values(self, hidden: Float[Array, "... D"]) -> Float[Array, "..."]:
        """The scalar head's raw scores in float32 (a sigmoid makes them process rewards)."""
        return hidden.astype(jnp.float32) @ self.value[...] + self.value_bias[...]

    def read(
        self, tokens: Int[Array, "B S"], positions: Int[Array, "B S"], segments: Int[Array, "B S"]
    ) -> Float[Array, "B S D"]:
        """States of whole, possibly packed sequences: a token sees its own segment's past.

        Segment 0 is padding.
        """
        mask = segment_mask(segments)

        def attend(_: None, q: Array, k: Array, v: Array) -> tuple[Array, None]:
            return jax.nn.dot_product_attention(q, k, v, mask=mask), None

        return self.hidden(tokens, positions, attend)[0]


def segment_mask(segments: Int[Array, "B S"]) -> Bool[Array, "B 1 S S"]:
    """True where query i may see key j: j <= i and both lie in one segment.

    With segments [1 1 2 0] the second token sees tokens 0 and 1, the third only itself. Padding (0) sees
    padding, so that no row of the softmax is empty; nothing reads those states.
    """
    length = segments.shape[1]
    causal = jnp.tril(jnp.ones((length, length), bool))
    return (causal & (segments[:, :, None] == segments[:, None, :]))[:, None]


def parameter_count(weights: Any) -> int:
    """The number of scalars in a tree of arrays."""
    return sum(leaf.size for leaf in jax.tree.leaves(weights))
