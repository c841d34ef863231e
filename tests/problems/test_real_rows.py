"""Real TACO and APPS rows through the loader and the gold filter, in the real sandbox.

They run where the environment variable O1CODER_DATA names a folder with `taco/` and `apps/` in it.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from o1coder_jax.errors import UserError
from o1coder_jax.problems import ProblemsConfig, Rejected, taco
from o1coder_jax.records import Form, Problem
from sandbox.pool import Pool, SandboxConfig
from train.gold import checked_parts, gold_filter

Filtered = tuple[dict[str, Problem], dict[str, Rejected]]

# The files under the names that the independent check gave them.
FILES = {
    "o1coder/train_easy_10.json": "o1coder/train_easy_10.json",
    "o1coder/self_create_data.json": "o1coder/self_create_data.json",
    "dbming_rstar/train_easy_1-20.json": "dbming_train_easy_0-9.json",
}


@pytest.fixture(scope="module")
def data() -> Path:
    if "O1CODER_DATA" not in os.environ:
        pytest.skip("O1CODER_DATA is not set: it names a folder with real data rows")
    return Path(os.environ["O1CODER_DATA"])


@pytest.fixture(scope="module")
def pool() -> Iterator[Pool]:
    try:
        opened = Pool(SandboxConfig(workers=2))
    except UserError as error:
        pytest.skip(f"no sandbox here: {error}")
    with opened:
        yield opened


@pytest.fixture(scope="module")
def status(data: Path) -> dict[str, dict[str, Any]]:
    """What an independent check of the reference solutions gave, by problem id."""
    rows = json.loads((data / "taco" / "pair_status.json").read_text())
    return {f"{Path(FILES[row['file']]).name}#{row['index']}": row for row in rows}


@pytest.fixture(scope="module")
def filtered(data: Path, pool: Pool) -> Filtered:
    problems: list[Problem] = []
    rejected: list[Rejected] = []
    for name in FILES.values():
        loaded, unusable = taco.load(data / "taco" / name)
        problems += loaded
        rejected += unusable
    kept, failed = gold_filter(problems, pool)
    return {problem.id: problem for problem in kept}, {row.id: row for row in rejected + failed}


def test_exactly_the_problems_with_sound_tests_are_kept(filtered: Filtered, status: dict[str, dict[str, Any]]) -> None:
    kept, rejected = filtered
    assert set(kept) == {name for name, row in status.items() if row["status"] == "ok"}
    assert set(rejected) == set(status) - set(kept)


def test_wrapped_expected_values_are_recognised(filtered: Filtered, status: dict[str, dict[str, Any]]) -> None:
    for name, problem in filtered[0].items():
        wrapped = "AC-unwrap" in status[name]["pair_status"]
        assert (problem.meta["gold"]["expected"] == "unwrapped") == wrapped, name


def test_misordered_row_is_set_aside_with_its_reason(filtered: Filtered) -> None:
    reason = filtered[1]["train_easy_10.json#8"].reason
    assert reason.startswith("no reference solution passes: best 1 of 9 tests; test 1 wrong_answer")
    assert reason.endswith("outputs of other inputs: tests look misordered")


@pytest.mark.parametrize("row", [0, 1, 4])
def test_independently_sampled_tests_are_set_aside(filtered: Filtered, row: int) -> None:
    reason = filtered[1][f"dbming_train_easy_0-9.json#{row}"].reason
    assert reason.startswith("no reference solution passes: best ") and "wrong_answer" in reason


def test_row_without_solutions_is_set_aside(filtered: Filtered) -> None:
    assert filtered[1]["self_create_data.json#0"].reason == "no reference solution"


def test_nothing_was_left_unchecked(filtered: Filtered) -> None:
    assert not [row for row in filtered[1].values() if "could not be checked" in row.reason]


def test_apps_problems_pass_in_both_forms(data: Path, pool: Pool) -> None:
    loaded, rejected = taco.load(data / "apps" / "coderl" / "train")
    kept, failed = gold_filter(loaded, pool)
    assert not rejected and not failed
    assert {problem.id: problem.form for problem in kept} == {"0001": Form.STDIN, "2404": Form.CALL}


def test_file_goes_all_the_way_to_parts(data: Path, pool: Pool) -> None:
    path = data / "taco" / "o1coder" / "train_easy_10.json"
    parts, rejected = checked_parts(ProblemsConfig(source="taco", path=str(path)), 0, pool)
    problems = parts.training + parts.selfplay + parts.validation + parts.heldout
    assert len(problems) == 9
    assert [row.id for row in rejected] == ["train_easy_10.json#8"]
    assert all(problem.tests and problem.hidden and problem.solutions for problem in problems)


def test_rows_without_a_question_are_refused_by_place(data: Path) -> None:
    with pytest.raises(UserError, match=r"flagopen_generation_0-199\.json, row 0: no `question` text"):
        taco.load(data / "taco" / "flagopen_generation_0-199.json")
