"""The stage as a command."""

from train import tcg
from train.command import stage_command
from train.tcg.stage import run

if __name__ == "__main__":
    stage_command(run, "tcg", tcg.__doc__)
