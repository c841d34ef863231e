"""`python -m search.compare` on the run of the tiny loop."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import yaml

from o1coder_jax import checkpoint
from tests.train.world import bare_command

METHODS = {
    "paper": {"preset": "paper"},
    "best": {"baseline": {"kind": "best_of_n", "ranking": "prm_last"}, "tree_executions": 1},
    "beam": {"baseline": {"kind": "beam", "beams": 2, "ranking": "likelihood"}},
}


def write(tmp_path: Path, wee: Path, **changes) -> list[str]:
    settings = {"run": str(wee), "policy": "policy-001", "prm": "prm-001", "problems": "selfplay", "rollouts": [2]}
    settings |= {"methods": METHODS, "resamples": 50, "output": str(tmp_path / "out"), **changes}
    (tmp_path / "compare.yaml").write_text(yaml.safe_dump(settings, sort_keys=False))
    return ["--config", str(tmp_path / "compare.yaml")]


def compare(*arguments: str):
    return bare_command("compare", *arguments, package="search")


def test_comparison_reports_every_method_at_equal_tokens(tmp_path: Path, wee: Path):
    before = sorted(path for path in wee.rglob("*"))
    done = compare(*write(tmp_path, wee))
    assert done.status == 0, done.err
    found = json.loads((tmp_path / "out" / "compare.json").read_text())
    assert [row["method"] for row in found["rows"]] == [*METHODS]
    paper, best, beam = (row["outcomes"] for row in found["outcomes"])
    names = [json.loads(line)["id"] for line in (wee / "problems" / "selfplay.jsonl").read_text().splitlines()]
    assert [one["problem"] for one in paper] == [one["problem"] for one in beam] == names
    for first, one, other in zip(paper, best, beam, strict=True):
        assert one["tokens"] >= first["tokens"] and other["tokens"] >= first["tokens"]
        assert one["executions"] <= 1 and first["executions"] <= 2
    assert found["rows"][1]["rated_tokens"] > 0 == found["rows"][0]["rated_tokens"]
    text = (tmp_path / "out" / "compare.md").read_text()
    assert [row["truncated_prompts"] for row in found["rows"]] == [0, 0, 0] and "were cut" not in text
    assert text in done.out and text.count("| beam |") == 1
    assert sorted(path for path in wee.rglob("*")) == before  # the run is only read


def test_bounds_rate_in_place_of_the_model_and_the_curve_goes_over_budgets(tmp_path: Path, wee: Path):
    ranked = {"baseline": {"kind": "best_of_n", "ranking": "prm_last"}}
    methods = {
        "best": {"baseline": {"kind": "best_of_n"}},
        "shuffled": {**ranked, "rater": "shuffled"},
        "random": {"baseline": {"kind": "beam", "beams": 1}},
    }
    done = compare(*write(tmp_path, wee, methods=methods, rollouts=[1, 2], count=2))
    assert done.status == 0, done.err
    found = json.loads((tmp_path / "out" / "compare.json").read_text())
    assert [(row["method"], row["rollouts"]) for row in found["rows"]] == [(m, r) for r in (1, 2) for m in methods]
    assert [row["rated_tokens"] for row in found["rows"]] == [0] * 6  # no model computed anything in the search
    for row in found["outcomes"]:
        assert all(0 <= one["accepted"] <= one["executions"] for one in row["outcomes"])
        assert all((one["accepted"] > 0) == one["solved"] for one in row["outcomes"])
    table = (tmp_path / "out" / "compare.md").read_text().split("\n\n")[-1].splitlines()
    assert table[0].count("tokens") == 2 and [line.split(" | ")[0] for line in table[2:]] == [f"| {m}" for m in methods]


def test_value_head_rates_for_the_methods_that_ask(tmp_path: Path, wee: Path):
    run = tmp_path / "wee"
    shutil.copytree(wee, run, ignore=shutil.ignore_patterns("tensorboard", ".lock"))
    facts = checkpoint.metadata(run / "checkpoints" / "policy-001")
    tree = {"value": np.ones(facts["model"]["width"], np.float32), "value_bias": np.float32(0)}
    checkpoint.save(run / "checkpoints" / "head-001", tree, facts | {"head_of": facts["fingerprint"]})
    settings = {"prm": "head-001", "count": 2, "methods": {name: METHODS[name] for name in ("paper", "best")}}
    done = compare(*write(tmp_path, run, **settings))
    assert done.status == 0, done.err
    found = json.loads((tmp_path / "out" / "compare.json").read_text())
    assert [row["rated_tokens"] for row in found["rows"]] == [0, 0]  # no second pass
    done = compare(*write(tmp_path, run, **settings, policy="policy-000"))
    assert done.status == 2 and "use the policy that it was fitted on" in done.err and done.err.count("\n") == 1


def test_comparison_tells_of_prompts_that_were_cut(tmp_path: Path, wee: Path):
    done = compare(*write(tmp_path, wee, search={"prompt_tokens": 3}, count=2, methods={"paper": {"preset": "paper"}}))
    assert done.status == 0, done.err
    [row] = json.loads((tmp_path / "out" / "compare.json").read_text())["rows"]
    assert row["truncated_prompts"] == 2
    assert "Prompts that were cut to search.prompt_tokens: paper 2" in done.out


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"run": "nowhere"}, "nowhere holds no trained run: it has no config.yaml"),
        ({"prm": None}, "methods.best asks a process reward model; name its checkpoint under prm"),
        ({"problems": "nothing.jsonl"}, "there is no problem file nothing.jsonl"),
        ({"methods": {"a": {"depht": 3}}}, "methods.a: unknown option --depht; did you mean --depth?"),
        ({"policy": "policy-9"}, "policy-9"),
        ({"methods": {"a": {"rater": "guru"}}}, "methods.a: rater is 'guru'; use one of prm, oracle, shuffled"),
    ],
)
def test_mistakes_are_said_in_one_line(tmp_path: Path, wee: Path, changes, line: str):
    done = compare(*write(tmp_path, wee, **changes))
    assert done.status == 2 and line in done.err and len(done.err.splitlines()) == 1
