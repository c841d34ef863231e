"""What a run has made, to be read only: its settings, problems and models. The run may still be under way."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from jax.sharding import Mesh

from o1coder_jax.errors import UserError
from o1coder_jax.mesh import make_mesh, prepare_cpu
from o1coder_jax.policy import Policy
from o1coder_jax.prm import RewardModel
from o1coder_jax.records import Problem, read_problems
from o1coder_jax.vocabulary import Vocabulary
from search.models import load_policy, load_rater
from train.config import Config, load_config
from train.session import GENERATOR_TOKENIZER, PARTS, load_tokenizer, tokenizer_path


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
        vocabulary = _needed(folder, tokenizer_path(folder, config))
        prepare_cpu(config.mesh)
        return cls(folder, config, load_tokenizer(vocabulary), make_mesh(config.mesh))

    def policy(self, name: str) -> Policy:
        return load_policy(self._checkpoint(name), self.tokenizer, self.mesh)

    def rater(self, name: str, policy: Policy) -> tuple[Policy, RewardModel | None]:
        """The policy with its own value head, or a reward model beside it, as the checkpoint has it."""
        return load_rater(self._checkpoint(name), policy, self.mesh)

    def generator(self, name: str) -> Policy:
        """A test case generator, with the vocabulary of its own checkpoint if it has one."""
        path = self.folder / GENERATOR_TOKENIZER
        vocabulary = load_tokenizer(path) if self.config.tcg.checkpoint else self.tokenizer
        return load_policy(self._checkpoint(name), vocabulary, self.mesh)

    def _checkpoint(self, name: str) -> Path:
        return self.folder / "checkpoints" / name

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
