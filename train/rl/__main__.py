"""python -m train.rl"""

from train.command import stage_command
from train.rl import loop

if __name__ == "__main__":
    stage_command(loop.run, "rl", loop.__doc__)
