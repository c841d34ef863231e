"""Runs our own program texts in this process: trusted, because the curriculum wrote them."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Sequence
from typing import Any
from unittest import mock

from o1coder_jax.records import Form, TestCase


def outputs(code: str, form: Form, fn_name: str | None, cases: Sequence[TestCase]) -> list[Any]:
    """What the program gives on each test; None where it raises."""
    compiled = compile(code, "program", "exec")
    if form is Form.CALL:
        assert fn_name is not None
        names: dict[str, Any] = {}
        exec(compiled, names)
        return [_guarded(lambda case=case: names[fn_name](*case.input)) for case in cases]
    return [_guarded(lambda case=case: _script(compiled, case.input)) for case in cases]


def _guarded(call: Any) -> Any:
    try:
        return call()
    except (ValueError, IndexError):
        return None


def _script(compiled: Any, text: str) -> str:
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed), mock.patch("sys.stdin", io.StringIO(text)):
        exec(compiled, {})
    return printed.getvalue()
