"""The configuration of a run: one tree, each branch defined beside its consumer."""

from __future__ import annotations

import os
from dataclasses import dataclass, field

from o1coder_jax import config as configuration
from o1coder_jax.errors import UserError
from o1coder_jax.generate import GenerationConfig
from o1coder_jax.hosts import DistributedConfig
from o1coder_jax.mesh import MeshConfig
from o1coder_jax.problems import ProblemsConfig
from o1coder_jax.tokenizer import TokenizerConfig
from o1coder_jax.transformer import ModelConfig
from sandbox.pool import SandboxConfig
from search.config import SearchConfig
from train.bootstrap import BootstrapConfig
from train.evaluate import EvaluateConfig
from train.ledger import DrawingConfig
from train.policy import PolicyConfig
from train.pretrained import check_adapters, check_sections
from train.prm import PRMConfig
from train.relabel import LabelsConfig
from train.rivals.config import RivalsConfig
from train.rl import RLConfig
from train.sft import SFTConfig
from train.stopping import StoppingConfig
from train.tcg import TCGConfig


@dataclass(frozen=True)
class Config:
    """A run.

    Attributes:
      name: of the run folder inside `runs`.
      seed: draws everything: problems, teacher, weights, samples.
      iterations: rounds of the loop (search, SFT, PRM, RL, evaluation), unless `stopping` ends it before.
      checkpoint_every: updates between two checkpoints within a stage that fits to examples (bootstrap, TCG, SFT, PRM),
        from which it goes on when it is killed; 0: such a stage starts again from its beginning.
      The other fields belong to the part of the same name.
    """

    name: str = "run"
    runs: str = "runs"
    seed: int = 0
    iterations: int = 2
    checkpoint_every: int = 0
    problems: ProblemsConfig = field(default_factory=ProblemsConfig)
    tokenizer: TokenizerConfig = field(default_factory=TokenizerConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    mesh: MeshConfig = field(default_factory=MeshConfig)
    distributed: DistributedConfig = field(default_factory=DistributedConfig)
    sandbox: SandboxConfig = field(default_factory=SandboxConfig)
    generation: GenerationConfig = field(default_factory=GenerationConfig)
    policy: PolicyConfig = field(default_factory=PolicyConfig)
    bootstrap: BootstrapConfig = field(default_factory=BootstrapConfig)
    tcg: TCGConfig = field(default_factory=TCGConfig)
    drawing: DrawingConfig = field(default_factory=DrawingConfig)
    search: SearchConfig = field(default_factory=SearchConfig)
    labels: LabelsConfig = field(default_factory=LabelsConfig)
    sft: SFTConfig = field(default_factory=SFTConfig)
    prm: PRMConfig = field(default_factory=PRMConfig)
    rl: RLConfig = field(default_factory=RLConfig)
    evaluate: EvaluateConfig = field(default_factory=EvaluateConfig)
    stopping: StoppingConfig = field(default_factory=StoppingConfig)
    rivals: RivalsConfig = field(default_factory=RivalsConfig)

    def __post_init__(self) -> None:
        if self.name in ("", os.curdir, os.pardir) or os.sep in self.name:
            raise UserError(f"name is {self.name!r}; give the bare name of a folder inside {self.runs!r}")
        if self.iterations < 1:
            raise UserError(f"iterations is {self.iterations}; it must be at least 1")
        if self.checkpoint_every < 0:
            raise UserError(f"checkpoint_every is {self.checkpoint_every}; it must not be negative")
        if self.seed < 0:
            raise UserError(f"seed is {self.seed}; it must not be negative")
        check_sections(self)
        check_adapters(self)
        self.tcg.check_source(self.problems.source)
        self._check_drawing()

    def _check_drawing(self) -> None:
        """Trees that end early for another reason than that all is found are no evidence of so many rollouts."""
        if self.drawing.trees == "paths":
            return
        search = self.search.resolved()
        for name in ("stop_when_solved", "tree_tokens", "tree_executions"):
            if value := getattr(search, name):
                raise UserError(
                    f"drawing.trees is rollouts and search.{name} {value}: a tree that this ends has not found all "
                    "that there is; set drawing.trees to paths"
                )


def load_config(path: str | os.PathLike[str]) -> Config:
    """Builds the configuration from one YAML file."""
    return configuration.load(Config, path)
