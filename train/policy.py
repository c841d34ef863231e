"""The policy's settings, which several stages share."""

from __future__ import annotations

from dataclasses import dataclass

from o1coder_jax.adapters import AdapterConfig


@dataclass(frozen=True)
class PolicyConfig:
    """The policy.

    Attributes:
      checkpoint: folder of a pretrained model, which takes the place of the bootstrap; null: the bootstrap trains one.
      prompt: prompt file for pretrained models (see o1coder_jax/prompts.py); null: configs/prompts/steps.yaml.
      adapter: fine-tuning and RL train an adapter on the base policy, the same one round after round; null: all
        weights.
    """

    checkpoint: str | None = None
    prompt: str | None = None
    adapter: AdapterConfig | None = None
