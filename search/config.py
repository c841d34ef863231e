"""The settings of a search."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass, field
from typing import Literal

from o1coder_jax.errors import UserError
from o1coder_jax.sampling import SamplingConfig
from search.forest import nodes_needed
from search.rollouts import Rules
from search.selection import SelectionConfig
from search.widening import Widening

Preset = Literal["own", "paper", "o1coder", "puct", "gumbel", "boltzmann"]
EXPANSIONS = 16  # of a node by the boltzmann rule, where nothing else is said
MOST_EXPANSIONS = 1000  # a node has places for the children of all


@dataclass(frozen=True)
class BaselineConfig:
    """What a search is compared with; see `search/baselines.py`.

    Attributes:
      kind: `best_of_n` draws whole paths one by one, `beam` keeps the best `beams` steps of each level; `none` is MCTS.
      beams: of a step-level beam.
      ranking: which path comes first, and which steps a beam keeps: `drawn` is the order of drawing (for a beam, of
        one path alone: a random choice), `likelihood` the mean log-probability of a path's tokens, `prm_last` and
        `prm_min` the process reward model's opinion of a path's last, or of its worst step.
    """

    kind: Literal["none", "best_of_n", "beam"] = "none"
    beams: int = 4
    ranking: Literal["drawn", "likelihood", "prm_last", "prm_min"] = "drawn"

    def __post_init__(self) -> None:
        if self.beams < 1:
            raise UserError(f"search.baseline.beams is {self.beams}; it must be at least 1")
        if self.kind == "beam" and self.ranking == "drawn" and self.beams > 1:
            raise UserError(
                f"search.baseline.ranking is drawn, by which no beam of {self.beams} can choose; use likelihood, "
                "prm_last or prm_min, or set search.baseline.beams to 1"
            )

    @property
    def rated(self) -> bool:
        """Whether it asks a process reward model."""
        return self.kind != "none" and self.ranking.startswith("prm")


@dataclass(frozen=True)
class SearchConfig:
    """Batched MCTS, and its baselines.

    Attributes:
      preset: a named algorithm, which then decides on `selection`, `alpha`, `best_code_only`, `double_headers`, for
        `paper` and `o1coder` on `value_weight`, and for the latter on `merge_identical`, `window` and
        `sampling.repetition_penalty`; see `resolved`. `own` takes them as they are.
      trees: places for trees that grow at the same time.
      slots: rows that decode at the same time; a row that has ended its step makes room for another of any tree.
      rollouts: per tree; a tree whose every path is known ends earlier. Of a baseline: the paths that it grows.
      depth: steps on a path at most; a path without code there gets reward 0.
      samples: candidates per expansion.
      expansions: times that a node may be expanded; more than one is progressive widening.
      widening: c: a node that N rollouts passed is expanded again when that was done fewer than 1 + c sqrt(N) times;
        one below which all is known, in any case.
      window: W: rollout r of a tree sees the verdicts of its rollouts up to r - W. 1 is the sequential algorithm;
        more keeps a tree busy while programs run, with a virtual loss on what is not judged yet. Best-of-n draws so
        many paths at a time.
      value_weight: weight of the process reward model in the worth of a leaf, against a rollout's verdict; 0 needs
        no such model, 1 simulates nothing.
      stop_when_solved: a tree ends with its first accepted program.
      tree_tokens, tree_executions: a tree starts no rollout beyond so many generated tokens, or programs run; 0 is
        no bound.
      alpha: weight of compiling in the terminal reward.
      merge_identical: candidates with the same tokens become one child.
      best_code_only: if a candidate is code, the best of these becomes the only child (the published code's way).
      double_headers: the header of a step is given to the model, which writes it again (the published code's way).
        It counts against the caps of a step, takes decode steps, and is no part of its text, nor of records.
      wave_steps: decode steps of a wave.
      prompt_tokens: longer statements are cut, and counted; a prompt file's examples come on top.
      step_tokens: cap of a define or refine step; `code_tokens`: of a code step. A step that reaches its cap is
        closed as truncated.
      page_tokens: tokens in a KV page.
      pages: in the pool of all trees together; 0 is enough for all. With fewer, cold ones are dropped, and computed
        again when they are needed.
      paging: False keeps no pages: every expansion reads its whole path. The trees are the same; for comparison.
      selection, sampling, baseline: see there.
    """

    preset: Preset = "own"
    trees: int = 64
    slots: int = 64
    rollouts: int = 8
    depth: int = 7
    samples: int = 3
    expansions: int = 1
    widening: float = 0.0
    window: int = 1
    value_weight: float = 0.0
    stop_when_solved: bool = False
    tree_tokens: int = 0
    tree_executions: int = 0
    alpha: float = 0.1
    merge_identical: bool = True
    best_code_only: bool = False
    double_headers: bool = False
    wave_steps: int = 4
    prompt_tokens: int = 96
    step_tokens: int = 24
    code_tokens: int = 96
    page_tokens: int = 8
    pages: int = 0
    paging: bool = True
    selection: SelectionConfig = field(default_factory=SelectionConfig)
    sampling: SamplingConfig = field(default_factory=SamplingConfig)
    baseline: BaselineConfig = field(default_factory=BaselineConfig)

    def __post_init__(self) -> None:
        tokens = ("prompt_tokens", "step_tokens", "page_tokens")
        for name in ("trees", "slots", "rollouts", "depth", "samples", "expansions", "window", "wave_steps", *tokens):
            if getattr(self, name) < 1:
                raise UserError(f"search.{name} is {getattr(self, name)}; it must be at least 1")
        for name in ("tree_tokens", "tree_executions", "pages"):
            if getattr(self, name) < 0:
                raise UserError(f"search.{name} is {getattr(self, name)}; it must not be negative (0: no bound)")
        if self.code_tokens < self.step_tokens:
            raise UserError(
                f"search.code_tokens {self.code_tokens} is less than search.step_tokens {self.step_tokens}: "
                "code steps are the long ones"
            )
        for name in ("alpha", "value_weight"):
            if not 0 <= getattr(self, name) <= 1:
                raise UserError(f"search.{name} is {getattr(self, name)}; it must lie in [0, 1]")

        if self.expansions > MOST_EXPANSIONS:
            raise UserError(f"search.expansions is {self.expansions}; it must be at most {MOST_EXPANSIONS}")
        if not 0 <= self.widening < math.inf:
            raise UserError(f"search.widening is {self.widening}; it must be a number of at least 0")
        if self.widening and self.expansions == 1:
            raise UserError(
                f"search.widening is {self.widening}, but search.expansions 1 allows none; raise that, or set it to 0"
            )
        if self.expansions > 1 and self.preset == "own":
            self._check_widening()
        boltzmann = "boltzmann" in (self.preset, self.selection.rule if self.preset == "own" else "")
        if boltzmann and self.baseline.kind == "none":
            self._check_boltzmann()

    def _check_widening(self) -> None:
        if self.selection.rule == "gumbel" or self.selection.reselect:
            raise UserError(
                f"search.expansions is {self.expansions}, but selection.rule gumbel and selection.reselect know no "
                "children that come later; set it to 1"
            )

    def _check_boltzmann(self) -> None:
        if not self.merge_identical:
            raise UserError(
                "search.merge_identical is false, but the boltzmann rule draws without replacement; set it to true"
            )
        if self.widening:
            raise UserError(
                f"search.widening is {self.widening}, but the boltzmann rule chooses itself when to draw; set it to 0"
            )
        if not self.sampling.temperature:
            raise UserError(
                "search.sampling.temperature is 0, so that the boltzmann rule draws one path for ever; set it to 1"
            )

    def resolved(self) -> SearchConfig:
        """The settings with those of the preset in their places.

        paper    UCT with the exploration of arXiv 2412.00154 and its random simulation; what is exhausted is closed
        o1coder  the published code: no weight on compiling, judged terminals are reached again, of sibling programs
                 the best alone is kept, a terminal's own value is its reward over its visits; doubled step headers
                 and a repetition penalty of 1.1
        puct     a prior from the steps' log-probabilities; values from the process reward model with `value_weight`
        gumbel   sequential halving at the root, with the same prior and values
        boltzmann  one candidate at a time, without replacement, weighed by rewards; values as for puct

        `own`, `puct` and `boltzmann` alone widen. A baseline has none of these; best-of-n draws one candidate a step.
        """
        once = dataclasses.replace(self, expansions=1, widening=0.0)
        if self.baseline.kind == "best_of_n":
            return dataclasses.replace(once, preset="own", value_weight=0.0, samples=1)
        if self.baseline.kind == "beam":
            return dataclasses.replace(once, preset="own", value_weight=0.0)
        if self.preset == "own":
            return self
        widens = self if self.preset in ("puct", "boltzmann") else once
        plain = dataclasses.replace(widens, preset="own", alpha=0.1, best_code_only=False, double_headers=False)
        if self.preset == "paper":
            return dataclasses.replace(plain, selection=SelectionConfig(), value_weight=0.0)
        if self.preset == "o1coder":
            return dataclasses.replace(
                plain,
                alpha=0.0,
                value_weight=0.0,
                best_code_only=True,
                double_headers=True,
                selection=SelectionConfig(reselect=True),
                merge_identical=False,
                window=1,
                sampling=dataclasses.replace(self.sampling, repetition_penalty=1.1),
            )
        if self.preset == "boltzmann":
            expansions = self.expansions if self.expansions > 1 else EXPANSIONS
            selection = dataclasses.replace(self.selection, rule="boltzmann", reselect=False)
            return dataclasses.replace(plain, selection=selection, samples=1, expansions=expansions)
        return dataclasses.replace(plain, selection=SelectionConfig(rule=self.preset, exploration=1.25))

    @property
    def draws_on(self) -> bool:
        """Whether walks choose between a node's children and a fresh draw; of resolved settings."""
        return self.selection.rule == "boltzmann"

    @property
    def rules(self) -> Rules:
        widening = Widening(self.expansions, self.widening)
        return Rules(self.rollouts, self.window, self.value_weight, self.selection, widening)

    @property
    def together(self) -> int:
        """Paths that a baseline grows at a time."""
        return self.baseline.beams if self.baseline.kind == "beam" else min(self.window, self.rollouts)

    @property
    def nodes(self) -> int:
        """Nodes of a tree that may hold pages: all of MCTS, those of the paths that grow together of a baseline."""
        rollouts = self.rollouts if self.baseline.kind == "none" else self.together
        return nodes_needed(rollouts=rollouts, depth=self.depth, width=self.samples)

    @property
    def prompt_pages(self) -> int:
        return -(-self.prompt_tokens // self.page_tokens)

    @property
    def step_pages(self) -> int:
        return -(-self.step_tokens // self.page_tokens)

    @property
    def path_pages(self) -> int:
        """Pages of the longest path; one more than the parts need, for a prefix that all prompts share."""
        return self.prompt_pages + 1 + (self.depth - 1) * self.step_pages
