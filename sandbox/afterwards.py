"""Judging once a program has ended: its outputs are gathered first and compared then, by a checker where one is given.

A checker is a program, too: it runs as the call form does, in processes of its own, so neither sees the other.
"""

from __future__ import annotations

import dataclasses
import operator
from collections.abc import Sequence
from typing import Any

from sandbox import compare
from sandbox.host import Zygote
from sandbox.session import ACCEPTED, FAILED, WRONG, Row, Session, Work

_ENTRY_POINT = "check"
_INFRA = "infra_error"


class Afterwards:
    """Runs one `Work` on a zygote that is idle; `matches` is None where the work's checker decides."""

    def __init__(self, zygote: Zygote, work: Work, expected: list[Any], matches: compare.Matcher | None):
        self._zygote, self._work, self._expected, self._matches = zygote, work, expected, matches
        self._rows: list[Row] = []
        self._values: list[Any] = []
        self._ended: set[int] = set()  # the tests that ran to their end

    def run(self) -> tuple[Any, ...]:
        """As `Session.run`, but a value is a list that holds it, None for a test that did not run to its end."""
        total = len(self._work.inputs)
        _, compiled, _, _, self._rows, self._values, executed = self._outputs(range(total))
        if compiled:
            self._ended = {index for index, row in enumerate(self._rows) if row[0] == ACCEPTED}
            self._judge(sorted(self._ended))
            self._confirm()
            self._cut()
        verdicts = [row[0] for row in self._rows]
        failed = next((verdict for verdict in verdicts if verdict != ACCEPTED), ACCEPTED)
        verdict = _INFRA if _INFRA in verdicts else failed
        values = [[value] if index in self._ended else None for index, value in enumerate(self._values)]
        return verdict, compiled, verdicts.count(ACCEPTED), total, self._rows, values, executed

    def _outputs(self, indices: Sequence[int]) -> tuple[Any, ...]:
        inputs = [self._work.inputs[index] for index in indices]
        work = dataclasses.replace(self._work, inputs=inputs, expected=None)
        return Session(self._zygote, work, None, operator.eq).run()

    def _judge(self, indices: list[int]) -> None:
        """Turns what these tests gave into verdicts."""
        if self._matches is None:
            self._check(indices)
            return
        for index in indices:
            try:
                right = self._matches(self._expected[index], self._values[index])
            except (ValueError, RecursionError):  # as in `Session`: what cannot be compared is not right
                right = False
            if not right:
                self._rows[index] = (WRONG, *self._rows[index][1:])

    def _confirm(self) -> None:
        """Calls that were rejected are made again, in the opposite order and a fresh process.

        If any value differs then, the program keeps state, and each is judged by what it gives alone.
        """
        rejected = [index for index in sorted(self._ended) if self._rows[index][0] == WRONG]
        if self._work.fn_name is None or not rejected or len(self._rows) == 1:
            return
        again = self._outputs(rejected[::-1])[5]
        if len(again) == len(rejected) and all(
            compare.same_value(self._values[index], value) for index, value in zip(rejected[::-1], again, strict=True)
        ):
            return
        for index in rejected:
            _, _, _, _, [self._rows[index]], [self._values[index]], _ = self._outputs([index])
        ended = [index for index in rejected if self._rows[index][0] == ACCEPTED]
        self._ended -= set(rejected) - set(ended)
        self._judge(ended)

    def _cut(self) -> None:
        failed = next((index for index, row in enumerate(self._rows) if row[0] != ACCEPTED), None)
        if self._work.stop_at_failure and failed is not None:
            del self._rows[failed + 1 :], self._values[failed + 1 :]

    def _check(self, indices: list[int]) -> None:
        if not indices:
            return
        questions = [[self._work.inputs[i], self._values[i], self._expected[i]] for i in indices]
        work = dataclasses.replace(
            self._work,
            code=self._work.compare["checker"],
            fn_name=_ENTRY_POINT,
            inputs=questions,
            expected=None,
            stop_at_failure=False,
        )
        session = Session(self._zygote, work, None, operator.eq)
        _, compiled, _, _, rows, answers, _ = session.run()
        if not compiled or not session.loaded:
            rows, answers = [(_INFRA, *rows[0][1:])] * len(indices), [None] * len(indices)
        for index, row, answer in zip(indices, rows, answers, strict=True):
            verdict, detail = _opinion(row, answer)
            self._rows[index] = (verdict, *self._rows[index][1:4], detail)


def _opinion(row: Row, answer: Any) -> tuple[str, str]:
    """Verdict and detail that follow from how a checker's call ended."""
    verdict, detail = row[0], row[4]
    if verdict == ACCEPTED:
        return (ACCEPTED, "") if answer is True else (WRONG, f"the checker returned {answer!r}"[:300])
    if verdict in (FAILED, WRONG):
        return WRONG, f"the checker failed: {detail}"
    if verdict == _INFRA:
        return _INFRA, f"the checker cannot be used: {detail}"
    return _INFRA, f"the checker ended with {verdict}: {detail}"
