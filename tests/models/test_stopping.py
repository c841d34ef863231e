"""Where generation ends, against a search through the bytes."""

from __future__ import annotations

import random
import time

import numpy as np
import pytest

from o1coder_jax.stopping import Stops, begins, ends, stop_ids, stop_places, stop_texts

MARKERS = (b"<Step_End>", b"<END>")


def stopped_at(stops: Stops, tokens: list[int]) -> int | None:
    """Index of the token that met a stop, by the table."""
    following = np.asarray(stops.following)
    state = 0
    for index, token in enumerate(tokens):
        state = following[state, token]
        if state == stops.end:
            return index
    return None


def found_at(pieces: list[bytes], tokens: list[int], delimiters: list[bytes], ids: tuple[int, ...] = ()) -> int | None:
    """The same by searching all bytes so far for a delimiter."""
    for index, token in enumerate(tokens):
        text = b"".join(pieces[t] for t in tokens[: index + 1])
        if token in ids or any(delimiter in text for delimiter in delimiters):
            return index
    return None


@pytest.mark.parametrize(
    "pieces",
    [
        ["a<b ", "<Step_End>", "tail"],
        ["a<b ", "x<Step_End>y", "tail"],
        ["a<", "Step_", "End>", "tail"],
        ["a <Step_", "End>\n2. refine", "tail"],
        ["<<Step_", "End", "> tail", "."],
        ["<Step_<Step_", "End", ">", "."],
        ["<Step_E", "<END", ">", "."],
        ["<Step_End<", "END>", "."],
    ],
)
def test_a_marker_is_found_however_tokens_cut_it(pieces):
    vocabulary = [piece.encode() for piece in pieces]
    tokens = [*range(len(vocabulary))]
    stops = stop_texts(vocabulary, MARKERS)
    expected = found_at(vocabulary, tokens, list(MARKERS))
    assert expected is not None
    assert stopped_at(stops, tokens) == expected


@pytest.mark.parametrize("seed", range(20))
def test_stops_are_those_of_a_search_through_the_bytes(seed):
    """Random vocabularies over few letters, with delimiters that overlap themselves and each other."""
    rng = random.Random(seed)

    def text(shortest: int, longest: int) -> bytes:
        return bytes(rng.choice(b"ab<") for _ in range(rng.randint(shortest, longest)))

    pieces = [text(0, 5) for _ in range(30)]
    delimiters = [text(3, 6) for _ in range(rng.randint(1, 4))]
    ids = (rng.randrange(30),) if seed % 2 else ()
    stops = stop_texts(pieces, delimiters, ids)
    met = []
    for _ in range(60):
        tokens = [rng.randrange(30) for _ in range(12)]
        met.append(stopped_at(stops, tokens))
        assert met[-1] == found_at(pieces, tokens, delimiters, ids)
    assert set(met) - {None}


def test_places_of_all_stops():
    pieces = [b"a", b"<Step_End>", b"<E", b"ND>b", b"<END><END>"]
    assert stop_places(stop_texts(pieces, MARKERS), [0, 1, 0, 2, 3, 0, 1, 4, 2]) == [1, 4, 6, 7]
    assert stop_places(stop_ids(5, (1, 4)), [0, 1, 0, 2, 3, 0, 1, 4, 2]) == [1, 6, 7]


def test_a_stop_stays_met():
    stops = stop_texts([b"<END>", b"a"], MARKERS, [])
    assert np.asarray(stops.following)[stops.end].tolist() == [stops.end] * 2


def test_ids_stop_as_a_whole_vocabulary_does():
    ids, texts = stop_ids(4, (1, 3)), stop_texts([b"a", b"<END>", b"b", b"<Step_End>"], MARKERS)
    for token in range(4):
        assert bool(ends(ids, begins(ids, token))) == bool(ends(texts, begins(texts, token))) == (token in (1, 3))


def test_end_of_text_is_a_stop_though_it_has_no_bytes():
    assert stopped_at(stop_texts([b"a", b""], MARKERS, (1,)), [0, 1, 0]) == 1


@pytest.mark.parametrize("delimiters", [[], [b""], [b"a", b""]])
def test_empty_delimiters_are_refused(delimiters):
    with pytest.raises(ValueError, match="needs"):
        stop_texts([b"a"], delimiters)


def test_a_large_vocabulary_takes_seconds():
    text = np.random.default_rng(0).integers(32, 127, 150_000 * 10, np.uint8).tobytes()
    pieces = [text[start : start + start % 16] for start in range(0, len(text), 10)]
    begin = time.process_time()
    stop_texts([*pieces, b" " * 128], MARKERS)
    assert time.process_time() - begin < 5
