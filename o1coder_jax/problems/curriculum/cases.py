"""A problem's tests: own ones with edge cases, and hidden ones that kill every mistake.

A mutant is the composition with one clause replaced by one of its operation's mistakes. Two are taken as
equivalent if they agree on the hidden inputs, the own inputs and a pool of `POOL_INPUTS` seeded ones.
"""

from __future__ import annotations

import dataclasses
import functools
import random
from collections.abc import Iterator, Sequence

from o1coder_jax.problems.curriculum.behaviour import CRASHES, Composition, codes_of, run, run_each
from o1coder_jax.problems.curriculum.catalogue import operation
from o1coder_jax.problems.curriculum.values import Kind, Value, distinct_inputs, edge_inputs, empty

POOL_INPUTS = 1000
OWN_EDGES = 2
HIDDEN_EDGES = 8
FEW = 12


@dataclasses.dataclass(frozen=True, slots=True)
class Cases:
    """Inputs of the own and of the hidden tests; no input is in both."""

    own: list[Value]
    hidden: list[Value]


@dataclasses.dataclass(frozen=True, slots=True)
class Mutant:
    """The mistake `name` at clause `index`; `codes` runs from that clause to the end."""

    index: int
    name: str
    codes: list[str]


@functools.cache
def pool(kind: Kind) -> tuple[Value, ...]:
    """The inputs on which equivalence is decided, the same in every run."""
    first = [empty(kind), *edge_inputs(kind)]
    return tuple(distinct_inputs(kind, POOL_INPUTS, random.Random(f"pool/{kind}"), first=first))


def mutants(composition: Composition) -> Iterator[Mutant]:
    """Every single mistake."""
    codes = codes_of(composition)
    for index, clause in enumerate(composition):
        for mistake in operation(clause.operation).mistakes:
            yield Mutant(index, mistake.name, [mistake.filled(clause.value).code, *codes[index + 1 :]])


class Trace:
    """The reference's values on fixed inputs, before, between and after its clauses."""

    def __init__(self, composition: Composition, inputs: Sequence[Value]):
        self._stages: list[list[Value]] = [list(inputs)]
        for code in codes_of(composition):
            self._stages.append(run([code], self._stages[-1]))

    def kills(self, mutant: Mutant) -> bool:
        """True if the mutant's output is not the reference's on some input; the first few mostly decide."""
        values, expected = self._stages[mutant.index], self._stages[-1]
        try:
            return any(
                run(mutant.codes, values[some]) != expected[some] for some in (slice(FEW), slice(FEW, len(values)))
            )
        except CRASHES:
            return True

    def killers(self, mutant: Mutant) -> list[Value]:
        """The inputs on which the mutant's output is not the reference's."""
        outputs = run_each(mutant.codes, self._stages[mutant.index])
        rows = zip(self._stages[0], outputs, self._stages[-1], strict=True)
        return [value for value, output, expected in rows if output != expected]


def make_cases(kind: Kind, composition: Composition, own: int, hidden: int, rng: random.Random) -> Cases | None:
    """Draws the inputs. None if some mistake shows on own inputs only (mostly on the empty one).

    Hidden inputs have to be others, and could not tell that mistake from the reference.
    """
    cases = _draw(kind, own, hidden, rng)
    trace = Trace(composition, cases.hidden)
    survivors = [mutant for mutant in mutants(composition) if not trace.kills(mutant)]
    on_empty = Trace(composition, [empty(kind)])
    if any(on_empty.kills(mutant) for mutant in survivors):
        return None
    for mutant in survivors:
        killers = Trace(composition, pool(kind)).killers(mutant)
        fresh = [value for value in killers if value not in cases.own]
        if fresh and not any(value in cases.hidden for value in fresh):
            cases.hidden.append(rng.choice(fresh))
        elif not fresh and (killers or Trace(composition, cases.own).kills(mutant)):
            return None
    return cases


def _draw(kind: Kind, own: int, hidden: int, rng: random.Random) -> Cases:
    edges = edge_inputs(kind)
    rng.shuffle(edges)
    inputs = distinct_inputs(kind, own, rng, first=[empty(kind), *edges[:OWN_EDGES]])
    # The first tests are what a reader (or a test writer's prompt) sees: edge cases stand anywhere among them.
    rng.shuffle(inputs)
    return Cases(inputs, distinct_inputs(kind, hidden, rng, first=edges[-HIDDEN_EDGES:], without=inputs))
