"""Batches: packing loses nothing, keeps sequences apart, and is the same for the same seed."""

from __future__ import annotations

import itertools
import json
import random
from collections.abc import Sequence

import numpy as np
import pytest

from o1coder_jax.errors import UserError
from train.data import BatchConfig, Example, HostBatch, chosen_batches, example, fitting, packed_batches, padded_batch

BATCH = BatchConfig(rows=2, length=16)


def examples(count: int = 23, seed: int = 0) -> list[Example]:
    """Examples of 2 to 9 tokens; all tokens of an example are its number, from 1."""
    rng = random.Random(seed)
    return [example([i] * rng.randint(1, 3), [i] * rng.randint(1, 6)) for i in range(1, count + 1)]


def batches(count: int, *, seed: int = 0, of: list[Example] | None = None) -> list[HostBatch]:
    return list(itertools.islice(packed_batches(of or examples(), BATCH, seed=seed, name="sft"), count))


def sequences(batch: HostBatch) -> list[np.ndarray]:
    """The tokens of each packed sequence."""
    out = []
    for tokens, segments in zip(batch["tokens"], batch["segments"], strict=True):
        out += [tokens[segments == number] for number in range(1, segments.max() + 1)]
    return out


def test_example_puts_loss_on_the_answer_alone():
    one = example([7, 8], [9, 10, 11], advantage=[1, 2, 3])
    assert one["tokens"].tolist() == [7, 8, 9, 10, 11]
    assert one["weight"].tolist() == [0, 0, 1, 1, 1]
    assert one["advantage"].tolist() == [0, 0, 1, 2, 3]


def test_fitting_keeps_what_is_exactly_as_long_as_a_row():
    assert [len(one["tokens"]) for one in fitting([example([1], [1] * n) for n in (6, 7, 8)], 8)] == [7, 8]


def test_packing_neither_cuts_nor_mixes_examples():
    whole = {tuple(one["tokens"].tolist()) for one in examples()}
    found = [tuple(tokens.tolist()) for batch in batches(8) for tokens in sequences(batch)]
    assert set(found) <= whole


def test_packing_loses_no_example():
    of = examples()
    seen = [int(tokens[0]) for batch in batches(40, of=of) for tokens in sequences(batch)]
    counts = [seen.count(number) for number in range(1, len(of) + 1)]
    # Every pass holds each example once; only the pass under way at the end, and what waits for a row, may differ.
    assert min(counts) >= 8 and max(counts) - min(counts) <= 2


def test_more_open_rows_leave_less_empty():
    def filled(open_rows: int) -> float:
        batch = BatchConfig(BATCH.rows, BATCH.length, open_rows)
        packed = list(itertools.islice(packed_batches(examples(60), batch, seed=0, name="sft"), 30))
        assert all(one["tokens"].shape == (BATCH.rows, BATCH.length) for one in packed)
        return float(np.mean([one["segments"] > 0 for one in packed]))

    assert filled(0) == filled(BATCH.rows) < filled(16) - 0.02


def test_packed_positions_count_from_the_start_of_each_sequence():
    for batch in batches(4):
        for positions, segments in zip(batch["positions"], batch["segments"], strict=True):
            for number in range(1, segments.max() + 1):
                assert positions[segments == number].tolist() == list(range((segments == number).sum()))


def test_packed_weight_stays_with_its_tokens():
    weights = {tuple(one["tokens"].tolist()): one["weight"].tolist() for one in examples()}
    for batch in batches(4):
        for row in range(BATCH.rows):
            for number in range(1, batch["segments"][row].max() + 1):
                inside = batch["segments"][row] == number
                assert batch["weight"][row][inside].tolist() == weights[tuple(batch["tokens"][row][inside].tolist())]


def test_padding_of_packed_rows_carries_no_weight():
    for batch in batches(4):
        assert batch["weight"][batch["segments"] == 0].sum() == 0


def test_every_packed_batch_has_the_shape_asked_for():
    assert {batch[name].shape for batch in batches(4) for name in batch} == {(2, 16)}


def test_same_seed_packs_the_same():
    first, second = batches(6), batches(6)
    assert all((a[name] == b[name]).all() for a, b in zip(first, second, strict=True) for name in a)


def test_another_seed_packs_otherwise():
    first, second = batches(6), batches(6, seed=1)
    assert any((a["tokens"] != b["tokens"]).any() for a, b in zip(first, second, strict=True))


@pytest.mark.parametrize("taken", [1, 5, 12])
def test_pipeline_goes_on_from_a_position(taken: int):
    whole, first = (packed_batches(examples(), BATCH, seed=3, name="sft") for _ in range(2))
    for _ in range(taken):
        next(first)
    position = json.loads(json.dumps(first.get_state()))
    other = packed_batches(examples(), BATCH, seed=3, name="sft")
    other.set_state(position)
    expected = list(itertools.islice(whole, taken + 8))[taken:]
    for a, b in zip(itertools.islice(other, 8), expected, strict=True):
        assert all((a[name] == b[name]).all() for name in b)


def test_processes_fill_their_rows_of_the_same_batches():
    whole, first, second = (
        packed_batches(examples(), BATCH, seed=0, name="sft", own=own) for own in (slice(2), slice(1), slice(1, 2))
    )
    for _, all_rows, one, other in zip(range(6), whole, first, second, strict=False):
        assert one["tokens"].shape == (1, 16)
        assert all((np.concatenate([one[n], other[n]]) == all_rows[n]).all() for n in all_rows)


def test_chosen_batches_take_all_in_each_pass_and_go_on_from_a_position():
    def make(numbers: Sequence[int]) -> HostBatch:
        return {"tokens": np.array(numbers)}

    pipeline = chosen_batches(6, 2, make, seed=1)
    seen = [batch["tokens"].tolist() for batch in itertools.islice(pipeline, 6)]
    assert sorted(itertools.chain(*seen[:3])) == sorted(itertools.chain(*seen[3:])) == list(range(6))
    position = pipeline.get_state()
    expected = next(pipeline)["tokens"].tolist()
    pipeline.set_state(position)
    assert next(pipeline)["tokens"].tolist() == expected


def test_passes_have_different_orders():
    seen = [int(tokens[0]) for batch in batches(40) for tokens in sequences(batch)]
    assert seen[:23] != seen[23:46]


def test_batch_too_short_for_all_is_refused_with_the_key_to_raise():
    with pytest.raises(UserError) as caught:
        next(packed_batches([example([1] * 20, [2] * 5)], BATCH, seed=0, name="sft"))
    assert str(caught.value) == (
        "sft.batch.length is 16, and none of 1 examples fits into it; raise it, the shortest has 25 tokens"
    )


def test_no_examples_at_all_are_refused():
    with pytest.raises(UserError, match="tcg: no problem of the training part gives an example"):
        next(packed_batches([], BATCH, seed=0, name="tcg"))


def test_padded_batch_has_one_example_to_a_row_in_order():
    of = examples(3)
    batch = padded_batch(of, 4, 12)
    for row, one in enumerate(of):
        length = len(one["tokens"])
        assert batch["tokens"][row, :length].tolist() == one["tokens"].tolist()
        assert batch["segments"][row].tolist() == [1] * length + [0] * (12 - length)
        assert batch["weight"][row].sum() == one["weight"].sum()


def test_missing_rows_of_a_padded_batch_are_padding():
    batch = padded_batch(examples(3), 4, 12)
    assert not batch["segments"][3].any() and not batch["weight"][3].any()


def test_padded_positions_count_along_the_row():
    assert (padded_batch(examples(3), 4, 12)["positions"] == np.arange(12)).all()
