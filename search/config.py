"""The settings of a search."""

from __future__ import annotations

from dataclasses import dataclass, field

from o1coder_jax.errors import UserError
from o1coder_jax.sampling import SamplingConfig
from search.selection import SelectionConfig


@dataclass(frozen=True)
class SearchConfig:
    """Batched MCTS.

    Attributes:
      trees: places for trees that grow at the same time.
      rollouts: per tree; a tree whose every path is known ends earlier.
      depth: steps on a path at most; a path without code there gets reward 0.
      samples: candidates per expansion (K).
      alpha: weight of compiling in the terminal reward.
      merge_identical: candidates with the same tokens become one child.
      wave_steps: decode steps of a wave.
      prompt_tokens: longer statements are cut, and counted.
      step_tokens: cap of a define or refine step; `code_tokens`: of a code step. A step that reaches its cap is
        closed as truncated.
      page_tokens: tokens in a KV page.
      selection, sampling: see there.
    """

    trees: int = 64
    rollouts: int = 8
    depth: int = 7
    samples: int = 3
    alpha: float = 0.1
    merge_identical: bool = True
    wave_steps: int = 12
    prompt_tokens: int = 96
    step_tokens: int = 24
    code_tokens: int = 96
    page_tokens: int = 8
    selection: SelectionConfig = field(default_factory=SelectionConfig)
    sampling: SamplingConfig = field(default_factory=SamplingConfig)

    def __post_init__(self) -> None:
        tokens = ("prompt_tokens", "step_tokens", "page_tokens")
        for name in ("trees", "rollouts", "depth", "samples", "wave_steps", *tokens):
            if getattr(self, name) < 1:
                raise UserError(f"search.{name} is {getattr(self, name)}; it must be at least 1")
        if self.code_tokens < self.step_tokens:
            raise UserError(
                f"search.code_tokens {self.code_tokens} is less than search.step_tokens {self.step_tokens}: "
                "code steps are the long ones"
            )
        if not 0 <= self.alpha <= 1:
            raise UserError(f"search.alpha is {self.alpha}; it must lie in [0, 1]")

    @property
    def prompt_pages(self) -> int:
        return -(-self.prompt_tokens // self.page_tokens)

    @property
    def step_pages(self) -> int:
        return -(-self.step_tokens // self.page_tokens)
