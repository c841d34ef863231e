"""What a vocabulary can do, and the one of a checkpoint's own `tokenizer.json`: byte-level, or with byte fallback."""

from __future__ import annotations

import functools
import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from tokenizers import Tokenizer as Pieces

from o1coder_jax import byte_fallback
from o1coder_jax.errors import UserError
from o1coder_jax.stopping import Stops, stop_texts

_VALUE_PIECE = re.compile(r"[^\W_]|[\W_]+")
_END_OF_TEXT = "<|endoftext|>"


class Vocabulary(Protocol):
    """Text to token ids and back.

    Attributes:
      vocab_size: number of ids.
      fingerprint: identifies the vocabulary in records.
    """

    vocab_size: int
    fingerprint: str

    def encode(self, text: str) -> list[int]:
        """Token ids; `decode` gives the text back."""

    def encode_value(self, text: str) -> list[int]:
        """Token ids of a value, cut alike wherever it stands."""

    def decode(self, ids: Sequence[int]) -> str:
        """Text of any ids."""

    def stops(self, markers: Sequence[str]) -> Stops:
        """Where one of these markers is complete, or the text is at its end."""

    def save(self, path: Path) -> None:
        """Writes a file to load it from."""


class ByteLevelVocabulary:
    """BPE over bytes as of GPT-2, Qwen, Llama 3 and others, or with byte fallback as of Llama 2 and Mistral.

    No token is a marker, so markers lie inside and across tokens.

    Attributes:
      ends: the ids with which the model ends a text or a turn of its own accord; they have no text. `end_of_text` is
        the first.
      vocab_size, fingerprint: as in `Vocabulary`.
    """

    def __init__(
        self,
        definition: bytes,
        end_of_text: str = _END_OF_TEXT,
        *,
        more_ends: Sequence[int] = (),
        settings: Mapping[str, Any] | None = None,
    ):
        """From the bytes of a `tokenizer.json`.

        Args:
          definition: the file.
          end_of_text: the token that ends a text.
          more_ends: further ids that do.
          settings: the `tokenizer_config.json` that is to be saved beside it.
        """
        read: dict[str, Any] = json.loads(definition)
        byte_level = (read.get("model") or {}).get("type", "BPE") == "BPE" and "ByteLevel" in json.dumps(
            read.get("decoder")
        )
        self._fallback = not byte_level and byte_fallback.has_byte_fallback(read)
        if not byte_level and not self._fallback:
            raise ValueError("it is no byte-level BPE, nor one with byte fallback")
        self._definition = definition
        self._pieces = Pieces.from_str(byte_fallback.without_prefix(read) if self._fallback else definition.decode())
        self.vocab_size: int = 1 + max(self._pieces.get_vocab().values())
        end = self._pieces.token_to_id(end_of_text)
        if end is None:
            raise ValueError(f"it has no token {end_of_text}")
        if wrong := [i for i in more_ends if not 0 <= i < self.vocab_size]:
            raise ValueError(f"it has no token {wrong[0]}, which is said to end a text")
        self.ends: tuple[int, ...] = tuple(dict.fromkeys([end, *more_ends]))
        self.end_of_text: int = end
        self._settings = dict(settings or {})
        self.fingerprint = hashlib.sha256(definition).hexdigest()[:16]
        added = {token["id"]: token["content"].encode() for token in read.get("added_tokens", [])}
        bytes_of = byte_fallback.piece_bytes if self._fallback else _letter_bytes
        self._bytes = [
            added[i] if i in added else bytes_of(self._pieces.id_to_token(i) or "") for i in range(self.vocab_size)
        ]
        for i in self.ends:
            self._bytes[i] = b""

    @classmethod
    def load(cls, path: Path) -> ByteLevelVocabulary:
        """Reads a `tokenizer.json`; anything else is a `UserError`.

        What ends a text is said beside it: `eos_token` of a `tokenizer_config.json` (<|endoftext|> where that names
        none), and `eos_token_id`, one or several, of a `generation_config.json` or else of a `config.json`.
        """
        try:
            definition = path.read_bytes()
            settings = _beside(path, "tokenizer_config.json")
            ids = _beside(path, "generation_config.json").get("eos_token_id", None)
            ids = _beside(path, "config.json").get("eos_token_id", None) if ids is None else ids
            ends = [] if ids is None else [ids] if isinstance(ids, int) else [int(i) for i in ids]
            named = settings.get("eos_token") or (_first_text(definition, ends) if ends else _END_OF_TEXT)
            text = named if isinstance(named, str) else named["content"]
            return cls(definition, text, more_ends=ends, settings=settings)
        except OSError as error:
            raise UserError(f"cannot read the tokenizer {path}: {error.strerror}") from error
        except Exception as error:  # the library raises plain ones
            raise UserError(
                f"{path} cannot be used as a tokenizer: {error}; give a byte-level tokenizer.json"
            ) from error

    def save(self, path: Path) -> None:
        path.write_bytes(self._definition)
        end = self._pieces.id_to_token(self.end_of_text)
        settings = {**self._settings, "eos_token": self._settings.get("eos_token") or end}
        text = json.dumps(settings, ensure_ascii=False, indent=1)
        path.with_name("tokenizer_config.json").write_text(text, encoding="utf-8")
        ends = json.dumps({"eos_token_id": list(self.ends)})
        path.with_name("generation_config.json").write_text(ends, encoding="utf-8")

    def pieces(self) -> list[bytes]:
        """The bytes of each token; none for the end of a text."""
        return self._bytes

    def encode(self, text: str) -> list[int]:
        """Token ids; nothing is put before or after them."""
        return byte_fallback.encode(text, self._ids, self._pieces.token_to_id) if self._fallback else self._ids(text)

    def _ids(self, text: str) -> list[int]:
        ids: list[int] = self._pieces.encode(text, add_special_tokens=False).ids
        return ids

    def encode_value(self, text: str) -> list[int]:
        """Letters and digits of a value by themselves."""
        return [i for piece in _VALUE_PIECE.findall(text) for i in self.encode(piece)]

    def decode(self, ids: Sequence[int]) -> str:
        """The bytes of the tokens as text; a character that is cut at an end becomes U+FFFD."""
        return b"".join(self._bytes[i] for i in ids).decode("utf-8", "replace")

    def stops(self, markers: Sequence[str]) -> Stops:
        return stop_texts(self._bytes, [marker.encode() for marker in markers], self.ends)


def _beside(path: Path, name: str) -> dict[str, Any]:
    """The JSON object in another file of the same folder; an empty one where there is no such file."""
    other = path.with_name(name)
    found: dict[str, Any] = json.loads(other.read_bytes()) if other.exists() else {}
    return found


def _first_text(definition: bytes, ids: Sequence[int]) -> str:
    """The token of the first of these ids."""
    token: str | None = Pieces.from_str(definition.decode()).id_to_token(ids[0])
    if token is None:
        raise ValueError(f"it has no token {ids[0]}, which is said to end a text")
    return token


def _letter_bytes(piece: str) -> bytes:
    letters = _letters()
    return bytes(letters[letter] for letter in piece)


@functools.cache
def _letters() -> dict[str, int]:
    """GPT-2's letters for bytes: printable ones stand for themselves, the others for 256 and up, in order."""
    plain = [*range(ord("!"), ord("~") + 1), *range(0xA1, 0xAC + 1), *range(0xAE, 0xFF + 1)]
    other = [byte for byte in range(256) if byte not in plain]
    return {chr(byte): byte for byte in plain} | {chr(256 + n): byte for n, byte in enumerate(other)}
