"""Vocabularies of other models' `tokenizer.json`."""

from __future__ import annotations

import json
import os
import random
from pathlib import Path

import pytest
from tokenizers import Tokenizer as Pieces
from tokenizers import decoders, models, normalizers, pre_tokenizers, trainers

from o1coder_jax.errors import UserError
from o1coder_jax.steps import END, STEP_END
from o1coder_jax.stopping import stop_places
from o1coder_jax.vocabulary import ByteLevelVocabulary

TEXTS = ["1. define: a b<Step_End>2. code:\n```python\nprint(1)\n```<END>", "Grüße, 世界 🙂\t\r\n  \x00 <<Step_End>"]


def small(folder: Path) -> ByteLevelVocabulary:
    pieces = Pieces(models.BPE())
    pieces.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    pieces.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=330, special_tokens=["<|im_end|>"], initial_alphabet=alphabet, show_progress=False
    )
    pieces.train_from_iterator([TEXTS[0]] * 5, trainer)
    pieces.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps({"eos_token": {"content": "<|im_end|>"}}))
    return ByteLevelVocabulary.load(folder / "tokenizer.json")


def sentences(folder: Path, *, metaspace: bool = False) -> ByteLevelVocabulary:
    """In the manner of sentencepiece: blanks as U+2581, characters without a piece as their bytes."""
    merges = [("\u2581", "a"), ("S", "t"), ("St", "e"), ("Ste", "p"), ("E", "n"), ("En", "d"), ("d", ">"), ("p", "r")]
    singles = sorted({letter for merge in merges for letter in "".join(merge)} | set("bcefghilmnot<_1:.("))
    names = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), *singles]
    names += ["".join(merge) for merge in merges]
    pieces = Pieces(
        models.BPE({n: i for i, n in enumerate(names)}, merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True)
    )
    if metaspace:
        pieces.pre_tokenizer = pre_tokenizers.Metaspace("\u2581", prepend_scheme="first", split=False)
    else:
        pieces.normalizer = normalizers.Sequence([normalizers.Prepend("\u2581"), normalizers.Replace(" ", "\u2581")])
    blanks, strip = decoders.Replace("\u2581", " "), decoders.Strip(" ", 1, 0)
    pieces.decoder = decoders.Sequence([blanks, decoders.ByteFallback(), decoders.Fuse(), strip])
    pieces.add_special_tokens(["<s>", "</s>"])
    pieces.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps({"eos_token": "</s>"}))
    return ByteLevelVocabulary.load(folder / "tokenizer.json")


@pytest.fixture(scope="module", params=["small", "sentences", "gpt2", "minimind"])
def vocabulary(request, tmp_path_factory) -> ByteLevelVocabulary:
    if request.param in ("small", "sentences"):
        return {"small": small, "sentences": sentences}[request.param](tmp_path_factory.mktemp("vocabulary"))
    if "O1CODER_DATA" not in os.environ:
        pytest.skip("O1CODER_DATA is not set")
    return ByteLevelVocabulary.load(Path(os.environ["O1CODER_DATA"]) / "tokenizers" / request.param / "tokenizer.json")


@pytest.mark.parametrize("text", TEXTS)
def test_text_comes_back(vocabulary, text):
    assert vocabulary.decode(vocabulary.encode(text)) == text


@pytest.mark.parametrize("seed", range(10))
def test_steps_end_where_the_text_of_a_marker_is_complete(vocabulary, seed):
    """Texts cut at random and encoded piece by piece, so that markers are cut in every way."""
    rng = random.Random(seed)
    text = TEXTS[0] + TEXTS[1]
    cuts = sorted(rng.sample(range(1, len(text)), 12))
    ids = [i for a, b in zip([0, *cuts], [*cuts, len(text)], strict=True) for i in vocabulary.encode(text[a:b])]
    expected, begin = [], 0
    for place in range(len(ids)):
        if any(marker in vocabulary.decode(ids[begin : place + 1]) for marker in (STEP_END, END)):
            expected.append(place)
            begin = place + 1
    assert len(expected) == 3
    assert stop_places(vocabulary.stops((STEP_END, END)), ids) == expected


def test_end_of_text_is_a_stop_without_text(vocabulary):
    ids = [*vocabulary.encode("a"), vocabulary.end_of_text]
    assert stop_places(vocabulary.stops((STEP_END, END)), ids) == [len(ids) - 1]
    assert vocabulary.decode(ids) == "a"


def test_all_ids_that_the_checkpoint_names_end_a_text(tmp_path):
    small(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({"eos_token_id": 7}))
    assert ByteLevelVocabulary.load(tmp_path / "tokenizer.json").ends == (0, 7)
    (tmp_path / "generation_config.json").write_text(json.dumps({"eos_token_id": [0, 5, 6]}))
    several = ByteLevelVocabulary.load(tmp_path / "tokenizer.json")
    assert several.ends == (0, 5, 6) and several.decode([5, 6, 0]) == ""
    several.save(tmp_path / "again.json")
    assert ByteLevelVocabulary.load(tmp_path / "again.json").ends == (0, 5, 6)
    for last in several.ends:
        assert stop_places(several.stops((STEP_END, END)), [*several.encode("a"), last]) == [1]


def test_end_that_is_no_token_is_refused(tmp_path):
    small(tmp_path)
    (tmp_path / "generation_config.json").write_text(json.dumps({"eos_token_id": 999}))
    with pytest.raises(UserError, match="no token 999, which is said to end a text"):
        ByteLevelVocabulary.load(tmp_path / "tokenizer.json")


def test_settings_beside_a_vocabulary_are_kept(tmp_path):
    small(tmp_path)
    settings = {"eos_token": "<|im_end|>", "chat_template": "{{ messages }}"}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(settings))
    (tmp_path / "run").mkdir()
    ByteLevelVocabulary.load(tmp_path / "tokenizer.json").save(tmp_path / "run" / "tokenizer.json")
    assert json.loads((tmp_path / "run" / "tokenizer_config.json").read_text()) == settings


def test_saved_vocabulary_is_the_same(vocabulary, tmp_path):
    vocabulary.save(tmp_path / "tokenizer.json")
    again = ByteLevelVocabulary.load(tmp_path / "tokenizer.json")
    assert (again.fingerprint, again.end_of_text) == (vocabulary.fingerprint, vocabulary.end_of_text)
    assert again.pieces() == vocabulary.pieces()


def test_gpt2_gives_the_published_ids():
    if "O1CODER_DATA" not in os.environ:
        pytest.skip("O1CODER_DATA is not set")
    folder = Path(os.environ["O1CODER_DATA"]) / "tokenizers"
    vocabulary = ByteLevelVocabulary.load(folder / "gpt2" / "tokenizer.json")
    vectors = folder / "llamacpp_vectors"
    texts = (vectors / "ggml-vocab-gpt-2.gguf.inp").read_bytes().decode().split("\n__ggml_vocab_test__\n")
    ids = [[int(i) for i in line.split()] for line in (vectors / "ggml-vocab-gpt-2.gguf.out").read_text().split("\n")]
    assert len(texts) > 40
    for text, expected in zip(texts, ids, strict=False):
        assert vocabulary.encode(text) == expected
        assert vocabulary.decode(expected) == text


def test_files_of_another_kind_are_refused(tmp_path):
    with pytest.raises(UserError, match="cannot read the tokenizer"):
        ByteLevelVocabulary.load(tmp_path / "none.json")
    for content in (b"{", b"{}", b'{"model": {"type": "Unigram"}}'):
        (tmp_path / "tokenizer.json").write_bytes(content)
        with pytest.raises(UserError, match=r"give a byte-level tokenizer\.json"):
            ByteLevelVocabulary.load(tmp_path / "tokenizer.json")


def test_both_forms_of_byte_fallback_are_the_same_and_put_nothing_before_a_text(tmp_path):
    old = sentences(tmp_path)
    new = sentences(tmp_path, metaspace=True)
    for text in ("a a", " a", "a", "Step\u2581", "é a", ""):
        assert old.encode(text) == new.encode(text)
        assert old.decode(old.encode(text)) == text
    assert old.encode("é") == [3 + byte for byte in "é".encode()]
    theirs = Pieces.from_file(str(tmp_path / "tokenizer.json"))
    assert theirs.encode("a a", add_special_tokens=False).ids == old.encode(" a a")


def test_byte_fallback_with_another_way_of_cutting_is_refused(tmp_path):
    sentences(tmp_path)
    path = tmp_path / "tokenizer.json"
    read = json.loads(path.read_text())
    for changes, line in (
        ({"normalizer": {"type": "NFKC"}}, "its normalizer does more"),
        ({"pre_tokenizer": {"type": "Whitespace"}}, "its pre_tokenizer Whitespace cuts text"),
    ):
        path.write_text(json.dumps({**read, **changes}))
        with pytest.raises(UserError, match=line):
            ByteLevelVocabulary.load(path)
