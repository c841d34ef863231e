"""The generator's settings."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal

from o1coder_jax.adapters import AdapterConfig
from o1coder_jax.errors import UserError
from o1coder_jax.tcg import PLAIN, TRACED, Template
from train.data import BatchConfig
from train.step import OptimizerConfig


@dataclass(frozen=True)
class TCGConfig:
    """The generator's training and use.

    Attributes:
      reference: whether it reads a reference program beside the statement, one drawn at random where it learns, or
        writes from the question alone.
      template: text of one case, with the fields {input}, {output} and, for a trace, {trace} between them, and without
        the markers of steps; empty: the usual one with or without a trace.
      trace: what it writes before an output: `none`, or the value after each of the problem's `clauses`, which only the
        curriculum's problems have.
      split_values: in what it learns to write each letter and digit of a value is a token, whatever the vocabulary
        merges; meant for the embedded model.
      cases: test cases in one answer.
      input_weight: loss weight of an input's tokens in SFT, where all others have 1: what input comes next is mostly
        chance. With far less, as 0.1, inputs become short and more often trivial. Takes `split_values`.
      inputs: what it learns from: the problem's `own` tests, or `short` inputs that find the mistakes which the
        curriculum knows.
      further_problems: the curriculum's problems that it learns from beside the training part; no other part has one
        that computes the same.
      examples_per_problem: drawings of cases for a problem, each without replacement.
      prompt_tokens, answer_tokens: caps.
      sft_updates, dpo_updates: of the two phases; 0 leaves the second out, and no pairs are made for it.
      dpo_pairs: pairs in a DPO batch; `beta` and `dpo_sft_weight` as in `losses.dpo`.
      shuffled: pairs of right cases and the same ones with outputs (and traces) changed about; cases are skipped where
        no order is found that changes every output.
      corrected_problems: of so many problems the generator after SFT is asked, and its answers that hold a wrong output
        are rejected for the same inputs with right ones; 0: no such pairs.
      corrected_tokens: so many tokens of both, from the first that differs, make such a pair; 0: the whole answers.
      compared_problems: of so many problems the generator after SFT is asked several times, and its invalid tests are
        rejected for valid ones; 0: no such pairs.
      coevolution_problems: of so many problems the generator's tests meet wrong programs of the base policy: the valid
        tests that reject most of them are preferred to the others; 0: no such pairs.
      coevolve: before each round after the first, so many problems meet the policy as it is in the same way, and tests
        are written anew (`train/coevolve.py`); 0: the generator stays as step 1 made it.
      judged_problems: held-out problems that the measures are taken on.
      suite: generated tests of a problem, for the kill rate and for RL.
      spare_answers: that are asked for beyond those which hold so many, since only different tests count.
      wrong_samples: programs that the base policy writes for each judged problem; the wrong ones are to be rejected.
      given_inputs: inputs of a judged problem's own tests for which an output is asked.
      checkpoint: folder of a pretrained model to start from, with a tokenizer of its own; null: the base policy.
      adapter: train an adapter on the base policy, frozen, not all weights.
    """

    reference: Literal["with", "without"] = "with"
    template: str = ""
    trace: Literal["none", "clauses"] = "none"
    split_values: bool = False
    input_weight: float = 1.0
    cases: int = 3
    inputs: Literal["own", "short"] = "own"
    further_problems: int = 0
    examples_per_problem: int = 2
    prompt_tokens: int = 160
    answer_tokens: int = 128
    sft_updates: int = 300
    dpo_updates: int = 60
    dpo_pairs: int = 8
    beta: float = 0.1
    dpo_sft_weight: float = 0.2
    shuffled: bool = True
    corrected_problems: int = 0
    corrected_tokens: int = 0
    compared_problems: int = 0
    coevolution_problems: int = 0
    coevolve: int = 0
    judged_problems: int = 100
    suite: int = 8
    spare_answers: int = 0
    wrong_samples: int = 1
    given_inputs: int = 1
    batch: BatchConfig = field(default_factory=BatchConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    dpo_optimizer: OptimizerConfig = field(default_factory=lambda: OptimizerConfig(learning_rate=1e-4))
    checkpoint: str | None = None
    adapter: AdapterConfig | None = None

    def __post_init__(self) -> None:
        counts = "cases examples_per_problem prompt_tokens answer_tokens sft_updates dpo_pairs suite wrong_samples"
        for name in counts.split():
            if getattr(self, name) < 1:
                raise UserError(f"tcg.{name} is {getattr(self, name)}; it must be at least 1")
        for name in (
            "dpo_updates further_problems corrected_problems corrected_tokens compared_problems coevolution_problems "
            "coevolve judged_problems given_inputs spare_answers"
        ).split():
            if getattr(self, name) < 0:
                raise UserError(f"tcg.{name} is {getattr(self, name)}; it must not be negative")
        if self.beta <= 0:
            raise UserError(f"tcg.beta is {self.beta}; it must be positive, 0.1 is usual")
        if not 1e-6 <= self.input_weight <= 1e6:  # what float32 can weigh against the other tokens' 1
            raise UserError(f"tcg.input_weight is {self.input_weight}; it must lie in [1e-6, 1e6], 1 as all else")
        if self.input_weight != 1 and not self.split_values:
            raise UserError(
                f"tcg.input_weight is {self.input_weight}, but without tcg.split_values a token may hold the end of an "
                "input and what follows it; set tcg.split_values to true, or tcg.input_weight to 1"
            )
        if self.dpo_sft_weight < 0:
            raise UserError(f"tcg.dpo_sft_weight is {self.dpo_sft_weight}; it must not be negative")
        if self.coevolve and not self.dpo_updates:
            raise UserError(
                f"tcg.coevolve is {self.coevolve}, but tcg.dpo_updates is 0, so that nothing would be learned; set it "
                "above 0, or leave tcg.coevolve out"
            )
        if self.written.traced != (self.trace == "clauses"):
            has = "has no field {trace}" if self.trace == "clauses" else "has the field {trace}"
            raise UserError(f"tcg.template {has}, but tcg.trace is {self.trace}; change one of them")

    @cached_property
    def written(self) -> Template:
        """How a case is written."""
        if self.template:
            return Template(self.template)
        return TRACED if self.trace == "clauses" else PLAIN

    @property
    def answers(self) -> int:
        """So many answers are asked for a suite."""
        return -(-self.suite // self.cases) + self.spare_answers

    def check_source(self, source: str) -> None:
        """Raises a `UserError` for settings that only problems of the curriculum can serve."""
        needs = {
            "trace": self.trace == "clauses",
            "inputs": self.inputs == "short",
            "further_problems": self.further_problems,
        }
        for name, asked in needs.items():
            if asked and source != "curriculum":
                raise UserError(
                    f"tcg.{name} is {getattr(self, name)}, which takes problems of the curriculum, but "
                    f"problems.source is {source}; leave it out"
                )
