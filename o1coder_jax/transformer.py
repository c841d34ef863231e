"""One decoder for all roles: policy, process reward model and test case generator.

A pre-norm decoder with RMSNorm, rotary positions, grouped queries and SwiGLU (the Qwen2/3 and Llama form).
Layers are stacked on a leading axis; deep models scan them, so that compile time does not grow with depth. How queries
meet keys is handed in as a function: training, prefill and decoding differ in nothing else. Weights are of any dtype
and cast to that of the activations once, before the layers run; norms, softmax, logits and values are float32.

Shapes: B rows, S positions, V vocabulary, D width, H query heads, G key-value heads, E head size, L layers.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float, Int, UInt32

from o1coder_jax.attention import attention
from o1coder_jax.attention_kernels import kernel_for
from o1coder_jax.errors import UserError
from o1coder_jax.fused_scores import NEVER
from o1coder_jax.linear import Linear, normal
from o1coder_jax.mesh import ROWS, constrain, dividing, parameter_name
from o1coder_jax.model_config import ModelConfig, RopeScaling

__all__ = ["Attend", "Block", "ModelConfig", "RopeScaling", "Transformer", "parameter_count", "rms_norm", "rotate"]

# (cache of this layer, queries (B, S, H, E), keys (B, S, G, E), values (B, S, G, E), tokens that a token sees or None)
#   -> (attended (B, S, H, E), what the layer hands back, e.g. its keys and values)
Attend = Callable[[Any, Array, Array, Array, Array | None], tuple[Array, Any]]


def rms_norm(x: Float[Array, "... D"], scale: Float[Array, " D"], eps: float) -> Float[Array, "... D"]:
    """x / rms(x) * scale over the last axis, computed in float32 (arXiv 1910.07467)."""
    x32 = x.astype(jnp.float32)
    x32 = x32 * jax.lax.rsqrt(jnp.mean(x32 * x32, axis=-1, keepdims=True) + eps)
    return (x32 * scale).astype(x.dtype)


Turn = tuple[Array, Array]  # cosines and sines of the rotary angles, (B, S, 1, F) each


def turn_at(positions: Int[Array, "B S"], frequencies: Float[np.ndarray, " F"], places: int | None) -> Turn:
    """Rotary angles of positions, once for all layers.

    Where positions are known to lie below `places` they are looked up: XLA would compute sines again inside whatever
    it fuses them with, for every head of every layer, which took a tenth of a training step on a CPU.
    """
    if places is None:
        angles = positions[..., None, None].astype(jnp.float32) * frequencies
        return jnp.cos(angles), jnp.sin(angles)
    table = np.arange(places, dtype=np.float32)[:, None] * frequencies
    cos, sin = (jnp.asarray(f(table)).at[positions].get(mode="clip")[:, :, None] for f in (np.cos, np.sin))
    return cos, sin


def rotate(x: Float[Array, "B S N E"], turn: Turn) -> Float[Array, "B S N E"]:
    """Rotary positions (arXiv 2104.09864), halves convention of the Hugging Face checkpoints."""
    cos, sin = turn
    half = x.shape[-1] // 2
    first, second = x[..., :half].astype(jnp.float32), x[..., half:].astype(jnp.float32)
    return jnp.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1).astype(x.dtype)


class Block(nnx.Module):
    """One decoder layer: attention and SwiGLU, each with its pre-norm and residual."""

    def __init__(self, config: ModelConfig, *, rngs: nnx.Rngs):
        c = config
        self.config = config
        self.attention_norm = nnx.Param(jnp.ones(c.width))
        kv_shape = (c.kv_heads, c.head_size)
        self.query = Linear((c.width,), (c.heads, c.head_size), fan_in=c.width, bias=c.qkv_bias, rngs=rngs)
        self.key = Linear((c.width,), kv_shape, fan_in=c.width, bias=c.qkv_bias, rngs=rngs)
        self.value = Linear((c.width,), kv_shape, fan_in=c.width, bias=c.qkv_bias, rngs=rngs)
        fan_in = c.heads * c.head_size * 2 * c.layers
        self.output = Linear((c.heads, c.head_size), (c.width,), fan_in=fan_in, bias=c.output_bias, rngs=rngs)
        if c.qk_norm:
            self.query_norm = nnx.Param(jnp.ones(c.head_size))
            self.key_norm = nnx.Param(jnp.ones(c.head_size))
        self.mlp_norm = nnx.Param(jnp.ones(c.width))
        self.gate = Linear((c.width,), (c.mlp_width,), fan_in=c.width, bias=c.mlp_bias, rngs=rngs)
        self.up = Linear((c.width,), (c.mlp_width,), fan_in=c.width, bias=c.mlp_bias, rngs=rngs)
        fan_in = c.mlp_width * 2 * c.layers
        self.down = Linear((c.mlp_width,), (c.width,), fan_in=fan_in, bias=c.mlp_bias, rngs=rngs)

    def __call__(
        self,
        x: Float[Array, "B S D"],
        turn: Turn,
        attend: Callable[..., tuple[Array, Any]],
        dropout: UInt32[Array, "B 2"] | None = None,
    ) -> tuple[Float[Array, "B S D"], Any]:
        c = self.config

        def seed(number: int) -> Array | None:  # each product of a layer hides inputs of its own
            return None if dropout is None else dropout.at[:, 1].add(np.uint32(number))

        h = rms_norm(x, self.attention_norm[...], c.norm_eps)
        q, k, v = self.query(h, seed(0)), self.key(h, seed(1)), self.value(h, seed(2))
        if c.qk_norm:
            q = rms_norm(q, self.query_norm[...], c.norm_eps)
            k = rms_norm(k, self.key_norm[...], c.norm_eps)
        attended, kept = attend(rotate(q, turn), rotate(k, turn), v)
        x = x + self.output(attended.reshape(*x.shape[:2], c.heads, c.head_size), seed(3))
        h = rms_norm(x, self.mlp_norm[...], c.norm_eps)
        gated = gate(self.gate(h, seed(4)), self.up(h, seed(5)))
        return x + self.down(gated, seed(6)), kept


@jax.checkpoint
def gate(gate: Float[Array, "B S F"], up: Float[Array, "B S F"]) -> Float[Array, "B S F"]:
    """SwiGLU's product (arXiv 2002.05202); its gradient needs no more than what comes in."""
    return jax.nn.silu(gate) * up


class Transformer(nnx.Module):
    """The decoder, with an output projection and, when asked for, a scalar value head.

    Args:
      config: shape.
      vocab_size: ids of the tokenizer; V is `config.embedding_rows`, or the same. The others are never predicted.
      value_head: adds a scalar head (the process reward model's).
      rngs: initial weights.

    Attributes:
      answers: ids of a good and a bad answer, whose scores stand in place of a scalar head; None without.
    """

    answers: tuple[int, int] | None = None

    def __init__(self, config: ModelConfig, vocab_size: int, *, value_head: bool = False, rngs: nnx.Rngs):
        self.config, self.ids = config, vocab_size
        rows = config.embedding_rows or vocab_size
        if rows < vocab_size:
            raise UserError(
                f"the tokenizer has {vocab_size} ids, the model's embedding {rows} rows; give the model's own one"
            )
        self.embedding = nnx.Param(jax.random.normal(rngs.params(), (rows, config.width)) * 0.02)

        @nnx.split_rngs(splits=config.layers)
        @nnx.vmap(in_axes=(0,), out_axes=0)
        def stacked(rngs: nnx.Rngs) -> Block:
            return Block(config, rngs=rngs)

        self.blocks = stacked(rngs)
        self.norm = nnx.Param(jnp.ones(config.width))
        if not config.tied_embeddings:
            self.projection = normal(rngs, (config.width, rows), config.width)
        if value_head:
            self.value = nnx.Param(jnp.zeros(config.width))
            self.value_bias = nnx.Param(jnp.zeros(()))

    @property
    def vocab_size(self) -> int:
        """V: columns of the logits."""
        return int(self.embedding[...].shape[0])

    def hidden(
        self,
        tokens: Int[Array, "B S"],
        positions: Int[Array, "B S"],
        attend: Attend,
        cache: Sequence[Any] | None = None,
        dropout: UInt32[Array, "B 2"] | None = None,
        places: int | None = None,
    ) -> tuple[Float[Array, "B S D"], list[Any]]:
        """Runs the layers.

        Args:
          tokens, positions: what is read, and where each token stands in its sequence.
          attend: how queries meet keys; called once per layer with that layer's cache.
          cache: L trees of arrays, one per layer; of a scanned model one tree whose arrays have the layers as their
            first axis; or None.
          dropout: a seed for each row, in training with an adapter that hides inputs.
          places: that all positions lie below, where that is known.

        Returns:
          The final, normed states, and what each layer's `attend` handed back: L trees, or one as in `cache`.
        """
        c = self.config
        graph, weights = nnx.split(self.blocks)
        # Before the layers: what they gather is of the smaller dtype.
        weights = jax.tree_util.tree_map_with_path(self._cast, weights)
        x = constrain(self._embedded(tokens), ROWS, None, None)
        turn = turn_at(positions, c.frequencies(), places)
        windows = c.windows()
        numbers = None if dropout is None else jnp.arange(c.layers, dtype=jnp.uint32)

        def layer(x: Array, scanned: tuple[Any, Any, Any, Any]) -> tuple[Array, Any]:
            layer_weights, layer_cache, window, number = scanned

            def meet(q: Array, k: Array, v: Array) -> tuple[Array, Any]:
                return attend(layer_cache, q, k, v, window)

            seeds = None if dropout is None else dropout ^ (number * np.uint32(0x9E3779B9))
            x, out = nnx.merge(graph, layer_weights)(x, turn, meet, seeds)
            return constrain(x, ROWS, None, None), out

        layer = _rematerialized(layer, c.rematerialize)
        kept: list[Any] = []
        if c.scanned:
            x, out = jax.lax.scan(layer, x, (weights, cache[0] if cache else None, windows, numbers), length=c.layers)
            kept.append(out)
        else:
            for index in range(c.layers):
                own: tuple[Any, ...] = (cache[index] if cache else None,)
                own += tuple(None if plane is None else jnp.asarray(plane)[index] for plane in (windows, numbers))
                x, out = layer(x, (jax.tree.map(lambda w, i=index: w[i], weights), *own))
                kept.append(out)
        return rms_norm(x, self.norm[...], c.norm_eps), kept

    def _embedded(self, tokens: Int[Array, "B S"]) -> Float[Array, "B S D"]:
        """The tokens' embeddings; each device of `fsdp` looks up its part of the width for all of their rows.

        Only states travel then, to where their rows are; left to itself the compiler gathers the table.
        """
        rows = dividing("data", tokens.shape[0])
        found = self.embedding[...][constrain(tokens, rows, None)].astype(self.config.dtype)
        return constrain(found, rows, None, dividing("fsdp", self.config.width))

    def _cast(self, path: tuple[Any, ...], weight: Array) -> Array:
        """Matrices in the dtype of the activations; vectors, and packed weights, as they are."""
        packed = parameter_name(path).endswith((".codes", ".scales"))
        matrix = weight.ndim > 2 and not packed
        return weight.astype(self.config.dtype) if matrix else weight

    def logits(self, hidden: Float[Array, "... D"]) -> Float[Array, "... V"]:
        """Next-token scores in float32."""
        if self.config.tied_embeddings:
            weight = self.embedding[...].T
        else:
            weight = self.projection[...]
        scores = jnp.matmul(hidden, weight.astype(hidden.dtype), preferred_element_type=jnp.float32)
        if self.ids == self.vocab_size:
            return scores
        return jnp.where(jnp.arange(self.vocab_size) < self.ids, scores, NEVER)

    def values(self, hidden: Float[Array, "... D"]) -> Float[Array, "..."]:
        """Raw scores in float32, of which a sigmoid makes process rewards: those of the scalar head, or with `answers`
        the good answer's logit less the bad one's, so that the sigmoid is the softmax of the two."""
        if self.answers is not None:
            table = self.embedding[...] if self.config.tied_embeddings else self.projection[...].T
            good, bad = (table[token].astype(jnp.float32) for token in self.answers)
            return hidden.astype(jnp.float32) @ (good - bad)
        return hidden.astype(jnp.float32) @ self.value[...] + self.value_bias[...]

    def read(
        self,
        tokens: Int[Array, "B S"],
        positions: Int[Array, "B S"],
        segments: Int[Array, "B S"],
        dropout: UInt32[Array, "B 2"] | None = None,
        places: int | None = None,
    ) -> Float[Array, "B S D"]:
        """States of whole, possibly packed sequences: a token sees its own segment's past.

        Segment 0 is padding; `places` is as in `hidden`.
        """

        kernel, near = kernel_for(self.config), self.config.sliding_window

        def attend(_: None, q: Array, k: Array, v: Array, window: Array | None) -> tuple[Array, None]:
            return attention(q, k, v, segments, window, kernel=kernel, sliding_window=near), None

        return self.hidden(tokens, positions, attend, dropout=dropout, places=places)[0]


def _rematerialized(layer: Callable[..., Any], what: str) -> Callable[..., Any]:
    if what == "none":
        return layer
    policy = jax.checkpoint_policies.dots_with_no_batch_dims_saveable if what == "dots" else None
    return jax.checkpoint(layer, policy=policy, prevent_cse=False)


def parameter_count(weights: Any) -> int:
    """The number of scalars in a tree of arrays."""
    return sum(leaf.size for leaf in jax.tree.leaves(weights))
