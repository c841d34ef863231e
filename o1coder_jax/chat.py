"""A checkpoint's chat template, and the text with which it wants a prompt to begin."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from o1coder_jax.errors import UserError
from o1coder_jax.prompts import Chat, Message

FILES = ("chat_template.jinja", "chat_template.json", "special_tokens_map.json")  # beside the tokenizer's own two


def chat_of(folder: Path) -> Chat | None:
    """Renders messages as the checkpoint in `folder` was taught them; None if it has no chat template.

    A template that refuses a system message gets its text at the head of the first question. Models that can think
    aloud are asked not to (`enable_thinking`): the steps are their thinking.
    """
    tokenizer = _tokenizer(folder)
    if not tokenizer.chat_template:
        return None

    def render(messages: Sequence[Message]) -> str:
        options = {"tokenize": False, "add_generation_prompt": True, "enable_thinking": False}
        try:
            return str(tokenizer.apply_chat_template(list(messages), **options))
        except Exception as error:
            if messages[0]["role"] != "system" or len(messages) < 2:
                raise UserError(f"the chat template of {folder} cannot be rendered: {_line(error)}") from error
        told, first, *rest = messages
        return render([{"role": first["role"], "content": f"{told['content']}\n\n{first['content']}"}, *rest])

    return render


def opening_of(folder: Path) -> str:
    """The token that the checkpoint's tokenizer puts before a text, as Llama's; empty if it puts none."""
    tokenizer = _tokenizer(folder)
    begin = tokenizer.bos_token_id
    return str(tokenizer.bos_token) if begin is not None and tokenizer("x")["input_ids"][0] == begin else ""


def _tokenizer(folder: Path) -> Any:
    """As transformers loads it; what it needs but does not find is a `UserError`. Code of the checkpoint is not run."""
    os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")  # it would say that there is no torch
    from transformers import AutoTokenizer, PreTrainedTokenizerFast  # takes seconds, and few runs need it

    try:
        if not (folder / "tokenizer_config.json").exists():
            return PreTrainedTokenizerFast(tokenizer_file=str(folder / "tokenizer.json"))
        return AutoTokenizer.from_pretrained(str(folder), local_files_only=True, trust_remote_code=False)
    except (OSError, ValueError, KeyError, json.JSONDecodeError, ImportError) as error:
        raise UserError(f"the tokenizer of {folder} cannot be loaded: {_line(error)}") from error


def _line(error: BaseException) -> str:
    return " ".join(str(error).split()) or repr(error)
