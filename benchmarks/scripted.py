"""A policy for benchmarks that nobody has to train: the embedded model's shape, and steps as long as a trained one's.

Its last token decides what may follow: an output table over a basis of token embeddings makes a Markov chain of it,
which the layers blur a little. Each stretch of a step is a run of geometric length. With the figures here a
define or refine step has 7 tokens (standard deviation 2) and a code step 33 (8); the search of the embedded
experiment wrote 6.3, 7.0 and 31.9.
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterable, Sequence
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from o1coder_jax.policy import Policy
from o1coder_jax.prm import RewardModel, with_value_head
from o1coder_jax.records import Form, Problem, TestCase
from o1coder_jax.steps import END, STEP_BEGIN, STEP_END
from o1coder_jax.stopping import Stops, stop_ids
from o1coder_jax.transformer import ModelConfig, Transformer

SHAPE = ModelConfig(qk_norm=True)  # of configs/tiny.yaml
VOCABULARY = 1000
SCORE = 14.0  # of what may follow, over the rest of the vocabulary
BLUR = 0.25  # of the layers' part in a state
DEFINE, REFINE, CODE = 0.99, 0.72, 0.24  # chances of the first step, and of what follows a step; the rest is malformed
PROSE, PROSE_STAY = 3, 0.4  # stretches of a define or refine step, and the chance that a stretch goes on
LINES, LINES_STAY = 10, 0.665  # the same of a code step

WORDS = {
    "open": [STEP_BEGIN],
    "define": ["1. define: take", "1. define: given"],
    "refine": ["1. refine: then", "1. refine: first"],
    **{f"prose{i}": [f" {word}{i}" for word in ("sum", "list", "count", "item")] for i in range(PROSE)},
    "code": ["1. code:\n```python\n", "1. code:\n```python\n# program\n"],
    **{f"line{i}": [f"x{i} = 1\n", f"y{i} = 2\n"] for i in range(LINES)},
    "close": ["print(3)\n```", "print(4)\n```"],
    "step_end": [STEP_END],
    "end": [END],
}
PIECES = [word for words in WORDS.values() for word in words]
SHARED = "write a program that reads numbers and prints what is asked"


class PhraseTokenizer:
    """A piece of text for each id that the policy draws; words of a statement take the other ids, by their sound."""

    vocab_size = VOCABULARY
    step_end, end = PIECES.index(STEP_END), PIECES.index(END)
    fingerprint = "phrases"

    def encode(self, text: str) -> list[int]:
        rest = VOCABULARY - len(PIECES)
        return [0 if word == STEP_BEGIN else len(PIECES) + sum(word.encode()) % rest for word in text.split()]

    def stops(self, markers: Sequence[str]) -> Stops:
        return stop_ids(self.vocab_size, [PIECES.index(marker) for marker in markers])

    def save(self, path: Path) -> None:
        path.write_text("\n".join(PIECES))

    def decode(self, ids: Sequence[int]) -> str:
        return "".join(PIECES[i] if i < len(PIECES) else " ?" for i in ids)


def chain(code: float = CODE) -> np.ndarray:
    """(V', V') chances of what follows what, over the pieces; `code` is the share of code steps after a step."""
    at: dict[str, range] = {}
    for name, words in WORDS.items():
        start = sum(map(len, at.values()))
        at[name] = range(start, start + len(words))
    table = np.zeros((len(PIECES), len(PIECES)))

    def follows(before: str, after: Iterable[tuple[str, float]]) -> None:
        for name, chance in after:
            table[np.ix_(at[before], at[name])] += chance / len(at[name])

    malformed = 1 - REFINE - CODE
    follows("open", [("define", DEFINE), ("prose0", 1 - DEFINE)])
    follows("step_end", [("refine", 1 - code - malformed), ("code", code), ("prose0", malformed)])
    for kind in ("define", "refine"):
        follows(kind, [("prose0", 1.0)])
    for name, count, stay, end in (("prose", PROSE, PROSE_STAY, "step_end"), ("line", LINES, LINES_STAY, "close")):
        for i in range(count):
            follows(f"{name}{i}", [(f"{name}{i}", stay), (f"{name}{i + 1}" if i + 1 < count else end, 1 - stay)])
    follows("code", [("line0", 1.0)])
    follows("close", [("end", 1.0)])
    return table


def policy(seed: int = 0, *, code: float = CODE, shape: ModelConfig = SHAPE) -> Policy:
    """The decoder: random layers between an embedding and a projection that hold the chain."""
    table = chain(code)
    score = np.zeros((len(PIECES), VOCABULARY))
    possible = table > 0
    score[:, : len(PIECES)][possible] = SCORE + np.log(table[possible])
    config = ModelConfig(**{**vars(shape), "tied_embeddings": False})
    model = Transformer(config, VOCABULARY, rngs=nnx.Rngs(seed))
    rng, width = np.random.default_rng(seed), shape.width
    # Rows of length sqrt(D) at right angles: the last token can be read off the state that it is added to.
    basis = np.linalg.qr(rng.normal(size=(width, width)))[0][: len(PIECES)]
    embedding = rng.normal(size=(VOCABULARY, width))
    embedding[: len(PIECES)] = basis * math.sqrt(width)
    model.embedding[...] = jnp.asarray(embedding, jnp.float32)
    model.projection[...] = jnp.asarray(basis.T @ score / math.sqrt(width), jnp.float32)
    for weight in (model.blocks.output.weight, model.blocks.down.weight):
        assert weight is not None
        weight[...] = BLUR * weight[...]
    graph, weights = nnx.split(model)
    return Policy(graph, weights, PhraseTokenizer(), f"scripted-{seed}")  # type: ignore[arg-type]


def rater(policy: Policy, seed: int = 0) -> RewardModel:
    """A process reward model with opinions: the policy's layers, a random head."""
    config = nnx.merge(policy.graph, policy.weights).config
    graph, weights = with_value_head(policy.graph, policy.weights, config, VOCABULARY)
    model = nnx.merge(graph, weights)
    model.value[...] = jax.random.normal(jax.random.key(seed), model.value[...].shape)
    return RewardModel(*nnx.split(model), f"scripted-{seed}")


def problems(count: int, seed: int = 0, tests: int = 8) -> list[Problem]:
    """Statements of 20 to 45 tokens, the first eleven the same in all; a program that prints 3 is right."""
    rng = random.Random(seed)
    cases = tuple(TestCase(f"{i}\n", "3") for i in range(tests))

    def statement(number: int) -> str:
        words = (rng.choice("abcdefgh") * rng.randint(1, 9) for _ in range(rng.randint(7, 32)))
        return " ".join([SHARED, str(number), *words])

    return [Problem(f"s{seed}-{number}", statement(number), Form.STDIN, cases) for number in range(count)]
