"""From a checkpoint of transformers' form to a finished run: random weights solve nothing, and the run says so."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file
from transformers import AutoTokenizer

from o1coder_jax import checkpoint, hf
from o1coder_jax.adapters import AdapterConfig
from o1coder_jax.errors import UserError
from o1coder_jax.mesh import MeshConfig
from o1coder_jax.prompts import render
from o1coder_jax.records import ProcessRecord
from o1coder_jax.vocabulary import ByteLevelVocabulary
from sandbox.pool import SandboxConfig
from search import run as search_run
from tests.models.test_parity import needs_torch, torch
from tests.train import checkpoints
from tests.train.world import ROOT, Done, bare_command, command, read_lines, results, rows, summary_of
from train import pretrained
from train.config import load_config
from train.policy import PolicyConfig
from train.session import policy_name, policy_stage

PROMPT = """
policy:
  instructions: Solve in steps.
  examples:
  - {statement: Print 1., steps: [{define: print it}, {code: print(1)}]}
tcg:
  examples:
  - {statement: Print 1., solution: print(1), cases: [{input: "1", output: "1"}]}
"""
LENGTHS = ("--iterations", "1", "--sft.batch.length", "384", "--prm.batch.length", "384", "--tcg.batch.length", "384")
FEWER = ("--tcg.sft_updates", "4", "--tcg.dpo_updates", "2", "--rl.updates", "1", "--evaluate.hard_samples", "0")
DATA = Path(os.environ.get("O1CODER_DATA", ""))
ROWS = DATA / "taco" / "o1coder" / "train_easy_10.json"
needs_data = pytest.mark.skipif(
    "O1CODER_DATA" not in os.environ or not ROWS.exists(),
    reason="O1CODER_DATA does not name a folder with taco/o1coder/train_easy_10.json and tokenizers",
)


def texts() -> list[str]:
    return [PROMPT, *(row["question"] + str(row["solutions"]) for row in rows())]


def folder_of(base: Path, name: str) -> Path:
    (base / name).mkdir()
    return base / name


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Qwen2-form policy with a chat template, a smaller reward model, a Llama-form generator without a template."""
    base = tmp_path_factory.mktemp("checkpoints")
    (base / "prompt.yaml").write_text(PROMPT)
    checkpoints.write_tokenizer(folder_of(base, "policy"), texts())
    checkpoints.write_checkpoint(base / "policy", padding=8)
    checkpoints.write_tokenizer(folder_of(base, "prm"), texts())
    checkpoints.write_checkpoint(base / "prm", hidden_size=32, num_hidden_layers=2)
    checkpoints.write_tokenizer(folder_of(base, "tcg"), texts(), size=350, template=None)
    checkpoints.write_checkpoint(base / "tcg", "llama", hidden_size=48, num_attention_heads=3)
    return base


def cold_start(base: Path, settings: Path, runs: Path, *arguments: str) -> tuple[Path, Done]:
    asked = ("--policy.checkpoint", str(base / "policy"), "--policy.prompt", str(base / "prompt.yaml"))
    done = command(settings, "--runs", str(runs), *asked, *LENGTHS, *FEWER, *arguments)
    return runs / "wee", done


@pytest.fixture(scope="module")
def cold(base: Path, settings: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Done]:
    """A run from three checkpoints."""
    own = ("--prm.checkpoint", str(base / "prm"), "--tcg.checkpoint", str(base / "tcg"))
    return cold_start(base, settings, tmp_path_factory.mktemp("cold"), *own)


def test_run_from_checkpoints_goes_to_its_end(cold: tuple[Path, Done]):
    run, done = cold
    assert (done.status, done.err) == (0, "")
    assert list(results(run))[:3] == ["problems", "bootstrap", "000-evaluate"]
    assert "001-evaluate" in results(run)


def test_bootstrap_trains_nothing_and_says_what_it_took(cold: tuple[Path, Done], base: Path):
    run, done = cold
    result = results(run)["bootstrap"]
    assert "loss" not in result and result["checkpoint"] == str(base / "policy") and result["chat_template"]
    assert f"bootstrap: nothing to train, policy-000 is a copy of {base}/policy" in done.out
    rope = json.loads((run / "checkpoints/policy-000/_CHECKPOINT_METADATA").read_text())["custom_metadata"]["model"]
    assert (rope["rope_theta"], rope["embedding_rows"]) == (20000.0, result["vocab_size"] + 8)


def test_prompts_are_the_chat_of_the_checkpoint_with_the_examples_first(cold: tuple[Path, Done]):
    run, _ = cold
    vocabulary = ByteLevelVocabulary.load(run / "tokenizer.json")
    assert set(vocabulary.ends) == {0, 2}
    before = (
        "<|im_start|>system\nSolve in steps.<|im_end|>\n<|im_start|>user\nPrint 1.<|im_end|>\n<|im_start|>assistant\n"
        "0. define: print it<Step_End>1. code:\n```python\nprint(1)\n```<END><|im_end|>\n<|im_start|>user\n"
    )
    assert json.loads((run / "prompts.json").read_text())["policy"] == {
        "before": before,
        "after": "<|im_end|>\n<|im_start|>assistant\n",
    }
    expected = vocabulary.encode(before)
    prompts = {tuple(row["prompt_tokens"]) for row in read_lines(run / "process.jsonl")}
    assert len(prompts) > 1 and all(prompt[: len(expected)] == tuple(expected) for prompt in prompts)


def test_generator_has_a_vocabulary_a_shape_and_a_prompt_of_its_own(cold: tuple[Path, Done], base: Path):
    run, _ = cold
    facts = json.loads((run / "checkpoints/tcg/_CHECKPOINT_METADATA").read_text())["custom_metadata"]
    assert facts["model"]["width"] == 48 and not facts["model"]["tied_embeddings"]
    assert facts["tokenizer"] == ByteLevelVocabulary.load(base / "tcg" / "tokenizer.json").fingerprint
    assert json.loads((run / "prompts.json").read_text())["tcg"]["after"] == "\n<Step_Begin>"


def test_reward_model_grows_from_its_own_checkpoint(cold: tuple[Path, Done]):
    run, _ = cold
    facts = json.loads((run / "checkpoints/prm-001/_CHECKPOINT_METADATA").read_text())["custom_metadata"]
    assert (facts["model"]["width"], facts["model"]["layers"]) == (32, 2)
    assert not results(run)["001-prm"]["skipped"]


def test_badly_formed_steps_are_counted_and_told(cold: tuple[Path, Done]):
    run, done = cold
    result = results(run)["001-search"]
    assert result["steps_malformed"] + result["steps_truncated"] == round((1 - result["well_formed"]) * result["steps"])
    assert result["well_formed"] < 0.5
    assert f"001-search: warning: {result['well_formed']:.0%} of {result['steps']} steps are well-formed" in done.out
    logged = [row for row in read_lines(run / "metrics.jsonl") if row["stage"] == "001-search"]
    assert logged[-1]["well_formed"] == result["well_formed"]


def test_steps_that_reach_their_cap_are_kept_and_labelled(cold: tuple[Path, Done]):
    run, _ = cold
    records = [ProcessRecord.from_json(row) for row in read_lines(run / "process.jsonl")]
    cut = [record for record in records if record.ended == "truncated"]
    assert cut
    for record in cut:
        *before, last = record.steps
        assert last.truncated and not any(step.truncated for step in before)
        assert last.visits and last.value == 0.0 and record.code is None
    assert all(step.truncated is False for r in records if r.ended != "truncated" for step in r.steps)


def test_round_without_a_verified_path_skips_sft_and_says_so(cold: tuple[Path, Done]):
    run, done = cold
    assert results(run)["001-search"]["solved"] == 0 and results(run)["001-sft"]["skipped"]
    assert "001-sft: skipped, no verified paths in this round" in done.out
    [row] = json.loads((run / "summary.json").read_text())["iterations"]
    assert row["pass_at_1_greedy"] == 0.0 and row["sft_paths"] == 0 and row["well_formed"] < 0.5


def test_search_by_itself_asks_as_the_run_does(
    cold: tuple[Path, Done], tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    run, _ = cold
    search = dataclasses.replace(load_config(run / "config.yaml").search, rollouts=1, depth=2)
    search_run.run(
        search_run.RunConfig(
            problems=str(run / "problems" / "selfplay.jsonl"),
            policy=str(run / "checkpoints" / "best"),
            out=str(tmp_path / "out"),
            search=search,
            sandbox=SandboxConfig(workers=1),
            mesh=MeshConfig(cpu_devices=1),
        )
    )
    assert "steps are well-formed" in capsys.readouterr().out
    before = json.loads((run / "prompts.json").read_text())["policy"]["before"]
    expected = tuple(ByteLevelVocabulary.load(run / "tokenizer.json").encode(before))
    prompts = [tuple(row["prompt_tokens"]) for row in read_lines(tmp_path / "out" / "process.jsonl")]
    assert prompts and all(prompt[: len(expected)] == expected for prompt in prompts)


def test_shape_of_the_checkpoint_wins_and_what_it_replaces_is_told(base: Path):
    config = load_config(ROOT / "configs" / "tiny.yaml")
    assert config.model.qk_norm
    policy = PolicyConfig(checkpoint=str(base / "policy"), adapter=AdapterConfig(base="nf4"))
    model = dataclasses.replace(config.model, width=40, dtype="bfloat16", rematerialize="layers")
    found, line = pretrained.resolved(dataclasses.replace(config, model=model, policy=policy))
    expected = hf.model_config(base / "policy")
    assert found.model == dataclasses.replace(expected, dtype="bfloat16", rematerialize="layers")
    assert line == f"model: the shape is that of {base}/policy: width 64 (not 40), qk_norm False (not True)"
    assert pretrained.resolved(found)[1] == ""


def test_adapter_that_the_checkpoint_cannot_have_is_refused(base: Path):
    write_odd(base)
    policy = PolicyConfig(checkpoint=str(base / "odd"), adapter=AdapterConfig(base="nf4"))
    with pytest.raises(UserError, match="nf4"):
        pretrained.resolved(dataclasses.replace(load_config(ROOT / "configs" / "tiny.yaml"), policy=policy))


def write_odd(base: Path) -> None:
    """The configuration of a model whose products do not divide into the blocks of NF4."""
    values = json.loads((base / "policy" / "config.json").read_text())
    (base / "odd").mkdir(exist_ok=True)
    (base / "odd" / "config.json").write_text(json.dumps(values | {"intermediate_size": 131}))


ADAPTERS = """
policy: {adapter: {rank: 2, alpha: 8.0, targets: ["*"]}}
prm: {adapter: {rank: 2, targets: [q_proj]}}
tcg: {adapter: {rank: 2, base: nf4}}
"""


@pytest.fixture(scope="module")
def adapted(base: Path, settings: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run whose roles train adapters: two on the policy's checkpoint, the generator on its own."""
    folder = tmp_path_factory.mktemp("adapted")
    (folder / "adapters.yaml").write_text(ADAPTERS)
    own = ("--tcg.checkpoint", str(base / "tcg"), "--config", str(folder / "adapters.yaml"))
    run, done = cold_start(base, settings, folder, *own)
    assert (done.status, done.err) == (0, "")
    return run


def facts(run: Path, name: str) -> dict[str, Any]:
    return checkpoint.metadata(run / "checkpoints" / name)


def test_adapters_are_trained_on_the_checkpoints(adapted: Path):
    for name, base in {"policy-001": "policy-000", "prm-001": "policy-000", "tcg": "tcg-base"}.items():
        assert facts(adapted, name)["base"] == {
            "checkpoint": base,
            "fingerprint": facts(adapted, base)["fingerprint"],
        }
        held = [info.name.rsplit("/", 1)[-1] for info in checkpoint.describe(adapted / "checkpoints" / name)]
        assert set(held) <= {"lora_a", "lora_b", "value", "value_bias"}
    assert facts(adapted, "tcg")["model"]["width"] == 48


def test_best_is_known_by_what_the_stage_said_of_its_policy(cold: tuple[Path, Done], adapted: Path):
    """So that it is not written again when the run is opened again."""
    for run in (cold[0], adapted):
        best = summary_of(run)["best_iteration"]
        assert facts(run, "best")["iteration"] == best
        assert facts(run, "best")["fingerprint"] == results(run)[policy_stage(best)[0]]["weights"]
        for i in (0, 1):
            assert facts(run, policy_name(i))["fingerprint"] == results(run)[policy_stage(i)[0]]["weights"]


def test_adapted_policy_is_exported_merged(adapted: Path, base: Path, tmp_path: Path):
    export_merged(adapted, base, tmp_path / "out", "policy", "down", "mlp.down_proj", 4.0)
    loaded = AutoTokenizer.from_pretrained(tmp_path / "out")
    assert loaded.chat_template == checkpoints.TEMPLATE and loaded.eos_token == "<|im_end|>"
    assert json.loads((tmp_path / "out" / "generation_config.json").read_text()) == {"eos_token_id": [2, 0]}


def test_adapted_reward_model_is_exported_merged(adapted: Path, base: Path, tmp_path: Path):
    change = export_merged(adapted, base, tmp_path / "out", "prm", "query", "self_attn.q_proj", 8.0)
    assert abs(change).max() > 1e-4  # random weights verify no path, so that of the policy is still zero
    assert (tmp_path / "out" / "value_head.safetensors").exists()


def export_merged(
    run: Path, base: Path, out: Path, role: str, product: str, theirs: str, scale: float
) -> np.ndarray[Any, Any]:
    """Exports `ROLE-001` and compares it with the checkpoint that it came from; returns what the adapter changed."""
    done = bare_command("export", str(run), "--role", role, "--checkpoint", f"{role}-001", "-o", str(out))
    assert done.status == 0, done.err
    written, source = (load_file(folder / "model.safetensors") for folder in (out, base / "policy"))
    factors = checkpoint.restore(run / "checkpoints" / f"{role}-001")["blocks"][product]
    a, b = (np.asarray(factors[name])[0] for name in ("lora_a", "lora_b"))
    change = scale * a.reshape(-1, 2) @ b.reshape(2, -1)
    name = f"model.layers.0.{theirs}.weight"
    np.testing.assert_allclose(written[name], source[name] + change.T, atol=1e-5)
    np.testing.assert_array_equal(written["model.embed_tokens.weight"], source["model.embed_tokens.weight"])
    return change


@needs_torch
def test_transformers_loads_the_exported_policy(adapted: Path, tmp_path: Path):
    done = bare_command("export", str(adapted), "--checkpoint", "policy-001", "-o", str(tmp_path / "out"))
    assert done.status == 0, done.err
    told = json.loads(torch("torch_generate.py", tmp_path / "out", "[[5, 3]]", 4))
    assert told["loading"] == [] and told["classes"][0] == "Qwen2ForCausalLM"


def test_generator_is_exported_with_its_own_tokenizer(adapted: Path, base: Path, tmp_path: Path):
    gone = tmp_path / "gone"  # the run, after the folder of its checkpoint was removed
    shutil.copytree(adapted, gone, ignore=shutil.ignore_patterns(".lock"))
    settings = (gone / "config.yaml").read_text()
    (gone / "config.yaml").write_text(settings.replace(str(base / "tcg"), str(tmp_path / "none")))
    for run, out in ((adapted, tmp_path / "a"), (gone, tmp_path / "b")):
        done = bare_command("export", str(run), "--role", "tcg", "-o", str(out))
        assert done.status == 0, done.err
        assert json.loads((out / "config.json").read_text())["model_type"] == "llama"
        assert (out / "tokenizer.json").read_bytes() == (base / "tcg" / "tokenizer.json").read_bytes()
        assert set(json.loads((out / "generation_config.json").read_text())["eos_token_id"]) == {0, 2}


REFUSED = [
    (("--tokenizer.file", "x"), "policy.checkpoint brings its own tokenizer; leave one out"),
    (("--policy.checkpoint", "{base}/none"), "cannot read {base}/none/config.json"),
    (("--policy.prompt", "{base}/none.yaml"), "cannot read the prompt file {base}/none.yaml"),
    (("--prm.checkpoint", "{base}/tcg"), "prm.checkpoint {base}/tcg has another tokenizer than policy.checkpoint"),
    (("--tcg.checkpoint", "{base}/none"), "cannot read {base}/none/config.json"),
]


@pytest.mark.parametrize(("arguments", "message"), REFUSED, ids=[" ".join(row[0]) for row in REFUSED])
def test_what_cannot_be_used_is_refused_before_anything_is_searched(
    base: Path, settings: Path, runs: Path, arguments: tuple[str, ...], message: str
):
    run, done = cold_start(base, settings, runs, *(one.format(base=base) for one in arguments))
    assert done.status == 2 and message.format(base=base) in done.err and done.err.count("\n") == 1
    assert "bootstrap" not in (results(run) if run.exists() else {})


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--prm.checkpoint", "x"), "prm.checkpoint is given without policy.checkpoint"),
        (("--policy.prompt", "x"), "policy.prompt is given, but no checkpoint that would be asked"),
    ],
)
def test_settings_that_lack_a_checkpoint_are_refused(settings: Path, arguments: tuple[str, ...], message: str):
    done = command(settings, *arguments)
    assert done.status == 2 and message in done.err


def test_longest_prompt_and_path_fit_into_the_batches_of_the_configuration():
    config = load_config(ROOT / "configs" / "checkpoint.yaml")
    prompts = render(ROOT / "configs" / "prompts" / "steps.yaml", None)
    search, tcg = config.search, config.tcg
    examples = len(prompts.policy.before) // 3  # tokens; those of code have more than three letters in the mean
    path = search.prompt_tokens + (search.depth - 1) * search.step_tokens + search.code_tokens
    assert min(config.sft.batch.length, config.prm.batch.length) >= examples + path
    assert tcg.batch.length >= len(prompts.tcg.before) // 3 + tcg.prompt_tokens + tcg.answer_tokens


@needs_data
@pytest.mark.parametrize(("family", "tokenizer"), [("qwen2", "gpt2"), ("llama", "minimind")])
def test_loop_on_real_rows_with_real_tokenizers(
    family: str, tokenizer: str, settings: Path, runs: Path, tmp_path: Path
):
    (tmp_path / "prompt.yaml").write_text(PROMPT)
    folder = folder_of(tmp_path, "policy")
    checkpoints.copy_tokenizer(folder, DATA / "tokenizers" / tokenizer)
    checkpoints.write_checkpoint(folder, family)
    longer = ("--tcg.batch.length", "640", "--search.rollouts", "2")
    drawn = ("--tcg.suite", "2", "--tcg.wrong_samples", "1", "--evaluate.samples", "1", "--evaluate.aspr_samples", "1")
    run, done = cold_start(tmp_path, settings, runs, "--problems.path", str(ROWS), *longer, *drawn)
    assert (done.status, done.err) == (0, "")
    summary: dict[str, Any] = json.loads((run / "summary.json").read_text())
    [row] = summary["iterations"]
    assert row["pass_at_1_greedy"] == 0.0 and row["solved_by_search"] == 0.0 and row["sft_paths"] == 0
    assert row["well_formed"] < 0.5 and "001-sft: skipped, no verified paths" in done.out
    assert results(run)["bootstrap"]["chat_template"] == (tokenizer == "minimind")
