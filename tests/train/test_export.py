"""`python -m train.export`: what a folder holds, and that transformers continues as we do."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import jax
import numpy as np
import pytest
from flax import nnx
from safetensors.numpy import load_file

from o1coder_jax import checkpoint, hf, weights
from o1coder_jax.generate import generate
from o1coder_jax.sampling import SamplingConfig
from o1coder_jax.stopping import stop_ids
from o1coder_jax.tokenizer import Tokenizer
from tests.models.test_parity import needs_torch, torch
from tests.tiny import one_device
from tests.train.world import bare_command


def export(*arguments: object):
    return bare_command("export", *map(str, arguments))


@pytest.fixture(scope="module")
def policy(wee: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("export") / "policy"
    done = export(wee, "--checkpoint", "policy-001", "-o", out)
    assert done.status == 0, done.err
    assert done.out.startswith(f"{out}: policy-001 of {wee} (")
    return out


def test_a_policy_is_read_again_as_it_was(policy: Path, wee: Path):
    assert {path.name for path in policy.iterdir()} == {
        "config.json",
        "generation_config.json",
        "model.safetensors",
        "tokenizer.model",
    }
    _, read = weights.load(policy, hf.model_config(policy), one_device())
    saved = checkpoint.restore(wee / "checkpoints" / "policy-001")
    jax.tree.map(np.testing.assert_array_equal, nnx.to_pure_dict(read), saved)
    vocabulary = Tokenizer.load(policy / "tokenizer.model")
    assert json.loads((policy / "generation_config.json").read_text()) == {"eos_token_id": vocabulary.end}


def test_a_reward_model_brings_its_head(wee: Path, tmp_path: Path):
    done = export(wee, "--role", "prm", "--dtype", "bfloat16", "-o", tmp_path / "prm")
    assert done.status == 0 and "prm-002" in done.out, done.err
    head = load_file(tmp_path / "prm" / "value_head.safetensors")
    saved = checkpoint.restore(wee / "checkpoints" / "prm-002")
    np.testing.assert_array_equal(head["v_head.summary.weight"], saved["value"][None])
    np.testing.assert_array_equal(head["v_head.summary.bias"], saved["value_bias"][None])
    _, read = weights.load(tmp_path / "prm", hf.model_config(tmp_path / "prm"), one_device(), value_head=True)
    np.testing.assert_array_equal(read["value"][...], saved["value"])
    assert load_file(tmp_path / "prm" / "model.safetensors")["model.norm.weight"].dtype == "bfloat16"


def test_a_checkpoint_of_the_same_shape_lends_its_files(policy: Path, wee: Path, tmp_path: Path):
    like = tmp_path / "like"
    like.mkdir()
    values = json.loads((policy / "config.json").read_text()) | {"bos_token_id": 1}
    (like / "config.json").write_text(json.dumps(values))
    (like / "tokenizer.json").write_text("{}")
    (like / "chat_template.jinja").write_text("template")
    done = export(wee, "--role", "tcg", "--like", like, "--dtype", "float16", "-o", tmp_path / "out")
    assert done.status == 0, done.err
    written = json.loads((tmp_path / "out" / "config.json").read_text())
    assert written == values | {"torch_dtype": "float16"}
    assert (tmp_path / "out" / "chat_template.jinja").read_text() == "template"
    (like / "config.json").write_text(json.dumps(values | {"intermediate_size": 8}))
    done = export(wee, "--like", like, "-o", tmp_path / "other")
    assert done.status == 2 and "has another shape than this one" in done.err
    assert not (tmp_path / "other").exists()


def test_mistakes_are_said_in_one_line(wee: Path, tmp_path: Path):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").write_text("")
    unfinished = tmp_path / "unfinished"
    shutil.copytree(wee, unfinished, ignore=shutil.ignore_patterns("checkpoints", ".lock"))
    for arguments, line in (
        ((wee, "-o", tmp_path / "full"), "is there already; remove it, or give another folder"),
        ((tmp_path, "-o", tmp_path / "a"), "holds no trained run"),
        ((unfinished, "--role", "prm", "-o", tmp_path / "b"), "has no checkpoint of a prm yet; it has none at all"),
        ((wee, "--checkpoint", "policy-9", "-o", tmp_path / "c"), "policy-9"),
        ((wee, "--like", tmp_path / "none", "-o", tmp_path / "d"), "cannot read"),
    ):
        done = export(*arguments)
        assert done.status == 2 and line in done.err and done.err.count("\n") == 1


@needs_torch
def test_transformers_continues_as_we_do(policy: Path):
    prompts, rows = [[5], [3, 1, 4, 1, 5, 9], [2, 7, 1, 8]], 4
    told = json.loads(torch("torch_generate.py", policy, json.dumps(prompts), 64))
    assert told["loading"] == [] and told["classes"][0] == "LlamaForCausalLM"
    graph, state = weights.load(policy, config := hf.model_config(policy), one_device())
    assert config.embedding_rows is not None
    ours = generate(
        graph,
        state,
        prompts,
        samples=1,
        stops=stop_ids(config.embedding_rows, ()),
        rows=rows,
        answer_tokens=64,
        sampling=SamplingConfig(temperature=0),
        mesh=one_device(),
        seed=(0, 0),
    )
    assert [list(samples[0].tokens) for samples in ours] == told["tokens"]
    assert all(len(tokens) == 64 for tokens in told["tokens"])
