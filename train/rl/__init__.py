"""Step 5: reinforcement learning, see `train/rl/loop.py`."""

from train.rl.config import RLConfig as RLConfig
from train.rl.loop import run as run
