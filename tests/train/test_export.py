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
from train.export import checkpoint_name


def export(*arguments: object):
    return bare_command("export", *map(str, arguments))


@pytest.fixture(scope="module")
def policy(wee: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("export") / "policy"
    done = export(wee, "--checkpoint", "policy-001", "-o", out)
    assert done.status == 0, done.err
    assert done.out.startswith(f"{out}: policy-001 of {wee} (")
    return out


def test_a_role_that_names_no_checkpoint_has_its_best_or_latest(tmp_path: Path):
    for name in ("policy-000", "policy-002", "prm-001", "prm-002", "tcg", "tcg-002", "tcg-sft", "sft-002"):
        (tmp_path / "checkpoints" / name).mkdir(parents=True)
    found = {role: checkpoint_name(tmp_path, role) for role in ("policy", "prm", "tcg")}
    assert found == {"policy": "policy-002", "prm": "prm-002", "tcg": "tcg-002"}
    (tmp_path / "checkpoints" / "best").mkdir()
    (tmp_path / "checkpoints" / "tcg-002").rmdir()
    assert [checkpoint_name(tmp_path, role) for role in ("policy", "tcg")] == ["best", "tcg"]


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


ADAPTER = {"rank": 2, "alpha": 6.0, "dropout": 0.0, "targets": ["query", "output", "down"], "base": "float32"}


@pytest.fixture(scope="module")
def adapted(wee: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, dict[str, np.ndarray]]]:
    """A run whose last reward model is an adapter of policy-001 on three products, exported; and its arrays."""
    run = tmp_path_factory.mktemp("runs") / "adapted"
    shutil.copytree(wee, run, ignore=shutil.ignore_patterns(".lock"))
    rng, rank = np.random.default_rng(0), ADAPTER["rank"]
    whole = checkpoint.restore(run / "checkpoints" / "policy-001")["blocks"]
    factors = {}
    for name, inputs in (("query", 1), ("output", 2), ("down", 1)):
        layers, *shape = whole[name]["weight"].shape
        shapes = {"lora_a": (layers, *shape[:inputs], rank), "lora_b": (layers, rank, *shape[inputs:])}
        factors[name] = {key: rng.normal(size=size).astype(np.float32) * 0.3 for key, size in shapes.items()}
    facts = checkpoint.metadata(run / "checkpoints" / "policy-001")
    facts |= {"adapter": ADAPTER, "base": {"checkpoint": "policy-001", "fingerprint": facts["fingerprint"]}}
    head = {"value": np.ones(64, np.float32), "value_bias": np.float32(0.5)}
    checkpoint.save(run / "checkpoints" / "prm-002", {"blocks": factors, **head}, facts)
    out = run.with_name("adapter")
    done = export(run, "--role", "prm", "--adapter", "-o", out)
    assert done.status == 2 and "adapts policy-001 of this run; export that first" in done.err
    done = export(run, "--checkpoint", "policy-001", "-o", run.with_name("base"))
    assert done.status == 0, done.err
    done = export(run, "--role", "prm", "--adapter", "--like", run.with_name("base"), "-o", out)
    assert done.status == 0, done.err
    return out, factors


def test_an_adapter_is_written_as_peft_does(adapted):
    folder, factors = adapted
    assert {path.name for path in folder.iterdir()} == {
        "adapter_config.json",
        "adapter_model.safetensors",
        "value_head.safetensors",
    }
    settings = json.loads((folder / "adapter_config.json").read_text())
    assert (settings["r"], settings["lora_alpha"], settings["peft_type"]) == (2, 6.0, "LORA")
    assert settings["base_model_name_or_path"] == str(folder.with_name("base"))
    assert settings["target_modules"] == ["down_proj", "o_proj", "q_proj"]
    tensors = load_file(folder / "adapter_model.safetensors")
    assert len(tensors) == 6
    for name, place in (("query", "self_attn.q_proj"), ("output", "self_attn.o_proj"), ("down", "mlp.down_proj")):
        a, b = (tensors[f"base_model.model.model.layers.0.{place}.lora_{factor}.weight"] for factor in "AB")
        ours = factors[name]["lora_a"][0].reshape(-1, 2) @ factors[name]["lora_b"][0].reshape(2, -1)
        np.testing.assert_allclose((b @ a).T, ours, atol=1e-6)
    assert load_file(folder / "value_head.safetensors")["v_head.summary.bias"] == 0.5


def test_an_adapter_is_merged_unless_it_is_asked_for(adapted, wee: Path, tmp_path: Path):
    folder, factors = adapted
    done = export(folder.with_name("adapted"), "--role", "prm", "-o", tmp_path / "merged")
    assert done.status == 0, done.err
    _, read = weights.load(tmp_path / "merged", hf.model_config(tmp_path / "merged"), one_device())
    base = checkpoint.restore(wee / "checkpoints" / "policy-001")["blocks"]["down"]["weight"]
    change = factors["down"]["lora_a"] @ factors["down"]["lora_b"]
    np.testing.assert_allclose(read["blocks"]["down"]["weight"][...], base + 3.0 * change, atol=1e-5)


def test_a_whole_model_is_no_adapter(wee: Path, tmp_path: Path):
    done = export(wee, "--adapter", "-o", tmp_path / "out")
    assert done.status == 2 and "was trained without an adapter; leave --adapter out" in done.err


PROMPTS = [[5], [3, 1, 4, 1, 5, 9], [2, 7, 1, 8]]


def continued(config, graph, state) -> list[list[int]]:
    """64 tokens after each prompt, greedily."""
    answers = generate(
        graph,
        state,
        PROMPTS,
        samples=1,
        stops=stop_ids(config.embedding_rows, ()),
        rows=4,
        answer_tokens=64,
        sampling=SamplingConfig(temperature=0),
        mesh=one_device(),
        seed=(0, 0),
    )
    return [list(samples[0].tokens) for samples in answers]


@needs_torch
def test_transformers_continues_as_we_do(policy: Path):
    told = json.loads(torch("torch_generate.py", policy, json.dumps(PROMPTS), 64))
    assert told["loading"] == [] and told["classes"][0] == "LlamaForCausalLM"
    assert all(len(tokens) == 64 for tokens in told["tokens"])
    config = hf.model_config(policy)
    assert continued(config, *weights.load(policy, config, one_device())) == told["tokens"]


@needs_torch
def test_peft_continues_as_we_do(policy: Path, adapted):
    folder, factors = adapted
    told = json.loads(torch("torch_generate.py", policy, json.dumps(PROMPTS), 64, folder))
    config = hf.model_config(policy)
    graph, state = weights.load(policy, config, one_device())
    before = continued(config, graph, state)
    for name, parts in factors.items():
        weight = state["blocks"][name]["weight"]
        a, b = parts["lora_a"].reshape(1, -1, 2), parts["lora_b"].reshape(1, 2, -1)
        weight[...] = weight[...] + 3.0 * (a @ b).reshape(weight[...].shape)
    assert told["tokens"] == continued(config, graph, state) != before
