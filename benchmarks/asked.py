"""A process that answers one line with one line, and does not run while it is not asked."""

from __future__ import annotations

import atexit
import os
import signal
import subprocess
from collections.abc import Mapping, Sequence

from o1coder_jax.errors import UserError


class Asked:
    """The other side of a comparison. Between two questions it is stopped.

    Left alone, the threads of torch with `OMP_WAIT_POLICY=active` would spin on the cores that are given to the side
    whose turn it is.

    Args:
      command, variables: how it is started; the variables are added to the environment.
      needs: what to say when it ends before its answer.

    Attributes:
      first: the line that it begins with.
    """

    def __init__(self, command: Sequence[str], variables: Mapping[str, str], *, needs: str = ""):
        self._ended = f"{command[0]} ended before its answer (its error stands above){'; it ' if needs else ''}{needs}"
        pipe = subprocess.PIPE
        self._process = subprocess.Popen(
            command, stdin=pipe, stdout=pipe, text=True, bufsize=1, env={**os.environ, **variables}
        )
        atexit.register(self._process.kill)  # stopped, it would not see that its questions have ended
        self.first = self._read()
        self._process.send_signal(signal.SIGSTOP)

    def _read(self) -> str:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise UserError(self._ended)
        return line.strip()

    def ask(self, line: str) -> str:
        """The answer."""
        assert self._process.stdin is not None
        self._process.send_signal(signal.SIGCONT)
        self._process.stdin.write(line + "\n")
        answer = self._read()
        self._process.send_signal(signal.SIGSTOP)
        return answer

    def close(self) -> None:
        """Lets it end."""
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.close()
        self._process.send_signal(signal.SIGCONT)
        self._process.wait()
        self._process.stdout.close()
        atexit.unregister(self._process.kill)
