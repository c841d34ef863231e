"""The least time that a step can take on a chip, and what share of its peak that leaves to the model.

Compute, memory and links work at the same time, so the slowest of the three bounds the step (Williams, Waterman and
Patterson, 2009; the third term as in jax-ml.github.io/scaling-book/roofline). A real step takes longer.
"""

from __future__ import annotations

from dataclasses import dataclass

from train.plan.chips import Chip
from train.plan.hlo_costs import Costs


@dataclass(frozen=True)
class Roofline:
    """Seconds that one chip needs at least for its arithmetic, its memory traffic and what it sends."""

    compute: float
    memory: float
    links: float

    @classmethod
    def of(cls, costs: Costs, chip: Chip) -> Roofline:
        return cls(costs.flops / chip.flops, costs.bytes / chip.bandwidth, costs.sent / chip.links)

    @property
    def seconds(self) -> float:
        return max(self.compute, self.memory, self.links)

    @property
    def bound(self) -> str:
        """What takes longest."""
        return max(("compute", "memory", "links"), key=lambda name: float(getattr(self, name)))

    def mfu(self, model_flops: float, chips: int, chip: Chip) -> float:
        """Model FLOPs utilisation (arXiv 2204.02311, appendix B) if the step took no longer than its bound."""
        return model_flops / (chips * chip.flops * self.seconds) if self.seconds else 0.0
