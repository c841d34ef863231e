"""What a composition of operations computes: the identity by which problems are told apart.

A composition is a tuple of clauses. It is known by its outputs on `SIGNATURE_INPUTS` seeded inputs, the same in
every run. Outputs are compared as they would be printed, so that the number 12 and the text 12 are one.
The expressions that are compiled here are this package's own tables, never data.
"""

from __future__ import annotations

import collections
import dataclasses
import functools
import hashlib
import itertools
import operator
import random
from collections.abc import Callable, Iterator, Sequence

from o1coder_jax.problems.curriculum.catalogue import operation
from o1coder_jax.problems.curriculum.operations import Parameter
from o1coder_jax.problems.curriculum.values import Kind, Value, distinct_inputs

SIGNATURE_INPUTS = 120
BLOCKS = 3
"""Compositions that agree on any one block (40 inputs) count as one behaviour when problems are parted."""

MIN_DISTINCT_OUTPUTS = 8
MAX_SHARE_OF_ONE_OUTPUT = 0.4
MAX_OUTPUT_CHARACTERS = 80
MIN_CHANGE = 0.1
"""Share of the outputs that the removal of any one clause has to change."""

CRASHED = None
"""Stands for the output of an expression that raised."""

CRASHES = (ValueError, IndexError)
"""What the catalogue's mistakes raise; anything else is a defect of the catalogue."""

Output = Value | None


@dataclasses.dataclass(frozen=True, slots=True)
class Clause:
    """One operation with the value of its parameter."""

    operation: str
    value: Parameter = None

    @property
    def code(self) -> str:
        """The right expression."""
        return operation(self.operation).correct.filled(self.value).code


Composition = tuple[Clause, ...]


@dataclasses.dataclass(frozen=True, slots=True)
class Behaviour:
    """An instance that may become a problem, with the hashes that identify it."""

    composition: Composition
    signature: bytes
    blocks: tuple[bytes, ...]


@functools.cache
def _compiled(code: str) -> Callable[[Sequence[Value]], list[Value]]:
    """One of our own expressions in `a`, as a function over many values."""
    source = f"lambda v: [{code} for a in v]"
    function: Callable[[Sequence[Value]], list[Value]] = eval(source)  # noqa: S307 - the catalogue's text, never data
    return function


def run(codes: Sequence[str], values: Sequence[Value]) -> list[Value]:
    """A chain of expressions on many values; raises one of `CRASHES` if any value makes it crash."""
    for code in codes:
        values = _compiled(code)(values)
    return list(values)


def run_each(codes: Sequence[str], values: Sequence[Value]) -> list[Output]:
    """Like `run`, with `CRASHED` for the values that make the chain crash, which halving finds."""
    try:
        return list(run(codes, values))
    except CRASHES:
        if len(values) == 1:
            return [CRASHED]
        middle = len(values) // 2
        return run_each(codes, values[:middle]) + run_each(codes, values[middle:])


def codes_of(composition: Composition) -> list[str]:
    return [clause.code for clause in composition]


def kinds_of(names: Sequence[str], kind: Kind) -> list[Kind] | None:
    """The kinds before, between and after the operations; None where they do not fit together."""
    kinds = [kind]
    for name in names:
        after = operation(name).output(kinds[-1])
        if after is None:
            return None
        kinds.append(after)
    return kinds


@functools.cache
def signature_inputs(kind: Kind) -> tuple[Value, ...]:
    return tuple(distinct_inputs(kind, SIGNATURE_INPUTS, random.Random(f"signature/{kind}")))


@functools.lru_cache(maxsize=6000)
def _kept_outputs(kind: Kind, composition: Composition) -> list[Value]:
    return _outputs(kind, composition)


def _shared_outputs(kind: Kind, composition: Composition) -> list[Value]:
    return _kept_outputs(kind, composition) if len(composition) <= 2 else _outputs(kind, composition)


def _outputs(kind: Kind, composition: Composition) -> list[Value]:
    """Outputs on the signature's inputs; those of one or two clauses begin many compositions, hence are kept."""
    if not composition:
        return list(signature_inputs(kind))
    return run([composition[-1].code], _shared_outputs(kind, composition[:-1]))


def instances(names: Sequence[str]) -> Iterator[Composition]:
    """Every choice of parameters of a template."""
    values = [[Clause(name, value) for value in operation(name).values] for name in names]
    yield from itertools.product(*values)


def examine(kind: Kind, composition: Composition) -> Behaviour | None:
    """The behaviour of an instance; None if it is nearly constant, long-winded or has a clause that hardly matters."""
    outputs = _outputs(kind, composition)
    printed = [str(output) for output in outputs]
    counts = collections.Counter(printed)
    if len(counts) < MIN_DISTINCT_OUTPUTS or max(counts.values()) > MAX_SHARE_OF_ONE_OUTPUT * len(printed):
        return None
    if max(map(len, printed)) > MAX_OUTPUT_CHARACTERS:
        return None
    if any(_idle(kind, composition, index, outputs) for index in range(len(composition))):
        return None
    blocks = tuple(_hash(kind, printed[block::BLOCKS]) for block in range(BLOCKS))
    return Behaviour(composition, hashlib.blake2b(b"".join(blocks), digest_size=8).digest(), blocks)


def _hash(kind: Kind, printed: list[str]) -> bytes:
    text = "\n".join(printed)
    return hashlib.blake2b(f"{kind}\n{text}".encode(), digest_size=8).digest()


def _idle(kind: Kind, composition: Composition, index: int, outputs: list[Value]) -> bool:
    """True if the composition computes (nearly) the same without clause `index`."""
    rest = composition[:index] + composition[index + 1 :]
    if kinds_of([clause.operation for clause in rest], kind) is None:
        return False
    shorter = _shared_outputs(kind, rest)
    return sum(map(operator.ne, outputs, shorter)) < MIN_CHANGE * len(outputs)
