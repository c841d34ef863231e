"""Loads policies and process reward models from checkpoints, outside of a run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from flax import nnx
from jax.sharding import Mesh

from o1coder_jax import checkpoint
from o1coder_jax.errors import UserError
from o1coder_jax.mesh import replicate
from o1coder_jax.policy import Policy
from o1coder_jax.prm import RewardModel
from o1coder_jax.prompts import Prompts
from o1coder_jax.transformer import ModelConfig, Transformer
from o1coder_jax.vocabulary import Vocabulary


def tokenizer_of(checkpoint_folder: Path) -> Path:
    """Where the tokenizer of a checkpoint RUN/checkpoints/NAME lies; `UserError` if there is no checkpoint."""
    checkpoint.metadata(checkpoint_folder)
    run = checkpoint_folder.absolute().parent.parent
    given = run / "tokenizer.json"  # of a run with `tokenizer.file` or `policy.checkpoint`
    return given if given.exists() else run / "tokenizer.model"


def load_policy(folder: Path, tokenizer: Vocabulary, mesh: Mesh) -> Policy:
    """The policy of a checkpoint RUN/checkpoints/NAME, its weights on every device, asked as its run asks it."""
    graph, weights, fingerprint = _load(folder, tokenizer, mesh, value_head=False)
    prompts = Prompts.load(folder.absolute().parent.parent / "prompts.json")
    return Policy(graph, weights, tokenizer, fingerprint, prompts.policy)


def load_reward_model(folder: Path, tokenizer: Vocabulary, mesh: Mesh) -> RewardModel:
    """The process reward model of a checkpoint, its weights on every device."""
    return RewardModel(*_load(folder, tokenizer, mesh, value_head=True))


def _load(folder: Path, tokenizer: Vocabulary, mesh: Mesh, *, value_head: bool) -> tuple[Any, Any, str]:
    facts = checkpoint.metadata(folder)
    if not {"model", "tokenizer", "fingerprint"} <= facts.keys():
        raise UserError(f"{folder} is no checkpoint of a policy or reward model; give RUN/checkpoints/NAME")
    if facts["tokenizer"] != tokenizer.fingerprint:
        raise UserError(f"{folder} was made with another tokenizer; give `tokenizer` the one of its run")
    try:
        config = ModelConfig.from_dict(facts["model"])
    except UserError as error:
        raise UserError(f"{folder}: {error}; use the version that wrote it") from error
    model = Transformer(config, tokenizer.vocab_size, value_head=value_head, rngs=nnx.Rngs(0))
    graph, weights = nnx.split(model)
    nnx.replace_by_pure_dict(weights, checkpoint.restore(folder, nnx.to_pure_dict(weights)))
    return graph, replicate(mesh, weights), facts["fingerprint"]
