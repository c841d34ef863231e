"""Text to token ids and back.

The embedded model has a sentencepiece vocabulary of its own, trained on the bootstrap's examples: pieces merge
across blanks (an idiom of code becomes one token: sequence length decides the cost of everything on a small
machine), digits stay single, and any byte can be written.
"""

from __future__ import annotations

import dataclasses
import hashlib
import io
from collections.abc import Iterable, Sequence
from pathlib import Path

import sentencepiece

from o1coder_jax.errors import UserError
from o1coder_jax.steps import END, STEP_BEGIN, STEP_END
from o1coder_jax.stopping import Stops, stop_ids

PAD_ID, UNKNOWN_ID = 0, 1
_MARKERS = (STEP_BEGIN, STEP_END, END)
# sentencepiece never merges across a newline; a private character in its place may be part of a longer piece, and
# since the two change places the way back is exact whatever the text holds.
_NEWLINE_SWAP = str.maketrans("\n\ue000", "\ue000\n")
_BLANK_SIGN = "\u2581"  # sentencepiece's own sign for a blank: in a text it would come back as one


@dataclasses.dataclass(frozen=True)
class TokenizerConfig:
    """The embedded vocabulary.

    Attributes:
      file: a byte-level BPE vocabulary (`tokenizer.json`) to use in its place; nothing is fitted then.
      vocab_size: number of pieces; 256 bytes, 10 digits and the markers are among them.
      longest_piece: in characters.
    """

    file: str = ""
    vocab_size: int = 700
    longest_piece: int = 40

    def __post_init__(self) -> None:
        if self.vocab_size < 320:
            raise UserError(f"tokenizer.vocab_size is {self.vocab_size}; bytes and markers alone need 320")


class Tokenizer:
    """A sentencepiece vocabulary with the step markers as single tokens.

    Attributes:
      vocab_size: number of ids.
      step_begin, step_end, end: ids of the markers that open a path and close a step and a path; `markers`: all.
      fingerprint: identifies the vocabulary in records.
    """

    def __init__(self, model: bytes):
        self._model = model
        self._pieces = sentencepiece.SentencePieceProcessor(model_proto=model)
        self.vocab_size: int = self._pieces.get_piece_size()
        self.markers: list[int] = [self._pieces.piece_to_id(marker) for marker in _MARKERS]
        self.step_begin, self.step_end, self.end = self.markers
        self._blank_sign = [self._pieces.piece_to_id(f"<0x{byte:02X}>") for byte in _BLANK_SIGN.encode()]
        self.fingerprint = hashlib.sha256(model).hexdigest()[:16]

    @classmethod
    def train(cls, texts: Iterable[str], config: TokenizerConfig) -> Tokenizer:
        """Fits a vocabulary; deterministic for the same texts in the same order."""
        model = io.BytesIO()
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=(text.translate(_NEWLINE_SWAP) for text in texts),
            model_writer=model,
            model_type="bpe",
            vocab_size=config.vocab_size,
            max_sentencepiece_length=config.longest_piece,
            normalization_rule_name="identity",
            add_dummy_prefix=False,
            remove_extra_whitespaces=False,
            allow_whitespace_only_pieces=True,
            split_by_whitespace=False,
            split_by_unicode_script=False,
            split_by_number=False,
            split_digits=True,
            byte_fallback=True,
            hard_vocab_limit=False,
            user_defined_symbols=list(_MARKERS),
            treat_whitespace_as_suffix=True,
            pad_id=PAD_ID,
            unk_id=UNKNOWN_ID,
            bos_id=-1,
            eos_id=-1,
            minloglevel=2,
            num_threads=1,
        )
        return cls(model.getvalue())

    @classmethod
    def load(cls, path: Path) -> Tokenizer:
        """Reads what `save` wrote; anything else is a `UserError`."""
        try:
            model = path.read_bytes()
        except OSError as error:
            raise UserError(f"cannot read the tokenizer {path}: {error.strerror}; run the bootstrap first") from error
        try:
            tokenizer = cls(model) if model else None  # sentencepiece takes an empty file for a model
        except RuntimeError:
            tokenizer = None
        if tokenizer is None or any(map(tokenizer._pieces.is_unknown, tokenizer.markers)):
            raise UserError(f"{path} is no tokenizer of this project (or is damaged); run the bootstrap again")
        return tokenizer

    def save(self, path: Path) -> None:
        path.write_bytes(self._model)

    def encode(self, text: str) -> list[int]:
        """Token ids; `decode` gives the text back, whatever its characters."""
        first, *rest = (self._pieces.encode(part) for part in text.translate(_NEWLINE_SWAP).split(_BLANK_SIGN))
        ids: list[int] = list(first)
        for part in rest:
            ids += [*self._blank_sign, *part]
        return ids

    def decode(self, ids: Sequence[int]) -> str:
        text: str = self._pieces.decode([int(i) for i in ids])
        return text.translate(_NEWLINE_SWAP)

    def stops(self, markers: Sequence[str]) -> Stops:
        """Where one of these markers is complete: each is a token."""
        return stop_ids(self.vocab_size, [self._pieces.piece_to_id(marker) for marker in markers])
