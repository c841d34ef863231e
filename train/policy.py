"""The policy's settings, which several stages share."""

from __future__ import annotations

from dataclasses import dataclass

from o1coder_jax.adapters import AdapterConfig


@dataclass(frozen=True)
class PolicyConfig:
    """The policy.

    Attributes:
      adapter: fine-tuning and RL train an adapter on the base policy, the same one round after round; null: all
        weights.
    """

    adapter: AdapterConfig | None = None
