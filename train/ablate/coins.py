"""A judge that tosses coins: what is left of learning when the reward tells nothing."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from concurrent.futures import Future

from o1coder_jax.records import Judgement, Verdict, content_hash
from sandbox.pool import Submission
from train.judging import Judging
from train.session import Session

FACES = 1_000_000


class Coins(Judging):
    """Verdicts that depend on the text of a program and on nothing that it does; the same program, the same verdict.

    Args:
      share: of programs that pass.
      seed: other coins.
    """

    def __init__(self, judging: Judging, share: float, seed: int):
        super().__init__(judging.config, judging.hosts, lambda pool: None)
        self._share, self._seed = share, seed

    def _submit(self, submission: Submission) -> Future[Judgement]:
        tossed = int(content_hash(self._seed, submission.id, submission.code), 16) % FACES
        passes, count = tossed < self._share * FACES, len(submission.tests)
        verdict = Verdict.ACCEPTED if passes else Verdict.WRONG_ANSWER
        future: Future[Judgement] = Future()
        future.set_result(Judgement(verdict, compiled=True, passed=count if passes else 0, total=count))
        return future


@contextlib.contextmanager
def judged_by_coins(session: Session, share: float) -> Iterator[None]:
    """Lets coins judge in place of the session's sandbox for a while."""
    sandbox = session.judging
    session.judging = Coins(sandbox, share, session.config.seed)
    try:
        yield
    finally:
        session.judging.close()
        session.judging = sandbox
