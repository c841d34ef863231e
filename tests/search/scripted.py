"""Small fakes for searches: a vocabulary of whole phrases, a random decoder over it, and judges that decide by hash."""

from __future__ import annotations

import dataclasses
import random
import threading
import zlib
from collections.abc import Collection, Sequence
from concurrent.futures import Future

import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import Mesh

from o1coder_jax.policy import Policy
from o1coder_jax.prm import ValueHead
from o1coder_jax.records import Form, Judgement, Problem, TestCase, Verdict
from o1coder_jax.sampling import SamplingConfig
from o1coder_jax.steps import END, STEP_BEGIN, STEP_END
from o1coder_jax.stopping import Stops, stop_ids
from o1coder_jax.transformer import ModelConfig
from search.config import SearchConfig
from search.selection import SelectionConfig
from search.tree import Tree
from search.waves import Search
from tests.tiny import SHAPE, decoder, one_device

PIECES = (
    "",  # opens a path
    "1. define: a",
    "1. define: b",
    "2. refine: c",
    "3. code:\n```python\nA\n```",
    "3. code:\n```python\nB\n```",
    "3. code:\n```python\nC\n```",
    STEP_END,
    END,
)
_OPEN, _DEFINE, _CODE, _STEP_END, _END = [0], [1, 2, 3], [4, 5, 6], [7], [8]


class PhraseTokenizer:
    """One id per phrase; any text can be encoded, though not read back."""

    vocab_size = len(PIECES)
    step_end, end = _STEP_END[0], _END[0]
    fingerprint = "phrases"

    def encode(self, text: str) -> list[int]:
        return [0 if word == STEP_BEGIN else 1 + zlib.crc32(word.encode()) % 6 for word in text.split()]

    def stops(self, markers: Sequence[str]) -> Stops:
        return stop_ids(self.vocab_size, [PIECES.index(marker) for marker in markers])

    def decode(self, ids: Sequence[int]) -> str:
        return "".join(PIECES[i] for i in ids)


def policy(seed: int = 8, shape: ModelConfig = SHAPE) -> Policy:
    """A decoder that mostly keeps to the grammar: a table of what follows what, blurred by its random layers."""
    follows = np.full((len(PIECES), len(PIECES)), -1.5)
    for before, after, score in [
        (_OPEN + _STEP_END, _DEFINE, 1.0),
        (_OPEN + _STEP_END, _CODE, 0.5),
        (_DEFINE, _STEP_END, 3.0),
        (_CODE, _END, 3.5),
    ]:
        follows[np.ix_(before, after)] = score
    model = decoder(dataclasses.replace(shape, tied_embeddings=False), len(PIECES), seed=seed)
    # Rows of length sqrt(D) at right angles: the last token can be read off the state that it is added to.
    basis = np.linalg.qr(np.random.default_rng(seed).normal(size=(SHAPE.width, SHAPE.width)))[0][: len(PIECES)]
    model.embedding[...] = jnp.asarray(basis * SHAPE.width**0.5, jnp.float32)
    model.projection[...] = jnp.asarray(basis.T @ follows / SHAPE.width**0.5, jnp.float32)
    graph, weights = nnx.split(model)
    return Policy(graph, weights, PhraseTokenizer(), f"random-{seed}")


def head(seed: int = 1, *, of: str = "random-8") -> ValueHead:
    """Opinions of that policy, by its own states."""
    rng = np.random.default_rng(seed)
    weights = {"value": jnp.asarray(rng.normal(size=SHAPE.width), jnp.float32), "value_bias": jnp.asarray(0.1)}
    return ValueHead(weights, f"head-{seed}", of)


def problem(number: int) -> Problem:
    return Problem(
        f"p{number}", " ".join(f"word{number}{i}" for i in range(number % 3 + 1)), Form.STDIN, (TestCase("", ""),)
    )


PROBLEMS = [problem(number) for number in range(8)]
CONFIG = SearchConfig(
    trees=4,
    slots=8,
    rollouts=8,
    depth=3,
    samples=3,
    wave_steps=4,
    prompt_tokens=6,
    step_tokens=4,
    code_tokens=7,
    page_tokens=4,
    merge_identical=False,
    selection=SelectionConfig(exploration=0.7, schedule="linear"),
    sampling=SamplingConfig(),
)


def verdict_of(problem: Problem, code: str) -> Judgement:
    """A verdict that depends on problem and program alone; a sixth of them could not be checked."""
    kind = zlib.crc32(f"{problem.id} {code}".encode()) % 6
    if kind == 0:
        return Judgement(Verdict.INFRA_ERROR, compiled=True, passed=0, total=4)
    if kind == 1:
        return Judgement(Verdict.ACCEPTED, compiled=True, passed=4, total=4)
    if kind == 2:
        return Judgement(Verdict.COMPILE_ERROR, compiled=False, passed=0, total=4)
    return Judgement(Verdict.WRONG_ANSWER, compiled=True, passed=kind - 3, total=4)


def instant(problem: Problem, code: str) -> Future[Judgement]:
    future: Future[Judgement] = Future()
    future.set_result(verdict_of(problem, code))
    return future


class Late:
    """A judge whose verdicts come later and in another order than they were asked for."""

    def __init__(self, seed: int):
        self._rng = random.Random(seed)

    def __call__(self, problem: Problem, code: str) -> Future[Judgement]:
        future: Future[Judgement] = Future()
        threading.Timer(self._rng.random() * 0.01, future.set_result, (verdict_of(problem, code),)).start()
        return future


def searching(
    config: SearchConfig = CONFIG,
    problems: Sequence[Problem] = PROBLEMS,
    *,
    policy: Policy,
    judge=instant,
    mesh: Mesh | None = None,
    seed: int = 0,
    without: Collection[str] = (),
) -> Search:
    return Search(policy, problems, judge, config, mesh or one_device(), seed=seed, iteration=1, without=without)


def grown(*arguments, **settings) -> dict[str, Tree]:
    """All finished trees by problem."""
    return {tree.problem.id: tree for tree in searching(*arguments, **settings)}


def same(first: Tree, second: Tree, *, tolerance: float = 1e-4) -> None:
    """Asserts that two trees are the same: nodes, tokens, visits, values; log-probabilities within the tolerance."""
    assert len(first.nodes) == len(second.nodes)
    for a, b in zip(first.nodes, second.nodes, strict=True):
        assert (a.parent, a.tokens, a.ended, a.visits, a.value, a.reward) == (
            b.parent,
            b.tokens,
            b.ended,
            b.visits,
            b.value,
            b.reward,
        )
        np.testing.assert_allclose(a.log_probability, b.log_probability, atol=tolerance)
