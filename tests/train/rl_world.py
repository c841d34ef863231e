"""Paths, scorers and a session that are made up: what the tests of reinforcement learning share."""

from __future__ import annotations

import dataclasses
import random
import types
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from flax import nnx

from o1coder_jax.generate import Sample, generate
from o1coder_jax.mesh import MeshConfig, make_mesh, replicate
from o1coder_jax.sampling import SamplingConfig
from o1coder_jax.stopping import stop_ids
from o1coder_jax.stored import Model
from o1coder_jax.transformer import Transformer
from tests.train.test_step import MODEL, VOCABULARY
from train.data import Example
from train.meter import Meter
from train.rl import RLConfig, loop
from train.rl.lessons import Scorers, Shape
from train.rl.rounds import Group, Path, credited
from train.step import Trainer

PROMPTS = [[3, 4], [5, 6]]
HALF = VOCABULARY // 2


def path(tokens: Sequence[int], credits: Sequence[float], **changes: Any) -> Path:
    """A path after the prompt (1, 2) whose steps are its tokens, one each, and the rest in the last."""
    ends = [*range(len(credits) - 1), len(tokens) - 1]
    sampled = [-0.1 * i for i in range(len(tokens))]
    return dataclasses.replace(Path([1, 2], tokens, ends, credits, sum(credits), 0.0, True, sampled), **changes)


def groups_of(rewards: Sequence[Sequence[float]], usable: Sequence[Sequence[bool]] | None = None) -> list[Group]:
    """Paths 10, 11, ... of two tokens and one step each, with these rewards."""
    numbers = iter(range(10, 1000))
    checked = usable or [[True] * len(group) for group in rewards]
    return [
        [path([next(numbers), 91], [reward], usable=fine) for reward, fine in zip(*rows, strict=True)]
        for rows in zip(rewards, checked, strict=True)
    ]


def constant(value: float) -> Callable[[Sequence[Example]], list[np.ndarray]]:
    """Gives every token this log-probability."""
    return lambda examples: [np.full(len(one["tokens"]), value, np.float32) for one in examples]


SCORERS = Scorers(constant(-0.5), constant(-0.7))


def bandit(config: RLConfig, paths_of: Callable[[Sequence[int], Sample], Path], *, length: int) -> list[list[Path]]:
    """Learns answers of up to `length` tokens to two prompts with the stage's own functions.

    Args:
      paths_of: a prompt and a sampled answer as a path.

    Returns:
      The paths of each round. An answer ends at a token of the upper half of the vocabulary.
    """
    mesh = make_mesh(MeshConfig(cpu_devices=1))
    graph, weights = nnx.split(Transformer(MODEL, VOCABULARY, rngs=nnx.Rngs(0)))
    start = Model(graph, replicate(mesh, weights))
    session: Any = types.SimpleNamespace(
        config=types.SimpleNamespace(rl=config, seed=0),
        mesh=mesh,
        tokenizer=None,
        own_slice=lambda rows: slice(rows),
        trainable=lambda name, adapter, role: start,
    )
    trainer = Trainer(
        graph, start.weights, loop.objective_of(config), config.optimizer, mesh, updates=loop.planned_updates(config)
    )
    teach, _ = loop.teacher(session, 1, trainer, start)
    rng, meter, shape, rounds = random.Random(0), Meter(trainer), Shape(config.minibatch), []
    for update in range(config.updates):
        drawn = generate(
            graph,
            replicate(mesh, trainer.weights),
            PROMPTS,
            samples=config.samples,
            stops=stop_ids(VOCABULARY, range(HALF, VOCABULARY)),
            rows=len(PROMPTS) * config.samples,
            answer_tokens=length,
            sampling=SamplingConfig(),
            mesh=mesh,
            seed=(0, update),
        )
        groups = [[paths_of(prompt, one) for one in own] for prompt, own in zip(PROMPTS, drawn, strict=True)]
        lesson = teach(groups, rng)
        if lesson.units:
            loop.learn(session, trainer, meter, lesson, rng, shape)
        rounds.append([one for group in groups for one in group])
    return rounds


def token_steps(prompt: Sequence[int], one: Sample, config: RLConfig, outcome: float, rated: Sequence[float]) -> Path:
    """A sample whose every token is a step, with these process rewards, weighed as `config` says at update 0.

    Samples that begin alike share nodes, as in a tree.
    """
    ends = list(range(len(one.tokens)))
    nodes = [hash(tuple(one.tokens[: end + 1])) for end in ends]
    plain = Path(prompt, one.tokens, ends, (), outcome, 0.0, True, one.log_probability, nodes)
    return credited(plain, rated, config, config.phi.weight(0))
