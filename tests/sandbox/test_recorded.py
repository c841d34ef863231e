"""Real completions get the verdicts that were recorded for them."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from o1coder_jax.records import TestCase, read_jsonl
from sandbox.pool import Pool, Submission

# What an independent judge said of each test. It had no numpy, so what it said of programs that import it is left out.
_VERDICTS = {"AC": "accepted", "WA": "wrong_answer", "RE1": "runtime_error"}


def test_recorded_verdicts(pool: Pool) -> None:
    if "O1CODER_DATA" not in os.environ:
        pytest.skip("O1CODER_DATA is not set")
    found = read_jsonl(Path(os.environ["O1CODER_DATA"]) / "verdicts" / "vectors_io.jsonl")
    rows = [row for row in found if "numpy" not in row["code"]]
    submissions = []
    for row in rows:
        tests = tuple(TestCase(*pair) for pair in zip(row["inputs"], row["outputs"], strict=True))
        submissions.append(Submission(row["id"], row["code"], tests, row["fn_name"]))
    verdicts = [[str(test.verdict) for test in judgement.tests] for judgement in pool.judge(submissions)]
    assert verdicts == [[_VERDICTS[verdict] for verdict in row["mine_per_test"]] for row in rows]
