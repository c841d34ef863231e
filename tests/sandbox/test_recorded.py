"""Real programs get the verdicts that others recorded for them; docs/sandbox.md explains where they do not.

These run where the environment variable O1CODER_DATA names a folder with `verdicts/` and `taco/` in it.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from o1coder_jax.records import TestCase, read_jsonl
from sandbox.pool import Pool, Submission

# What an independent judge, which had no numpy, said of each test, and the words of the recording.
PER_TEST = {"AC": "accepted", "WA": "wrong_answer", "RE1": "runtime_error"}
RECORDED = {"pass": "accepted", "wrong": "wrong_answer", "runtime_error": "runtime_error"}
# Both wrap the whole program into a function `code` that nobody calls, and both import numpy first. The recording's
# harness took the wrapping off; for us the second has no entry point, with numpy or without.
WITH_NUMPY = {"coderl/0001/baseline_solutions/0": "wrong_answer", "coderl/2404/baseline_solutions/0": "runtime_error"}
NOT_AS_RECORDED = {"coderl/2404/baseline_solutions/0": "runtime_error"}

# The files under the names that the independent check gave them.
FILES = {
    "o1coder/train_easy_10.json": "o1coder/train_easy_10.json",
    "dbming_rstar/train_easy_1-20.json": "dbming_train_easy_0-9.json",
}
SOLUTIONS = 3


@pytest.fixture(scope="module")
def data() -> Path:
    if "O1CODER_DATA" not in os.environ:
        pytest.skip("O1CODER_DATA is not set")
    return Path(os.environ["O1CODER_DATA"])


def has_numpy(pool: Pool) -> bool:
    [(result, _)] = pool.outputs("import numpy", [""])
    return result.verdict == "accepted"


def judged(pool: Pool, rows: list[dict[str, Any]]) -> dict[str, list[str]]:
    """Verdicts of all tests by id."""
    submissions = []
    for row in rows:
        tests = tuple(TestCase(*pair) for pair in zip(row["inputs"], row["outputs"], strict=True))
        submissions.append(Submission(row["id"], row["code"], tests, row["fn_name"]))
    return {s.id: [str(t.verdict) for t in j.tests] for s, j in zip(submissions, pool.judge(submissions), strict=True)}


def test_recorded_verdicts(pool: Pool, data: Path) -> None:
    rows = list(read_jsonl(data / "verdicts" / "vectors_io.jsonl"))
    expected = {row["id"]: [PER_TEST[verdict] for verdict in row["mine_per_test"]] for row in rows}
    if has_numpy(pool):
        expected |= {name: [verdict] for name, verdict in WITH_NUMPY.items()}
    found = judged(pool, rows)
    assert found == expected
    recorded = {row["id"]: [RECORDED[row["recorded"]]] for row in rows} | {k: [v] for k, v in NOT_AS_RECORDED.items()}
    differences = {name for name in found if found[name] != recorded[name]}
    assert differences == ({"coderl/0001/baseline_solutions/0"} if has_numpy(pool) else set())


def as_text(value: str | list[str]) -> str:
    return value if isinstance(value, str) else "\n".join(value)


def pair_verdicts(pool: Pool, row: dict[str, Any], *, unwrapped: bool) -> list[bool]:
    """For each of a TACO row's pairs, whether one of the first solutions is accepted."""
    pairs = row["input_output"]
    fn_name = pairs.get("fn_name")
    tests = []
    for given, expected in zip(pairs["inputs"], pairs["outputs"], strict=True):
        if fn_name is None:
            tests.append(TestCase(as_text(given).rstrip("\n") + "\n", as_text(expected)))
        elif unwrapped:
            tests.append(TestCase(given, expected[0]))
        else:
            tests.append(TestCase(given, expected))
    codes = row["solutions"][:SOLUTIONS]
    judgements = pool.judge(Submission("s", code, tuple(tests), fn_name) for code in codes)
    assert all(len(judgement.tests) == len(tests) for judgement in judgements if judgement.compiled)
    return [any(j.compiled and j.tests[i].verdict == "accepted" for j in judgements) for i in range(len(tests))]


def test_taco_pairs(pool: Pool, data: Path) -> None:
    """AC: accepted as it is. AC-unwrap: accepted when the value is taken out of its list, and only then. WA: not."""
    statuses = json.loads((data / "taco" / "pair_status.json").read_text())
    rows = {name: json.loads((data / "taco" / path).read_text()) for name, path in FILES.items()}
    seen = set()
    for status in statuses:
        # Without solutions, or with arguments that are no list, nothing can be run.
        if status["file"] not in FILES or "call-arg-not-list" in status["pair_status"]:
            continue
        row = rows[status["file"]][status["index"]]
        expected = status["pair_status"]
        seen |= set(expected)
        plain = pair_verdicts(pool, row, unwrapped=False)
        assert plain == [pair == "AC" for pair in expected], status["id"]
        if "AC-unwrap" in expected:
            assert all(pair_verdicts(pool, row, unwrapped=True)), status["id"]
    assert seen == {"AC", "AC-unwrap", "WA"}
