"""Verdicts of programs that come again: a bounded cache that also joins equal submissions that are under way."""

from __future__ import annotations

import collections
import concurrent.futures
import threading

from o1coder_jax.records import Judgement, Verdict

_Future = concurrent.futures.Future[Judgement]


class Cache:
    """Least recently used entries go first. Our own failures are never kept."""

    def __init__(self, entries: int):
        self._entries = entries
        self._lock = threading.Lock()
        self._known: collections.OrderedDict[bytes, Judgement] = collections.OrderedDict()
        self._waiting: dict[bytes, list[_Future]] = {}

    def answer(self, key: bytes, future: _Future) -> bool:
        """Answers now, or together with an equal submission under way; False when it has to be run."""
        with self._lock:
            known = self._known.get(key)
            if known is None:
                if key not in self._waiting:
                    return False
                self._waiting[key].append(future)
                return True
            self._known.move_to_end(key)
        future.set_result(known)
        return True

    def expect(self, key: bytes, future: _Future) -> None:
        """Registers a submission that is about to be run."""
        with self._lock:
            self._waiting.setdefault(key, []).append(future)

    def store(self, key: bytes, outcome: Judgement | Exception) -> None:
        """Answers all that wait for `key`."""
        with self._lock:
            futures = self._waiting.pop(key, [])
            if isinstance(outcome, Judgement) and outcome.verdict is not Verdict.INFRA_ERROR and self._entries:
                self._known[key] = outcome
                while len(self._known) > self._entries:
                    self._known.popitem(last=False)
        for future in futures:
            if isinstance(outcome, Exception):
                future.set_exception(outcome)
            else:
                future.set_result(outcome)
