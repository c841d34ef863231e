"""Any text goes through token ids and comes back; markers are single ids; foreign files are refused."""

from __future__ import annotations

import random

import pytest
import sentencepiece

from o1coder_jax.errors import UserError
from o1coder_jax.policy import encode_prompt
from o1coder_jax.records import Form, Problem
from o1coder_jax.steps import END, STEP_BEGIN, STEP_END, render_prompt
from o1coder_jax.tokenizer import PAD_ID, Tokenizer, TokenizerConfig

TEXTS = [
    f"Print the sum of {n} numbers.\n{STEP_BEGIN}1. define: read the list{STEP_END}2. code:\n```python\n"
    f"print(sum(map(int, input().split())) + {n})\n```{END}"
    for n in range(40)
]


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer.train(TEXTS, TokenizerConfig(vocab_size=400))


@pytest.mark.parametrize(
    "text",
    [
        "",
        " ",
        "  two  blanks  ",
        "\n\n\n",
        "\ttabs\r\nand returns\r",
        "\x00\x01\x7f control",
        "0123456789",
        "naïve façade, 世界, 🎉👩‍👩‍👧",
        "e\u0301 is not \u00e9, \ufb01 is not fi",
        "\u3000\u00a0\u200b\ufeff blanks of all kinds",
        "\ud7ff\ue000\uffff\U0010ffff",
        "▁ is sentencepiece's sign ▁▁",
        "<unk><pad><s></s><0x41>",
        f"{STEP_END}{END} inside",
        *TEXTS[:2],
    ],
)
def test_text_comes_back(tokenizer, text):
    assert tokenizer.decode(tokenizer.encode(text)) == text


def test_random_characters_come_back(tokenizer):
    rng = random.Random(0)
    for _ in range(300):
        codes = [rng.randrange(0x110000) if rng.random() < 0.5 else rng.randrange(256) for _ in range(20)]
        text = "".join(chr(c) for c in codes if not 0xD800 <= c < 0xE000)
        assert tokenizer.decode(tokenizer.encode(text)) == text


@pytest.mark.parametrize("marker", ["step_begin", "step_end", "end"])
def test_marker_is_one_id(tokenizer, marker):
    text = {"step_begin": STEP_BEGIN, "step_end": STEP_END, "end": END}[marker]
    assert tokenizer.encode(f"a{text}b").count(getattr(tokenizer, marker)) == 1
    assert tokenizer.encode(text) == [getattr(tokenizer, marker)]


def test_markers_and_padding_have_ids_of_their_own(tokenizer):
    assert len({tokenizer.step_begin, tokenizer.step_end, tokenizer.end, PAD_ID}) == 4


def test_ids_lie_inside_the_vocabulary(tokenizer):
    ids = tokenizer.encode("".join(TEXTS) + "世界")
    assert 0 <= min(ids) <= max(ids) < tokenizer.vocab_size


def test_digits_stay_single(tokenizer):
    assert all(len(tokenizer.decode([i])) == 1 for i in tokenizer.encode("1234567890"))


def test_idioms_become_one_token(tokenizer):
    """Pieces merge across blanks: sequence length decides the cost."""
    assert any(" " in tokenizer.decode([i]).strip() for i in range(tokenizer.vocab_size))


def test_training_is_deterministic(tokenizer):
    again = Tokenizer.train(TEXTS, TokenizerConfig(vocab_size=400))
    assert again.fingerprint == tokenizer.fingerprint


def test_other_texts_give_another_fingerprint(tokenizer):
    assert Tokenizer.train(TEXTS[:20], TokenizerConfig(vocab_size=350)).fingerprint != tokenizer.fingerprint


def test_saved_tokenizer_loads(tokenizer, tmp_path):
    tokenizer.save(tmp_path / "t.model")
    loaded = Tokenizer.load(tmp_path / "t.model")
    assert (loaded.fingerprint, loaded.encode(TEXTS[0])) == (tokenizer.fingerprint, tokenizer.encode(TEXTS[0]))


def test_missing_file_is_said(tmp_path):
    with pytest.raises(UserError, match=r"cannot read the tokenizer .*none\.model"):
        Tokenizer.load(tmp_path / "none.model")


@pytest.mark.parametrize("content", [b"", b"not a model", b"\x00" * 64], ids=["empty", "text", "zeros"])
def test_damaged_file_is_said(tmp_path, content):
    (tmp_path / "t.model").write_bytes(content)
    with pytest.raises(UserError, match="no tokenizer of this project"):
        Tokenizer.load(tmp_path / "t.model")


def test_vocabulary_without_markers_is_refused(tmp_path):
    prefix = str(tmp_path / "foreign")
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(TEXTS), model_prefix=prefix, vocab_size=80, hard_vocab_limit=False, minloglevel=2
    )
    with pytest.raises(UserError, match="no tokenizer of this project"):
        Tokenizer.load(tmp_path / "foreign.model")


def test_too_small_a_vocabulary_is_refused():
    with pytest.raises(UserError, match=r"tokenizer\.vocab_size is 300"):
        TokenizerConfig(vocab_size=300)


def problem(statement: str) -> Problem:
    return Problem("p", statement, Form.STDIN, ())


def test_short_prompt_is_encoded_whole(tokenizer):
    ids, cut = encode_prompt(tokenizer, problem("Print the sum."), 50)
    assert (tokenizer.decode(ids), cut) == (render_prompt("Print the sum."), False)


def test_long_prompt_is_cut_to_the_cap_and_still_ends_with_the_marker(tokenizer):
    ids, cut = encode_prompt(tokenizer, problem("Print the sum. " * 40), 30)
    assert (len(ids), ids[-1], cut) == (30, tokenizer.step_begin, True)
    assert tokenizer.decode(ids).startswith("Print the sum. Print")


@pytest.mark.parametrize("cap", [1, 2, 3])
def test_tiny_cap_is_kept(tokenizer, cap):
    ids, cut = encode_prompt(tokenizer, problem("Print the sum."), cap)
    assert (len(ids), ids[-1], cut) == (cap, tokenizer.step_begin, True)


# Values.


@pytest.fixture(scope="module")
def counting() -> Tokenizer:
    return Tokenizer.train(TEXTS, TokenizerConfig(vocab_size=400, numbers=12))


@pytest.mark.parametrize(
    ("value", "pieces"),
    [
        ("12", ["12"]),
        ("[7, -3, 11]", ["[", "7", ", ", "-3", ", ", "11", "]"]),
        ("13", ["1", "3"]),
        ('"12"', ['"', "1", "2", '"']),
        ("a12", ["a", "1", "2"]),
        ("!12$-4", ["!", "12", "$", "-4"]),
        ("4--1-7", ["4", "-", "-1", "-", "7"]),
        ("12 -12", ["12", " ", "-12"]),
    ],
)
def test_values_are_cut_into_numbers_and_characters(counting, value, pieces):
    ids = counting.encode_value(value)
    assert [counting.decode([i]) for i in ids] == pieces and counting.decode(ids) == value


def test_numbers_are_not_used_elsewhere(counting, tokenizer):
    assert counting.vocab_size == tokenizer.vocab_size + 9 + 2 * 3
    assert all(len(counting.decode([i])) == 1 for i in counting.encode("12-12"))


def test_a_vocabulary_without_numbers_writes_digits(tokenizer):
    assert [tokenizer.decode([i]) for i in tokenizer.encode_value("-12")] == ["-", "1", "2"]


@pytest.mark.parametrize("value", ["", "\n", "▁<b> é\n", "-", '"', '"open 12', "- 5", "007", "--12"])
def test_any_value_comes_back(counting, value):
    assert counting.decode(counting.encode_value(value)) == value


def test_saved_numbers_load(counting, tmp_path):
    counting.save(tmp_path / "t.model")
    assert Tokenizer.load(tmp_path / "t.model").encode_value("12 -7") == counting.encode_value("12 -7")
