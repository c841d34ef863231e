"""Loads policies, process reward models and value heads from checkpoints, outside of a run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jax.numpy as jnp
from flax import nnx
from jax.sharding import Mesh

from o1coder_jax import checkpoint
from o1coder_jax.errors import UserError
from o1coder_jax.mesh import replicate
from o1coder_jax.policy import Policy
from o1coder_jax.prm import RewardModel, ValueHead
from o1coder_jax.prompts import Prompts
from o1coder_jax.sampler import sampler_weights
from o1coder_jax.stored import Store
from o1coder_jax.vocabulary import Vocabulary


def tokenizer_of(checkpoint_folder: Path) -> Path:
    """Where the tokenizer of a checkpoint RUN/checkpoints/NAME lies; `UserError` if there is no checkpoint."""
    checkpoint.metadata(checkpoint_folder)
    run = checkpoint_folder.absolute().parent.parent
    given = run / "tokenizer.json"  # of a run with `tokenizer.file` or `policy.checkpoint`
    return given if given.exists() else run / "tokenizer.model"


def load_policy(folder: Path, tokenizer: Vocabulary, mesh: Mesh) -> Policy:
    """The policy of a checkpoint RUN/checkpoints/NAME, ready to sample, asked as its run asks it."""
    graph, weights, fingerprint = _load(folder, tokenizer, mesh, value_head=False)
    prompts = Prompts.load(folder.absolute().parent.parent / "prompts.json")
    return Policy(graph, weights, tokenizer, fingerprint, prompts.policy)


def load_reward_model(folder: Path, tokenizer: Vocabulary, mesh: Mesh) -> RewardModel:
    """The process reward model of a checkpoint, ready to sample."""
    return RewardModel(*_load(folder, tokenizer, mesh, value_head=True))


def load_head(folder: Path, policy: Policy, mesh: Mesh) -> Policy:
    """A policy with the value head of a checkpoint, which holds the head alone.

    Raises:
      UserError: the head was fitted on other weights.
    """
    facts = checkpoint.metadata(folder)
    width = nnx.merge(policy.graph, policy.weights).config.width
    weights = checkpoint.restore(folder, {"value": jnp.zeros(width), "value_bias": jnp.zeros(())})
    return ValueHead(replicate(mesh, weights), facts["fingerprint"], facts["head_of"]).on(policy)


def load_rater(folder: Path, policy: Policy, mesh: Mesh) -> tuple[Policy, RewardModel | None]:
    """What rates the steps of a policy: its own value head, or a reward model beside it, as the checkpoint has it."""
    if "head_of" in checkpoint.metadata(folder):
        return load_head(folder, policy, mesh), None
    return policy, load_reward_model(folder, policy.tokenizer, mesh)


def _load(folder: Path, tokenizer: Vocabulary, mesh: Mesh, *, value_head: bool) -> tuple[Any, Any, str]:
    whole = folder.absolute()
    if owner := checkpoint.metadata(folder).get("head_of"):
        raise UserError(f"{folder} is the value head of the policy {owner}, no model; give it as reward model")
    store = Store(whole.parent, tokenizer.vocab_size, tokenizer.fingerprint, mesh)
    model = store.load(whole.name, value_head=value_head)
    return *sampler_weights(model.graph, model.weights, mesh), model.fingerprint
