"""What a run has made, to be read only: its settings, problems and models. The run may still be under way."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flax import nnx
from jax.sharding import Mesh

from o1coder_jax.errors import UserError
from o1coder_jax.mesh import make_mesh, prepare_cpu
from o1coder_jax.policy import Policy
from o1coder_jax.prm import RewardModel
from o1coder_jax.records import Problem, read_problems
from o1coder_jax.transformer import Transformer
from o1coder_jax.vocabulary import Vocabulary
from train.config import Config, load_config
from train.session import PARTS, load_tokenizer, restore_model, tokenizer_path


@dataclass(frozen=True)
class Trained:
    """A run folder that is looked into."""

    folder: Path
    config: Config
    tokenizer: Vocabulary
    mesh: Mesh

    @classmethod
    def open(cls, folder: Path) -> Trained:
        settings = _needed(folder, folder / "config.yaml")
        config = load_config(settings)
        vocabulary = _needed(folder, tokenizer_path(folder, config.tokenizer))
        prepare_cpu(config.mesh)
        return cls(folder, config, load_tokenizer(vocabulary), make_mesh(config.mesh))

    def policy(self, name: str) -> Policy:
        graph, weights, print_of = self._model(name, value_head=False)
        return Policy(graph, weights, self.tokenizer, print_of)

    def reward_model(self, name: str) -> RewardModel:
        return RewardModel(*self._model(name, value_head=True))

    def _model(self, name: str, *, value_head: bool) -> tuple[nnx.GraphDef[Transformer], Any, str]:
        model = Transformer(
            self.config.model, self.tokenizer.vocab_size, value_head=value_head, rngs=nnx.Rngs(self.config.seed)
        )
        return restore_model(self.folder / "checkpoints" / name, model, self.tokenizer, self.mesh)

    def problems(self, name: str) -> list[Problem]:
        """A part of the run's problems (`heldout`, ...), or those of a file in the format of the run's parts."""
        path = self.folder / "problems" / f"{name}.jsonl" if name in PARTS else Path(name)
        if not path.exists():
            raise UserError(f"there is no problem file {path}; give one of {', '.join(PARTS)}, or a file")
        return read_problems(path)


def _needed(folder: Path, path: Path) -> Path:
    if not path.exists():
        raise UserError(f"{folder} holds no trained run: it has no {path.name}; give one such as runs/tiny")
    return path
