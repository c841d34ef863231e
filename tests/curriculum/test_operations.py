"""The catalogue: enough operations, told apart by their words, with mistakes that matter."""

from __future__ import annotations

import random

import pytest

from o1coder_jax.errors import UserError
from o1coder_jax.problems.curriculum.behaviour import run, run_each
from o1coder_jax.problems.curriculum.cases import pool
from o1coder_jax.problems.curriculum.catalogue import OPERATIONS, READERS, operation
from o1coder_jax.problems.curriculum.operations import Operation, fill
from o1coder_jax.problems.curriculum.values import Kind, Value

FILLED = [pytest.param(item, value, id=f"{item.name}-{value}") for item in OPERATIONS.values() for value in item.values]


def _values(kind: Kind) -> list[Value]:
    if kind is not Kind.NUMBER:
        return list(pool(kind))
    rng = random.Random(0)
    return [*range(-20, 21), *(rng.randint(-300, 300) for _ in range(200))]


def test_there_are_forty_operations_and_more() -> None:
    assert len(OPERATIONS) >= 40


@pytest.mark.parametrize("item", OPERATIONS.values(), ids=OPERATIONS)
def test_an_operation_has_three_phrasings(item: Operation) -> None:
    assert len(set(item.phrasings)) >= 3


@pytest.mark.parametrize("item", OPERATIONS.values(), ids=OPERATIONS)
def test_an_operation_has_one_to_four_mistakes(item: Operation) -> None:
    assert 1 <= len({mistake.name for mistake in item.mistakes}) == len(item.mistakes) <= 4


@pytest.mark.parametrize("item", OPERATIONS.values(), ids=OPERATIONS)
def test_every_phrasing_gives_the_parameter(item: Operation) -> None:
    assert all(("{k}" in phrasing) == (item.values != (None,)) for phrasing in item.phrasings)


@pytest.mark.parametrize(("item", "value"), FILLED)
def test_no_mistake_is_equivalent(item: Operation, value: int | str | None) -> None:
    for kind, _ in item.signatures:
        expected = run([item.correct.filled(value).code], _values(kind))
        for mistake in item.mistakes:
            assert run_each([mistake.filled(value).code], _values(kind)) != expected, mistake.name


@pytest.mark.parametrize(("item", "value"), FILLED)
def test_variants_differ_in_pseudocode_and_in_code(item: Operation, value: int | str | None) -> None:
    filled = [variant.filled(value) for variant in item.variants]
    assert len({variant.pseudocode for variant in filled}) == len({variant.code for variant in filled}) == len(filled)


@pytest.mark.parametrize(("item", "value"), FILLED)
def test_all_variants_yield_the_promised_kind(item: Operation, value: int | str | None) -> None:
    types = {Kind.LIST: list, Kind.TEXT: str, Kind.NUMBER: int}
    for before, after in item.signatures:
        for variant in item.variants:
            outputs = run_each([variant.filled(value).code], _values(before))
            assert {type(output) for output in outputs if output is not None} == {types[after]}, variant.name


def test_pseudocode_has_one_translation() -> None:
    translations: dict[str, str] = {}
    for item in OPERATIONS.values():
        for value in item.values:
            for variant in (variant.filled(value) for variant in item.variants):
                assert translations.setdefault(variant.pseudocode, variant.code) == variant.code


def test_a_phrasing_means_one_thing() -> None:
    for kind, readers in READERS.items():
        meanings: dict[str, str] = {}
        for item in readers:
            for value in item.values:
                for phrasing in item.phrasings:
                    code = item.correct.filled(value).code
                    assert meanings.setdefault(fill(phrasing, value), code) == code, (kind, phrasing)


def test_no_text_holds_a_blank() -> None:
    for item in OPERATIONS.values():
        for before, after in item.signatures:
            if after is Kind.TEXT:
                for value in item.values:
                    outputs = run([item.correct.filled(value).code], _values(before))
                    assert not any(" " in str(output) or not str(output).isprintable() for output in outputs)


def test_an_unknown_operation_is_named() -> None:
    with pytest.raises(UserError, match="'frobnicate' is not in the curriculum"):
        operation("frobnicate")
