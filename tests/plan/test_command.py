"""`python -m train.plan` as it is called."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from o1coder_jax.config import parse
from o1coder_jax.errors import UserError
from tests.tiny import one_device
from train.config import Config
from train.plan import __main__ as plan

ROOT = Path(__file__).resolve().parents[2]
SMALL = {
    "model": {"width": 16, "layers": 5, "heads": 2, "kv_heads": 2, "head_size": 8, "mlp_width": 32},
    "tokenizer": {"vocab_size": 320},
    "mesh": {"fsdp": 2},
    "sft": {"batch": {"rows": 4, "length": 16}},
}


def test_plan_for_two_gpus_is_an_estimate_with_collectives(tmp_path):
    small = {**SMALL, "model": {**SMALL["model"], "attention": "cudnn"}}
    (tmp_path / "small.yaml").write_text(json.dumps(small))  # JSON is YAML
    argv = ["--config", tmp_path / "small.yaml", "--tcg_base", "configs/paper-tcg-base.yaml", "--topology", "h100:2"]
    done = subprocess.run(
        [sys.executable, "-m", "train.plan", *argv, "--only", "sft", "--out", tmp_path / "plan.json"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        env={**os.environ, "JAX_DISABLE_MOST_OPTIMIZATIONS": "1"},
    )
    assert done.returncode == 0, done.stderr
    assert "the estimate takes xla's attention" in done.stdout
    assert "ESTIMATE" in done.stdout and "does not fit" not in done.stdout
    found = json.loads((tmp_path / "plan.json").read_text())
    (program,) = found["programs"]
    assert (found["fits"], found["estimate"], program["name"], program["tokens"]) == (True, True, "sft", 64)
    assert program["flops_over_formula"] == pytest.approx(1, rel=0.05)
    gathered = [one for one in program["collectives"] if one["kind"] == "all-gather" and one["devices"] == 2]
    assert any(one["times"] % 5 == 0 for one in gathered)  # once a layer


@pytest.mark.parametrize(
    "argv, said",
    [
        ([], "--topology is not given; write it as --topology v4:2x2x4"),
        (["--topology", "v4-32"], "give the shape of its chips, as v4:2x2x4 for v4-32"),
        (["--topology", "h100:8", "--tcg_base", "none.yaml"], "cannot read none.yaml"),
        (["--topology", "h100:8", "--policy.checkpoint", "none"], "cannot read none/config.json"),
    ],
)
def test_bad_input(argv, said, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["plan", "--config", str(ROOT / "configs/tiny.yaml"), *argv])
    with pytest.raises(UserError, match=said):
        plan.main()


@pytest.mark.parametrize(
    "argv, said",
    [
        (["--tcg.checkpoint", "none"], "cannot read none/config.json"),
        (["--prm.weights", "policy"], "a reward model that is a head alone is not planned"),
    ],
)
def test_role_that_cannot_be_planned_is_named(argv, said):
    config = parse(Config, ["--config", str(ROOT / "configs/tiny.yaml"), *argv])
    with pytest.raises(UserError, match=said):
        list(plan.programs(config, one_device()))
