"""Candidates as they are read off the ids that were drawn, wherever markers lie in the tokens."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from o1coder_jax.steps import STEP_BEGIN, render_step
from o1coder_jax.stopping import Stops, stop_places, stop_texts
from o1coder_jax.tokenizer import Tokenizer, TokenizerConfig
from search.config import SearchConfig
from search.tree import Node, read_step

CONFIG = SearchConfig(depth=3, step_tokens=8, code_tokens=12)
CODE = "2. code:\n```python\nprint(1)\n```"


class Cut:
    """A vocabulary of given pieces; the last id is the end of a text."""

    fingerprint = "cut"

    def __init__(self, *pieces: str):
        self.pieces = [*(piece.encode() for piece in pieces), b""]
        self.vocab_size = len(self.pieces)

    def decode(self, ids: Sequence[int]) -> str:
        return b"".join(self.pieces[i] for i in ids).decode("utf-8", "replace")

    def stops(self, markers: Sequence[str]) -> Stops:
        return stop_texts(self.pieces, [marker.encode() for marker in markers], (len(self.pieces) - 1,))


def read(*pieces: str, depth: int = 1, end: bool = False) -> Node:
    """The pieces as one row, which stands still as soon as a stop is met; `end` adds the end of a text."""
    vocabulary = Cut(*pieces)
    ids = [*range(len(pieces) + end)]
    places = stop_places(vocabulary.stops(("<Step_End>", "<END>")), ids)
    assert places in ([], [len(ids) - 1])
    return read_step(tuple(ids), -1.0, 0, depth, stopped=bool(places), tokenizer=vocabulary, config=CONFIG)


@pytest.mark.parametrize(
    "pieces",
    [
        ("1. define: x", "<Step_End>"),
        ("1. define: x<Step_", "End>"),
        ("1. define: x<", "Step", "_End>"),
        ("1. define: x<Step_End>\n2. refine: ",),
        ("1. define: x<St", "ep_End>\n2."),
    ],
)
def test_a_step_ends_with_its_marker_however_tokens_cut_it(pieces):
    node = read(*pieces)
    assert (node.ended, node.text) == ("", "1. define: x<Step_End>")
    assert node.tokens == tuple(range(len(pieces)))


@pytest.mark.parametrize("cut", [("<END>",), ("<", "END>"), ("<END>\n",)])
def test_code_ends_with_its_marker_however_tokens_cut_it(cut):
    node = read(CODE, *cut)
    assert (node.ended, node.code, node.text) == ("code", "print(1)", f"{CODE}<END>")


def test_the_end_of_a_text_ends_a_program():
    assert (read(CODE, end=True).ended, read(CODE, end=True).code) == ("code", "print(1)")


@pytest.mark.parametrize(
    ("pieces", "end"),
    [
        ((CODE, "<Step_End>"), False),
        (("1. define: x", "<END>"), False),
        (("1. define: x",), True),
        (("define", "<Step_End>"), False),
        ((), True),
    ],
)
def test_a_step_that_ends_otherwise_is_malformed(pieces, end):
    node = read(*pieces, end=end)
    assert (node.ended, node.code) == ("malformed", None)


def test_what_met_no_stop_or_met_it_late_is_truncated():
    assert read("1. define: x<Step_En").ended == "truncated"
    assert read(*"1. define: x", "<Step_End>").ended == "truncated"  # more tokens than a step may have
    assert read("1. define: x", "<Step_End>", depth=CONFIG.depth).ended == "depth"


def test_a_marker_that_is_spelled_out_before_the_stop_is_malformed():
    """The embedded vocabulary stops at its marker tokens; their text can also be written in other ones."""
    tokenizer = Tokenizer.train(
        [f"{STEP_BEGIN}{render_step(1, action, 'a b <END> c')}" for action in (1, 3)] * 50,  # type: ignore[arg-type]
        TokenizerConfig(vocab_size=400),
    )
    spelled = [token for letter in "<END>" for token in tokenizer.encode(letter)]
    ids = (*tokenizer.encode(CODE), *spelled, tokenizer.end)
    node = read_step(ids, -1.0, 0, 1, stopped=True, tokenizer=tokenizer, config=SearchConfig())
    assert node.ended == "malformed"
    plain = (*tokenizer.encode(CODE), tokenizer.end)
    assert read_step(plain, -1.0, 0, 1, stopped=True, tokenizer=tokenizer, config=SearchConfig()).ended == "code"
