"""Groups of templates: closed, and in one part each."""

from __future__ import annotations

import pytest

from o1coder_jax.problems.curriculum.behaviour import Behaviour, Clause, examine
from o1coder_jax.problems.curriculum.parting import Parting
from o1coder_jax.problems.curriculum.values import Kind


def _behaviour(*blocks: bytes) -> Behaviour:
    return Behaviour((), b"".join(blocks), blocks)


def test_a_shared_behaviour_makes_one_group() -> None:
    parting = Parting()
    parting.place([_behaviour(b"1", b"2"), _behaviour(b"3", b"4")], "training")
    parting.place([_behaviour(b"3", b"4")], "training")
    parting.place([_behaviour(b"5", b"6")], "training")
    assert parting.group_sizes() == [2, 1]


def test_one_equal_block_is_enough() -> None:
    parting = Parting()
    parting.place([_behaviour(b"1", b"2", b"3")], "heldout")
    assert parting.parts_of([_behaviour(b"7", b"8", b"3")]) == {"heldout"}


def test_a_group_cannot_be_in_two_parts() -> None:
    parting = Parting()
    parting.place([_behaviour(b"1")], "training")
    with pytest.raises(ValueError, match="computes what one of another part does"):
        parting.place([_behaviour(b"1")], "heldout")


def test_groups_join_through_a_third_template() -> None:
    parting = Parting()
    for blocks in ((b"1",), (b"2",), (b"1", b"2")):
        parting.place([_behaviour(*blocks)], "training")
    assert parting.group_sizes() == [3]


def test_order_that_does_not_matter_is_one_behaviour() -> None:
    one = examine(Kind.LIST, (Clause("keep_above", 3), Clause("reverse")))
    other = examine(Kind.LIST, (Clause("reverse"), Clause("keep_above", 3)))
    assert one is not None and other is not None and one.signature == other.signature


def test_a_parameter_makes_another_behaviour() -> None:
    one = examine(Kind.LIST, (Clause("keep_above", 3), Clause("reverse")))
    other = examine(Kind.LIST, (Clause("keep_above", 5), Clause("reverse")))
    assert one is not None and other is not None and not set(one.blocks) & set(other.blocks)


def test_a_clause_that_changes_nothing_is_found() -> None:
    assert examine(Kind.LIST, (Clause("keep_above", 3), Clause("magnitude"))) is None


def test_a_nearly_constant_composition_is_dropped() -> None:
    assert examine(Kind.LIST, (Clause("take", 2), Clause("length"))) is None
