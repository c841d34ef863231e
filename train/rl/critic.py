"""PPO's critic: what predicts a path's return. It goes on from round to round as the checkpoint `critic-NNN`."""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from o1coder_jax import checkpoint
from o1coder_jax.mesh import shard_parameters
from o1coder_jax.policy import Policy
from o1coder_jax.policy_losses import state_values, value_error
from o1coder_jax.prm import fresh_head
from o1coder_jax.stored import Model
from train.data import Example
from train.rl.lessons import Shape, minibatches, per_token
from train.session import Session
from train.step import Objective, Trainer

Weights = Callable[[], tuple[Any, Any]]
"""The policy as it is: graph and weights."""


class Critic:
    """A decoder of its own, or a head on the policy's states, in training.

    Args:
      iteration: which round of the loop; the critic of the one before is taken up.
      policy: whose states a head reads.
    """

    def __init__(self, session: Session, iteration: int, policy: Weights):
        self._session, self._policy = session, policy
        config = session.config.rl
        self._config, settings = config, config.ppo.critic
        self._start: Model | None = None
        if settings.weights == "own":
            start = _own(session, iteration)
            graph, weights = start.graph, start.weights
            self._start = dataclasses.replace(start, weights=None)  # what its checkpoint has to tell
        else:
            graph, weights = _head(session, iteration, policy)
        steps = config.updates * settings.epochs * -(-config.problems * config.samples // config.minibatch)
        self._trainer = Trainer(
            graph,
            weights,
            Objective.of(value_error, clip=settings.clip),
            settings.optimizer,
            session.mesh,
            updates=steps,
            seed=session.config.seed + iteration,
            dropout=False,  # it is clipped around what it said without
        )
        self._rng = random.Random(f"{session.config.seed} critic {iteration}")
        self._shape = Shape(config.minibatch, self._trainer.row_parts)

    def values(self, examples: Sequence[Example]) -> list[np.ndarray]:
        """V before every token of each example."""
        self._follow()
        trainer, rows = self._trainer, self._config.minibatch
        return per_token(state_values, trainer.graph, trainer.weights, examples, self._session.mesh, rows=rows)

    def learn(self, examples: Sequence[Example]) -> dict[str, float]:
        """Fits V to the returns at the decisions of a round.

        Returns:
          Means over the updates: `critic_loss`, `critic_error` (squared), `critic_value`, `critic_clip_share`; and
          `critic_explained`, the share of the returns' variance that V explained before.
        """
        self._follow()
        units = [
            [{"tokens": one["tokens"], "weight": one["decides"], "value": one["value"], "returns": one["returns"]}]
            for one in examples
        ]
        epochs, own = self._config.ppo.critic.epochs, self._session.own_slice
        batches = minibatches(units, self._shape, self._rng, epochs=epochs, own=own)
        learned = jax.device_get([self._trainer.step(batch) for batch in batches])
        means = {f"critic_{name}": float(np.mean([one[name] for one in learned])) for name in learned[0]}
        at = [one["decides"] > 0 for one in examples]
        value, goal = (
            np.concatenate([one[name][here] for one, here in zip(examples, at, strict=True)])
            for name in ("value", "returns")
        )
        return means | {"critic_explained": float(1 - np.var(goal - value) / max(np.var(goal), 1e-12))}

    def save(self, name: str) -> str:
        """Writes the checkpoint; returns its fingerprint."""
        if self._start is not None:
            return self._session.save_model(name, self._trainer.weights, self._start)
        return self._session.save_model(name, self._trainer.state.weights, critic_of="policy")

    def _follow(self) -> None:
        """A head reads the policy as it is now."""
        if self._start is None:
            _, weights = _on(self._session, self._policy)
            self._trainer.frozen = nnx.split_state(weights, nnx.Param, ...)[1]


def _own(session: Session, iteration: int) -> Model:
    before = f"critic-{iteration - 1:03d}"
    if iteration > 1:
        return session.store_of(before).load(before, value_head=True)
    start = session.trainable(f"sft-{iteration:03d}", session.config.rl.ppo.critic.adapter, role="critic")
    return start.with_head(session.mesh)


def _on(session: Session, policy: Weights) -> tuple[Any, Any]:
    return fresh_head(Policy(*policy(), session.tokenizer, ""))


def _head(session: Session, iteration: int, policy: Weights) -> tuple[Any, Any]:
    graph, weights = _on(session, policy)
    if iteration == 1:
        return graph, weights
    model = nnx.merge(graph, weights)
    like = {name: jnp.zeros_like(getattr(model, name)[...]) for name in ("value", "value_bias")}
    found = checkpoint.restore(session.run.checkpoint(f"critic-{iteration - 1:03d}"), like)
    for name, value in shard_parameters(session.mesh, found).items():
        setattr(model, name, nnx.Param(value))
    return nnx.split(model)
