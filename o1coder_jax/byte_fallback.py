"""BPE in the manner of sentencepiece with byte fallback, as `tokenizer.json` of Llama 2 and Mistral hold it.

A blank is written as U+2581 in the pieces, and a character without a piece as its bytes, <0xNN>. These tokenizers put
a blank before every text; here a text may be the continuation of another, so nothing is put before it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any

BLANK_SIGN = "\u2581"
_BYTE = re.compile(r"<0x([0-9A-F]{2})>")
_BLANKS: dict[str, Any] = {"type": "Replace", "pattern": {"String": " "}, "content": BLANK_SIGN}


def has_byte_fallback(read: dict[str, Any]) -> bool:
    """Whether a `tokenizer.json` is of this kind."""
    model = read.get("model") or {}
    return model.get("type", "BPE") == "BPE" and bool(model.get("byte_fallback"))


def without_prefix(read: dict[str, Any]) -> str:
    """The same tokenizer with nothing put before a text; `ValueError` if it changes or cuts texts in other ways."""
    missing = [f"<0x{byte:02X}>" for byte in range(256) if f"<0x{byte:02X}>" not in read["model"]["vocab"]]
    if missing:
        raise ValueError(f"its byte fallback lacks {missing[0]}")
    normalizer, cutting = read.get("normalizer"), read.get("pre_tokenizer")
    steps = [] if normalizer is None else normalizer.get("normalizers", [normalizer])
    if any(step != _BLANKS and step != {"type": "Prepend", "prepend": BLANK_SIGN} for step in steps):
        raise ValueError("its normalizer does more than to write blanks as U+2581")
    if cutting is not None and (cutting.get("type") != "Metaspace" or cutting.get("split", True)):
        raise ValueError(f"its pre_tokenizer {cutting.get('type')} cuts text in a way that is not understood")
    return json.dumps({**read, "normalizer": _BLANKS, "pre_tokenizer": None})


def piece_bytes(piece: str) -> bytes:
    """The bytes that a piece stands for."""
    byte = _BYTE.fullmatch(piece)
    return bytes([int(byte[1], 16)]) if byte else piece.replace(BLANK_SIGN, " ").encode()


def encode(text: str, ids: Callable[[str], list[int]], id_of: Callable[[str], int | None]) -> list[int]:
    """Token ids of a text; U+2581 itself, which would come back as a blank, is written as its bytes.

    Args:
      ids: of a text without U+2581.
      id_of: a piece.
    """
    sign = [id_of(f"<0x{byte:02X}>") or 0 for byte in BLANK_SIGN.encode()]
    first, *rest = (ids(part) for part in text.split(BLANK_SIGN))
    return first + [i for part in rest for i in (*sign, *part)]
