"""What a vocabulary can do, and the one of a checkpoint's own `tokenizer.json`: byte-level, or with byte fallback."""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

from tokenizers import Tokenizer as Pieces

from o1coder_jax import byte_fallback
from o1coder_jax.errors import UserError
from o1coder_jax.stopping import Stops, stop_texts

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
      end_of_text: the id with which the model ends a text of its own accord; it has no text.
      vocab_size, fingerprint: as in `Vocabulary`.
    """

    def __init__(self, definition: bytes, end_of_text: str = _END_OF_TEXT):
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
        self.end_of_text: int = end
        self.fingerprint = hashlib.sha256(definition).hexdigest()[:16]
        added = {token["id"]: token["content"].encode() for token in read.get("added_tokens", [])}
        bytes_of = byte_fallback.piece_bytes if self._fallback else _letter_bytes
        self._bytes = [
            added[i] if i in added else bytes_of(self._pieces.id_to_token(i) or "") for i in range(self.vocab_size)
        ]
        self._bytes[self.end_of_text] = b""

    @classmethod
    def load(cls, path: Path) -> ByteLevelVocabulary:
        """Reads a `tokenizer.json`; anything else is a `UserError`.

        `eos_token` of a `tokenizer_config.json` beside it names the end of a text; <|endoftext|> without one.
        """
        try:
            end = _END_OF_TEXT
            beside = path.with_name("tokenizer_config.json")
            if beside.exists():
                named = json.loads(beside.read_bytes()).get("eos_token") or end
                end = named if isinstance(named, str) else named["content"]
            return cls(path.read_bytes(), end)
        except OSError as error:
            raise UserError(f"cannot read the tokenizer {path}: {error.strerror}") from error
        except Exception as error:  # the library raises plain ones
            raise UserError(
                f"{path} cannot be used as a tokenizer: {error}; give a byte-level tokenizer.json"
            ) from error

    def save(self, path: Path) -> None:
        path.write_bytes(self._definition)
        end = self._pieces.id_to_token(self.end_of_text)
        path.with_name("tokenizer_config.json").write_text(json.dumps({"eos_token": end}), encoding="utf-8")

    def pieces(self) -> list[bytes]:
        """The bytes of each token; none for the end of a text."""
        return self._bytes

    def encode(self, text: str) -> list[int]:
        """Token ids; nothing is put before or after them."""
        return byte_fallback.encode(text, self._ids, self._pieces.token_to_id) if self._fallback else self._ids(text)

    def _ids(self, text: str) -> list[int]:
        ids: list[int] = self._pieces.encode(text, add_special_tokens=False).ids
        return ids

    def decode(self, ids: Sequence[int]) -> str:
        """The bytes of the tokens as text; a character that is cut at an end becomes U+FFFD."""
        return b"".join(self._bytes[i] for i in ids).decode("utf-8", "replace")

    def stops(self, markers: Sequence[str]) -> Stops:
        return stop_texts(self._bytes, [marker.encode() for marker in markers], (self.end_of_text,))


def _letter_bytes(piece: str) -> bytes:
    letters = _letters()
    return bytes(letters[letter] for letter in piece)


@functools.cache
def _letters() -> dict[str, int]:
    """GPT-2's letters for bytes: printable ones stand for themselves, the others for 256 and up, in order."""
    plain = [*range(ord("!"), ord("~") + 1), *range(0xA1, 0xAC + 1), *range(0xAE, 0xFF + 1)]
    other = [byte for byte in range(256) if byte not in plain]
    return {chr(byte): byte for byte in plain} | {chr(256 + n): byte for n, byte in enumerate(other)}
