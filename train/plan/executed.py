"""How many floating-point operations a step should take, by formula: 2 per multiplication with addition.

A parameter in a matrix product costs 2 per token forward and 4 backward, so 6 N in training (Kaplan et al., arXiv
2001.08361, section 2.1), 4 N where it is frozen; attention adds 4 H E for every score of a layer forward, masked ones
that are computed included (`attention.computed_scores`; splash leaves out whole blocks). What the backward pass
computes again is no work of the model's: it counts as executed, not towards MFU.
"""

from __future__ import annotations

from dataclasses import dataclass

from o1coder_jax.attention import BLOCK, WHOLE, computed_scores
from o1coder_jax.attention_kernels import SPLASH_BLOCKS
from o1coder_jax.flops import matrix_parameters
from o1coder_jax.fused_scores import part_columns
from o1coder_jax.model_config import ModelConfig


@dataclass(frozen=True)
class Work:
    """Of one call of a step, on all chips together.

    Attributes:
      tokens: that go through the model.
      products: FLOPs with parameters; `attention`: of queries with keys and of weights with values.
      again: FLOPs that are done a second time, to save memory.
    """

    tokens: int
    products: float
    attention: float
    again: float = 0.0

    @property
    def model(self) -> float:
        """What the model asks for: the numerator of MFU."""
        return self.products + self.attention

    @property
    def executed(self) -> float:
        return self.model + self.again


def _meeting(config: ModelConfig) -> int:
    """FLOPs of one query and one key, in all layers and heads, forward."""
    return 4 * config.layers * config.heads * config.head_size


def training_work(
    config: ModelConfig,
    vocab_size: int,
    *,
    rows: int,
    length: int,
    parts: int = 1,
    tensor: int = 1,
    kernel: str = "xla",
    factors: int | None = None,
) -> Work:
    """Of an update on a batch (rows, length).

    Args:
      vocab_size: 0 where the loss reads a scalar head, which costs nothing to speak of.
      parts: of the batch, one after another or on devices of their own; `tensor`: parts of the vocabulary.
      kernel: of attention.
      factors: parameters of an adapter's products, the others are frozen; None: all are trained.
    """
    tokens, block, head = rows * length, matrix_parameters(config, 0), config.width * vocab_size
    scores = {"xla": computed_scores(length), "splash": length**2 * _splash_share(length)}.get(kernel, length**2)
    attention = float(_meeting(config) * rows * scores)
    again = 2.0 * head * tokens  # logits, in the backward pass
    if vocab_size:  # the last columns lie in two parts of the vocabulary, see o1coder_jax/fused_scores.py
        own = vocab_size // tensor if vocab_size % tensor == 0 else vocab_size
        columns = part_columns(rows // parts * (length - 1), own)
        again += 8.0 * head * tokens * (-(-own // columns) * columns / own - 1)
    if kernel == "splash":
        again += 1.5 * attention  # scores in both backward kernels, the weights' gradient in one of them
    elif length > WHOLE and length % BLOCK == 0:
        again += attention  # a block, see o1coder_jax/attention.py
    if config.rematerialize == "dots":
        again += attention
    elif config.rematerialize == "layers":  # all but the last product of a layer, whose result no gradient needs
        again += 2.0 * (block - config.layers * config.width * config.mlp_width) * tokens + attention
    trained = 6.0 * (block + head) if factors is None else 4.0 * (block + head) + 6.0 * factors
    return Work(tokens, trained * tokens, 3.0 * attention, again)


def _splash_share(length: int) -> float:
    """Blocks that a causal mask lets through, of all."""
    padded = length + -length % SPLASH_BLOCKS[-1]
    count = padded // next(block for block in SPLASH_BLOCKS if padded % block == 0)
    return (count + 1) / (2 * count)


def activation_bytes(
    config: ModelConfig, vocab_size: int, *, rows: int, length: int, tensor: int, weights: float, microbatches: int
) -> float:
    """Bytes on a chip that an update needs beside weights and moments, roughly; for devices without a compiler here.

    What the layers keep for the backward pass (by `rematerialize`), one layer's work, the scores of a part of the
    vocabulary with their gradient, gradients in float32 and their sums, and the weights' copies in the dtype of the
    activations.

    Args:
      vocab_size: 0 without logits.
      rows: of one microbatch on the chip; `tensor`: parts of heads, MLP and vocabulary; `weights`: bytes on the chip.
    """
    c, tokens, size = config, rows * length, 2 if config.dtype == "bfloat16" else 4
    inner = (c.heads + 2 * c.kv_heads) * c.head_size + 3 * c.mlp_width
    queries = length if length <= WHOLE or length % BLOCK else BLOCK
    scores = rows * c.heads * queries * length * (4 + size) / tensor
    whole = tokens * (6 * c.width + 2 * inner / tensor) * size + scores  # of one layer
    dots = tokens * (3 * c.width + (inner - c.mlp_width) / tensor) * size
    kept = {"none": whole, "dots": dots, "layers": tokens * c.width * size}[c.rematerialize]
    logits = 3 * 4 * tokens * part_columns(tokens, vocab_size // tensor) if vocab_size else 0
    gradients = weights * (1 if microbatches == 1 else 2)
    copies = weights * size / 4 + 2 * matrix_parameters(c, 0) / c.layers / tensor * size if size < 4 else 0.0
    return c.layers * kept + whole + logits + gradients + copies


def layer_traffic(config: ModelConfig, *, tokens: int, tensor: int) -> float:
    """Bytes that a chip moves in one pass over all layers, roughly: weights once, each activation out and back."""
    c, size = config, 2 if config.dtype == "bfloat16" else 4
    inner = (c.heads + 2 * c.kv_heads) * c.head_size + 3 * c.mlp_width
    return size * (matrix_parameters(c, 0) / tensor + 2 * c.layers * tokens * (6 * c.width + inner / tensor))


def training_traffic(
    config: ModelConfig, vocab_size: int, *, tokens: int, tensor: int, weights: float, microbatches: int
) -> float:
    """Bytes that a chip moves in an update, roughly: three passes (four where layers are computed again) over each
    microbatch, logits, and the optimiser's reading of four arrays and writing of three.

    Args:
      tokens: on the chip, in all microbatches; `weights`: bytes on the chip.
    """
    passes = 3 if config.rematerialize == "none" else 4
    one = layer_traffic(config, tokens=tokens // microbatches, tensor=tensor)
    return passes * microbatches * one + 4 * 4 * tokens * vocab_size / tensor + 7 * weights


def reading_work(config: ModelConfig, *, rows: int, length: int, before: int) -> Work:
    """Of reading (rows, length) tokens, each after `before` places; no logits."""
    tokens = rows * length
    met = rows * length * (before + length)
    return Work(tokens, 2.0 * matrix_parameters(config, 0) * tokens, float(_meeting(config) * met))


def wave_work(
    config: ModelConfig,
    vocab_size: int,
    *,
    rows: int,
    paths: int,
    width: int,
    openings: int,
    steps: int,
    path: int,
    own: int,
) -> Work:
    """Of a wave: so many paths of `path` places are opened, then `steps` tokens decoded in every row.

    Args:
      paths, width: queries are laid out by path and lane, so paths * width of them meet the paths' keys.
      own: places of a row's own tokens.
    """
    weights = matrix_parameters(config, vocab_size)
    tokens = openings + rows * steps
    met = openings * (path + 1) + steps * (paths * width * path + rows * (own + 1))
    return Work(tokens, 2.0 * weights * tokens, float(_meeting(config) * met))
