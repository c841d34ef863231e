"""One of two programs, `INDEX PORT KIND`, of which the second comes to the end that KIND names."""

from __future__ import annotations

import os
import signal
import sys
import time

import jax

from o1coder_jax.errors import UserError, run_command
from o1coder_jax.hosts import DistributedConfig, barrier, gather, joined


def main(index: int, port: int, kind: str) -> None:
    jax.config.update("jax_num_cpu_devices", 1)
    with joined(DistributedConfig(f"127.0.0.1:{port}", 2, index)):
        print(gather("x" * (index + 1)), flush=True)
        if kind == "well":
            return
        if index == 0:
            if kind == "killed":
                gather("the other will never come")
            time.sleep(100)
        if kind == "killed":
            os.kill(os.getpid(), signal.SIGKILL)
        if kind == "pre-empted":
            os.kill(os.getpid(), signal.SIGTERM)
        if kind == "error":
            raise UserError("the disk of process 1 is full; free space")
        if kind == "unheard":
            os.close(2)
            raise UserError("nobody hears this")
        if kind == "defect":
            raise ZeroDivisionError("a defect")
        barrier("never met")


if __name__ == "__main__":
    run_command(lambda: main(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3]))
