"""Workers, zygotes, runners and programs are killed at random while thousands of programs are judged."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import threading
from collections.abc import Callable
from concurrent.futures import Future

from o1coder_jax.records import Judgement, TestCase
from sandbox.pool import Pool, SandboxConfig, Submission
from sandbox.processes import descendants

JUDGEMENTS = 5000
PAUSE_SECONDS = (0.05, 0.1)
PROGRESS = 25
STOPPED_SHARE, STOPPED_SECONDS = 0.05, 0.5
# Programs of both forms; the first and the third are right for each of their tests.
SCRIPTS = ("print(int(input()) + {n})", "print(int(input()) - {n})")
FUNCTIONS = ("def f(x): return x + {n}", "def f(x): return x - {n}")


def program(n: int) -> tuple[Submission, str]:
    """The n-th program, unlike all others, and its verdict."""
    right, call_form = n % 3 != 0, n % 2 == 0
    code = (FUNCTIONS if call_form else SCRIPTS)[not right].format(n=n + 1)
    pairs = [(x, x + n + 1) for x in range(2)]
    tests = tuple(TestCase([x], y) if call_form else TestCase(str(x), str(y)) for x, y in pairs)
    return Submission(str(n), code, tests, "f" if call_form else None), "accepted" if right else "wrong_answer"


class Chaos:
    """A thread that hurts one of the processes below this one from time to time.

    It waits for some progress each time, so that a slow machine does not get more of it for each program.
    """

    def __init__(self, done: Callable[[], int], seed: int):
        self._done, self._random = done, random.Random(seed)
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self.kills = 0

    def __enter__(self) -> Chaos:
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._over.set()
        self._thread.join()

    def _run(self) -> None:
        seen = 0
        while not self._over.wait(self._random.uniform(*PAUSE_SECONDS)):
            if self._done() < seen + PROGRESS:
                continue
            seen = self._done()
            with contextlib.suppress(ProcessLookupError, IndexError):
                self._hurt(self._random.choice(sorted(descendants(os.getpid()))))

    def _hurt(self, victim: int) -> None:
        if self._random.random() >= STOPPED_SHARE:
            os.kill(victim, signal.SIGKILL)
            self.kills += 1
            return
        os.kill(victim, signal.SIGSTOP)
        self._over.wait(STOPPED_SECONDS)
        os.kill(victim, signal.SIGCONT)


def test_no_verdict_is_lost_or_wrong_when_processes_are_killed() -> None:
    cases = [program(n) for n in range(JUDGEMENTS)]
    with Pool(SandboxConfig(workers=2)) as pool:
        futures: list[Future[Judgement]] = []
        with Chaos(lambda: sum(future.done() for future in futures), seed=1) as chaos:
            for submission, _ in cases:
                futures.append(pool.submit(submission))
            judgements = [future.result() for future in futures]
        still_there = len(pool.processes())
    wrong = [
        f"{submission.id}: {judgement.verdict}, {judgement.tests[:1]}"
        for (submission, verdict), judgement in zip(cases, judgements, strict=True)
        if judgement.verdict != verdict
    ]
    assert not wrong, f"{len(wrong)} after {chaos.kills} kills: {wrong[:5]}"
    assert still_there == 2
    assert chaos.kills > 50
