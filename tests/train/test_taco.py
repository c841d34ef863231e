"""The loop on real TACO rows, where they are at hand: it runs to its end and claims nothing that it has not shown."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from tests.train.world import TACO, Done, command, read_lines, results
from train.config import load_config

ROWS = Path(os.environ.get("O1CODER_DATA", "")) / "taco" / "o1coder" / "train_easy_10.json"
needs_rows = pytest.mark.skipif(
    "O1CODER_DATA" not in os.environ or not ROWS.exists(),
    reason="O1CODER_DATA does not name a folder with taco/o1coder/train_easy_10.json",
)


@pytest.fixture(scope="module")
def real(settings: Path, tmp_path_factory: pytest.TempPathFactory, shared: Path) -> tuple[Path, Done]:
    """One round on ten real rows, with the sizes and so the compiled programs of the shared tiny loop."""
    runs = tmp_path_factory.mktemp("taco")
    (shared / "runs" / ".compiled").mkdir(parents=True, exist_ok=True)
    (runs / ".compiled").symlink_to(shared / "runs" / ".compiled")
    fewer = ("--iterations", "1", "--bootstrap.updates", "20", "--tcg.sft_updates", "4", "--tcg.dpo_updates", "2")
    longer = ("--tcg.batch.length", "640")  # test cases of real problems are long
    arguments = ("--runs", str(runs), "--problems.path", str(ROWS), *fewer, *longer)
    return runs / "wee", command(settings, *arguments)


@needs_rows
def test_loop_runs_to_its_end_on_real_rows(real: tuple[Path, Done]):
    assert (real[1].status, real[1].err) == (0, "")


@needs_rows
def test_row_with_misordered_tests_is_set_aside_with_its_reason(real: tuple[Path, Done]):
    [row] = read_lines(real[0] / "problems" / "set_aside.jsonl")
    assert row["where"] == "train_easy_10.json, row 8" and row["reason"].startswith("no reference solution passes")
    assert row["reason"].endswith("8 of 8 wrong answers are outputs of other inputs: tests look misordered")


@needs_rows
def test_nothing_is_solved_and_the_summary_says_so(real: tuple[Path, Done]):
    summary: dict[str, Any] = json.loads((real[0] / "summary.json").read_text())
    [row] = summary["iterations"]
    assert row["pass_at_1_greedy"] == 0.0 and row["solved_by_search"] == 0.0 and row["sft_paths"] == 0
    assert summary["problems"]["set_aside"] == 1
    assert sum(summary["problems"][part] for part in ("training", "selfplay", "validation", "heldout")) == 9


@needs_rows
def test_cut_statements_are_counted_and_said(real: tuple[Path, Done]):
    cut = results(real[0])["001-search"]["truncated_prompts"]
    assert cut > 0 and f"001-search: {cut} prompts were cut to search.prompt_tokens 96" in real[1].out


@needs_rows
def test_skipped_stages_say_so(real: tuple[Path, Done]):
    assert "001-sft: skipped, no verified paths" in real[1].out


def test_longest_prompt_and_path_fit_into_the_batches_of_the_configuration():
    config = load_config(TACO)
    path = (
        config.search.prompt_tokens + (config.search.depth - 1) * config.search.step_tokens + config.search.code_tokens
    )
    assert config.sft.batch.length >= path and config.prm.batch.length >= path
    assert config.tcg.batch.length >= config.tcg.prompt_tokens + config.tcg.answer_tokens
