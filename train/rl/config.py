"""The settings of reinforcement learning."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Literal

from o1coder_jax.adapters import AdapterConfig
from o1coder_jax.errors import UserError
from o1coder_jax.policy_losses import ClipConfig
from o1coder_jax.rewards import PhiConfig, ProcessForm
from train.step import OptimizerConfig


def _constant(learning_rate: float) -> OptimizerConfig:
    return OptimizerConfig(learning_rate=learning_rate, warmup=0, schedule="constant")


@dataclass(frozen=True)
class LossConfig:
    """Variants of the policy gradient.

    Attributes:
      drop_equal: groups whose paths all earn the same are left out (GRPO); else they count in the mean, and the KL
        penalty acts on them.
      deviation: divide advantages by the deviation of their group's rewards (GRPO).
      length: `token` averages over the tokens of a batch; `sequence` over a path's tokens first, then over paths.
      cispo: clipped weights in place of the clipped objective, see `policy_losses.policy_gradient`.
    """

    drop_equal: bool = True
    deviation: bool = False
    length: Literal["token", "sequence"] = "token"
    cispo: bool = False


@dataclass(frozen=True)
class CriticConfig:
    """What predicts a path's return from its beginning.

    Attributes:
      weights: `own`, a decoder that starts as the policy after SFT (later, as the critic of the round before); or
        `policy`, a head on the policy's states, which are not trained by it. A head alone wants a higher learning rate.
      adapter: train an adapter on a frozen base, not all of its own weights.
      epochs: passes over a round's paths.
      clip: a prediction may move by so much in a round, see `policy_losses.value_error`.
      optimizer: see there.
    """

    weights: Literal["own", "policy"] = "own"
    adapter: AdapterConfig | None = None
    epochs: int = 2
    clip: float = 0.2
    optimizer: OptimizerConfig = field(default_factory=lambda: _constant(1e-3))

    def __post_init__(self) -> None:
        if self.epochs < 1:
            raise UserError(f"rl.ppo.critic.epochs is {self.epochs}; it must be at least 1")
        if self.clip <= 0:
            raise UserError(f"rl.ppo.critic.clip is {self.clip}; it must be positive")
        if self.adapter and self.adapter.dropout:
            raise UserError(
                f"rl.ppo.critic.adapter.dropout is {self.adapter.dropout}, but a critic is clipped around what it said "
                "without; leave it out"
            )
        if self.weights == "policy" and self.adapter:
            raise UserError(
                "rl.ppo.critic.weights is policy, a head alone; leave rl.ppo.critic.adapter out, or set it to own"
            )


@dataclass(frozen=True)
class PPOConfig:
    """Advantages by a critic.

    Attributes:
      over: what a decision is in generalised advantage estimation, a token or a step.
      discount, decay: per decision; `decay` is GAE's lambda.
      penalty: where the KL to the reference enters, with weight `rl.clip.kl`: in the loss, or in each token's reward
        as -kl * (log pi - log ref), so that the critic sees it.
      whiten: advantages of a round are brought to mean 0 and deviation 1.
      critic: see there.
    """

    over: Literal["tokens", "steps"] = "tokens"
    discount: float = 1.0
    decay: float = 0.95
    penalty: Literal["loss", "reward"] = "loss"
    whiten: bool = True
    critic: CriticConfig = field(default_factory=CriticConfig)

    def __post_init__(self) -> None:
        for name in ("discount", "decay"):
            if not 0 <= getattr(self, name) <= 1:
                raise UserError(f"rl.ppo.{name} is {getattr(self, name)}; it must lie in [0, 1]")


@dataclass(frozen=True)
class DPOConfig:
    """Iterative DPO. The reference of a round is the policy at its beginning.

    Attributes:
      pairs: `samples`, of a group of sampled paths the best against the worst by their rewards; `paths`, of the trees
        of this iteration's search a correct whole path against a wrong one of the same tree; `steps`, of these trees
        two siblings whose values differ. In the last two rewards (`rl.phi`), tests and the ledger have no part.
      margin: by which rewards (or values) differ at least; smaller differences are ties, and skipped.
      beta, sft_weight: as in `losses.dpo`.
    """

    pairs: Literal["samples", "paths", "steps"] = "samples"
    margin: float = 0.1
    beta: float = 0.1
    sft_weight: float = 0.1

    def __post_init__(self) -> None:
        if not 0 < self.margin <= 1:
            raise UserError(f"rl.dpo.margin is {self.margin}; it must lie in (0, 1]")
        if self.beta <= 0 or self.sft_weight < 0:
            raise UserError(f"rl.dpo: beta {self.beta} must be positive and sft_weight {self.sft_weight} not negative")


@dataclass(frozen=True)
class RLConfig:
    """Reinforcement learning.

    Attributes:
      algorithm: `grpo`, a group's mean as baseline; `ppo`, a critic; `dpo`, pairs.
      updates: rounds of sampling and learning per iteration.
      problems, samples: of a round: so many groups of so many paths.
      minibatch: paths of a gradient step (two make a pair); each path is used once per epoch.
      minibatches: of an epoch at least, while there is a path (of DPO a pair) for each. Groups of equal rewards are
        dropped, and fewer paths make fewer gradient steps; with as many as hold a whole round, each round makes as
        many. 0: as few as hold what is left. A critic's are as few in any case.
      epochs: passes over a round's paths.
      process: how a path's process rewards add to its reward: `phi` as in the paper, their discounted `sum`, or their
        `min`; see `rewards.step_credits`.
      advantages: `path`, a path's reward for all of its tokens; `steps`, from each step on what is earned there and
        later; `tree` (GRPO alone), groups are trees that the search grows with the policy as it is, with `samples`
        rollouts, and the advantage of a step is what it changes in the tree's values.
      mismatch: `truncated` takes the trainer's probabilities as those of the sampling policy and weighs each token by
        min(pi_trainer / pi_sampler, `mismatch_cap`); `none` takes the sampler's. How far they differ is measured always
        (in a tree, which does not keep its tokens' probabilities, over whole paths).
      phi, clip, loss, ppo, dpo, optimizer: see there.
    """

    algorithm: Literal["grpo", "ppo", "dpo"] = "grpo"
    updates: int = 6
    problems: int = 48
    samples: int = 8
    minibatch: int = 96
    minibatches: int = 0
    epochs: int = 1
    process: ProcessForm = "phi"
    advantages: Literal["path", "steps", "tree"] = "path"
    mismatch: Literal["none", "truncated"] = "none"
    mismatch_cap: float = 2.0
    phi: PhiConfig = field(default_factory=PhiConfig)
    clip: ClipConfig = field(default_factory=ClipConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    ppo: PPOConfig = field(default_factory=PPOConfig)
    dpo: DPOConfig = field(default_factory=DPOConfig)
    optimizer: OptimizerConfig = field(default_factory=lambda: _constant(1e-4))

    @property
    def from_trees(self) -> bool:
        """Whether it learns from paths of trees, not from sampled ones."""
        return self.advantages == "tree" or self.stored_pairs

    @property
    def stored_pairs(self) -> bool:
        """Whether it learns from the trees of the search alone, and samples nothing."""
        return self.algorithm == "dpo" and self.dpo.pairs != "samples"

    @property
    def loss_clip(self) -> ClipConfig:
        """The clip as the loss takes it: where the penalty is in the rewards it is not in the loss as well."""
        in_reward = self.algorithm == "ppo" and self.ppo.penalty == "reward"
        return replace(self.clip, kl=0.0) if in_reward else self.clip

    def __post_init__(self) -> None:
        for name in ("updates", "problems", "minibatch", "epochs"):
            if getattr(self, name) < 1:
                raise UserError(f"rl.{name} is {getattr(self, name)}; it must be at least 1")
        most, what = (self.problems, "pairs") if self.algorithm == "dpo" else (self.problems * self.samples, "paths")
        if not 0 <= self.minibatches <= most:
            raise UserError(
                f"rl.minibatches is {self.minibatches}, of a round of {most} {what}; it must lie between 0 and {most}"
            )
        if self.samples < 2:
            raise UserError(f"rl.samples is {self.samples}; a group needs 2 at least, its mean is the baseline")
        if self.mismatch_cap < 1:
            raise UserError(f"rl.mismatch_cap is {self.mismatch_cap}; it must be at least 1")
        self._check_together()

    def _check_together(self) -> None:
        if self.advantages == "tree" and self.algorithm != "grpo":
            raise UserError(f"rl.advantages is tree, which {self.algorithm} does not know; set rl.algorithm to grpo")
        if self.algorithm == "dpo" and (self.advantages != "path" or self.mismatch != "none"):
            raise UserError(
                f"rl.algorithm is dpo, which learns from pairs; leave rl.advantages {self.advantages} and rl.mismatch "
                f"{self.mismatch} out"
            )
        if self.algorithm == "dpo" and (self.loss != LossConfig() or self.clip != ClipConfig(kl=self.clip.kl)):
            raise UserError(
                "rl.algorithm is dpo, in whose loss rl.loss and rl.clip have no part; leave them out (rl.dpo.beta says "
                "how far it may go from the policy of a round)"
            )
        if self.algorithm == "dpo" and self.clip.kl not in (0.0, ClipConfig.kl):
            raise UserError(
                f"rl.algorithm is dpo, in whose loss rl.clip.kl {self.clip.kl} has no part; set rl.dpo.beta, or "
                "rl.clip.kl to 0"
            )
        for name in ("process", "samples"):
            value = getattr(self, name)
            if self.stored_pairs and value != getattr(RLConfig, name):
                raise UserError(
                    f"rl.dpo.pairs is {self.dpo.pairs}, of the search's own trees, in which rl.{name} {value} has no "
                    f"part; leave it out, or at {getattr(RLConfig, name)}"
                )
        if self.algorithm == "ppo" and (self.loss.deviation or not self.loss.drop_equal):
            raise UserError("rl.loss.deviation and rl.loss.drop_equal are of grpo; leave them out for ppo")
        if self.algorithm == "dpo" and self.minibatch % 2:
            raise UserError(f"rl.minibatch is {self.minibatch}; with rl.algorithm dpo it must be even, a pair is two")
        if self.advantages == "tree" and self.mismatch != "none":
            raise UserError(
                "rl.mismatch is truncated, but trees do not keep their tokens' probabilities; set it to none"
            )
        if self.advantages == "tree" and self.loss.deviation:
            raise UserError("rl.loss.deviation is true, but a tree's advantages are not divided by it; set it to false")
