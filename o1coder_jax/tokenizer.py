"""Text to token ids and back.

The embedded model has a sentencepiece vocabulary of its own, trained on the bootstrap's examples: pieces merge
across blanks (an idiom of code becomes one token: sequence length decides the cost of everything on a small
machine), digits stay single, and any byte can be written.
"""

from __future__ import annotations

import dataclasses
import hashlib
import io
import itertools
import re
from collections.abc import Iterable, Iterator, Sequence
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
# A value: what stands in quotes, a number that touches no letter, one character, or the blanks and commas between.
_VALUE_PIECE = re.compile(r'"[^"]*"|(?<![^\W_])-?[0-9]+(?![^\W_])|[^\W_]|[][, ]+|.', re.DOTALL)
_UNMERGED = re.compile(r"[][, ]+|.", re.DOTALL)
_BLANK_SIGN = "\u2581"  # sentencepiece's own sign for a blank: in a text it would come back as one


@dataclasses.dataclass(frozen=True)
class TokenizerConfig:
    """The embedded vocabulary.

    Attributes:
      file: a byte-level BPE vocabulary (`tokenizer.json`) to use in its place; nothing is fitted then.
      vocab_size: number of pieces; 256 bytes, 10 digits and the markers are among them.
      longest_piece: in characters.
      numbers: whole numbers from -`numbers` to `numbers` are pieces beside these, for `encode_value` alone.
    """

    file: str = ""
    vocab_size: int = 700
    longest_piece: int = 40
    numbers: int = 0

    def __post_init__(self) -> None:
        if self.vocab_size < 320:
            raise UserError(f"tokenizer.vocab_size is {self.vocab_size}; bytes and markers alone need 320")
        if self.numbers < 0:
            raise UserError(f"tokenizer.numbers is {self.numbers}; it must not be negative")


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
        self._numbers = {text: self._id_of(text) for text in self._known_numbers()}
        self._number_of = {i: text for text, i in self._numbers.items()}
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
            vocab_size=config.vocab_size + 2 * max(config.numbers - 9, 0) + min(config.numbers, 9),
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
            control_symbols=[_number_piece(text) for text in _number_texts(config.numbers)],
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

    def encode_value(self, text: str) -> list[int]:
        """Token ids of a value, the same wherever it stands: letters, digits and marks are tokens by themselves.

        Where the vocabulary has them a whole number is one token, unless it stands in quotes or beside a letter.
        """
        ids: list[int] = []
        for piece in _VALUE_PIECE.findall(text):
            if piece in self._numbers:
                ids.append(self._numbers[piece])
            else:
                for part in _UNMERGED.findall(piece):
                    ids += self.encode(part)
        return ids

    def decode(self, ids: Sequence[int]) -> str:
        texts = []
        for number, run in itertools.groupby((int(i) for i in ids), self._number_of.get):
            if number is None:
                texts.append(self._pieces.decode(list(run)).translate(_NEWLINE_SWAP))
            else:
                texts += [number] * len(list(run))
        return "".join(texts)

    def _known_numbers(self) -> Iterator[str]:
        """The numbers that this vocabulary has as pieces."""
        for size in itertools.count(1):
            found = [text for text in _texts_of(size) if self._pieces.is_control(self._id_of(text))]
            yield from found
            if not found:
                return

    def _id_of(self, text: str) -> int:
        piece: int = self._pieces.piece_to_id(_number_piece(text))
        return piece

    def stops(self, markers: Sequence[str]) -> Stops:
        """Where one of these markers is complete: each is a token."""
        return stop_ids(self.vocab_size, [self._pieces.piece_to_id(marker) for marker in markers])


def _number_texts(largest: int) -> list[str]:
    """The numbers that are pieces of their own: single digits are pieces anyway."""
    return [text for size in range(1, largest + 1) for text in _texts_of(size)]


def _texts_of(size: int) -> list[str]:
    return [f"-{size}", str(size)] if size > 9 else [f"-{size}"]


def _number_piece(text: str) -> str:
    return f"<number {text}>"
