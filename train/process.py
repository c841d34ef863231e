"""D_process as the stages that learn from it see it: the current labels of every path, each path once, none too old.

`process.jsonl` only grows. A tree that was judged again (`train.relabel`) has its paths there once more; the rows of
the earlier labels stay, and are passed over here.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable

from o1coder_jax.records import ProcessRecord
from train.session import Session


def read_process(session: Session, iteration: int, max_age: int) -> list[ProcessRecord]:
    """The paths that round `iteration` learns from; `max_age` as in `recent`."""
    records = (ProcessRecord.from_json(row) for row in session.run.read("process.jsonl"))
    return distinct(recent(current(records), iteration, max_age))


def current(records: Iterable[ProcessRecord]) -> list[ProcessRecord]:
    """Of each tree the records with its last labels: those behind the last change of the tests that they name."""
    last: dict[tuple[int, int], list[ProcessRecord]] = {}
    known = list(records)
    for record in known:
        own = last.setdefault((record.iteration, record.tree), [])
        if own and own[-1].tests != record.tests:
            own.clear()
        own.append(record)
    kept = {id(record) for own in last.values() for record in own}
    return [record for record in known if id(record) in kept]


def recent(records: Iterable[ProcessRecord], iteration: int, max_age: int) -> list[ProcessRecord]:
    """The records of the policy that round `iteration` searched with, and of the `max_age` before it; 0: of all."""
    return [record for record in records if not max_age or record.iteration >= iteration - max_age]


def distinct(records: Iterable[ProcessRecord]) -> list[ProcessRecord]:
    """Each path of a problem once: with the values and the verdict of the latest round that visited it."""
    found: dict[tuple[str, tuple[int, ...]], ProcessRecord] = {}
    for record in sorted(records, key=lambda record: record.iteration):
        path = tuple(itertools.chain.from_iterable(step.tokens for step in record.steps))
        found.pop((record.problem_id, path), None)  # so that the order is that of the records kept
        found[record.problem_id, path] = record
    return list(found.values())
