"""What a search costs, counted on the way."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass
class Counters:
    """What a search cost and did.

    Attributes:
      tokens: generated; `kept` of them became nodes.
      places: decode steps times rows, and rows that were started: what was paid for.
      fed: tokens that the policy computed, and `rated` the process reward model; `reread` were computed before.
      waves: of decoding; `idle`: times that there was nothing to decode, because every tree awaited a verdict, and
        `idle_seconds` that this took in all.
      executions, infra_errors: programs that were run, and those of them that could not be checked.
    """

    tokens: int = 0
    kept: int = 0
    places: int = 0
    fed: int = 0
    rated: int = 0
    reread: int = 0
    waves: int = 0
    idle: int = 0
    idle_seconds: float = 0.0
    executions: int = 0
    infra_errors: int = 0
