"""Step 1: the test case generator.

    python -m train.tcg --config configs/tiny.yaml

SFT on the template, then DPO with shuffled outputs as the rejected answer (arXiv 2412.00154, section 3.1); by
configuration also with the generator's own mistakes, and with tests that miss wrong programs. The generator starts from
the base model, or from `tcg.checkpoint`, and has weights of its own. `measures.py` says how good it is after each
phase. At the end it writes the tests that RL will use: its inputs, with the outputs of the reference program.
"""

from train.tcg.answers import reward_tests
from train.tcg.config import TCGConfig
from train.tcg.stage import run

__all__ = ["TCGConfig", "reward_tests", "run"]
