"""A small ablation to test with."""

from __future__ import annotations

from typing import Any

from tests.train.world import ROOT
from train.ablate.config import AblateConfig

CELLS: dict[str, dict[str, Any]] = {
    "loop": {"title": "the loop", "procedure": "loop", "start": "001-prm"},
    "rl": {"title": "RL", "procedure": "rl", "start": "001-prm", "settings": {"rl": {"updates": 1}}},
    "rejection": {"title": "sampling", "procedure": "rival", "start": "bootstrap", "equal_to": "loop"},
}
TINY = str(ROOT / "configs" / "tiny.yaml")


def ablation(cells: dict[str, Any] | None = None, **changes: Any) -> AblateConfig:
    return AblateConfig(base=TINY, cells=cells or CELLS, **changes)
