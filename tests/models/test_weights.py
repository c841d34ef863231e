"""Weights from safetensors: where they go, what they take, and what is refused."""

from __future__ import annotations

import json
import math
import os
import shutil
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from flax import nnx
from safetensors.numpy import load_file, save_file

from o1coder_jax import hf, hf_export, losses, weights
from o1coder_jax.errors import UserError
from o1coder_jax.transformer import ModelConfig
from o1coder_jax.weights import INDEX, WHOLE, Stored
from tests.tiny import SHAPE, decoder, one_device

ROOT = Path(__file__).resolve().parent.parent.parent
GOLDENS = Path(__file__).parent / "goldens"
LARGE = ModelConfig(width=512, layers=8, heads=8, kv_heads=4, head_size=64, mlp_width=1536)
ROWS = 2048


def load(folder: Path, **settings):
    return weights.load(folder, hf.model_config(folder), one_device(), **settings)


@pytest.fixture
def llama(tmp_path: Path) -> Path:
    """A copy of a golden checkpoint that a test may damage."""
    shutil.copytree(GOLDENS / "llama", tmp_path / "llama")
    return tmp_path / "llama"


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory):
    """What `sharded_load.py` says of a checkpoint of 100 MB, in bfloat16 half of that."""
    folder = tmp_path_factory.mktemp("large")
    (folder / hf.CONFIG).write_text(json.dumps(hf_export.config_for(LARGE, ROWS, "bfloat16")))
    rng, width, kv = np.random.default_rng(0), LARGE.width, LARGE.kv_heads * LARGE.head_size
    mlp, layer = LARGE.mlp_width, "model.layers.{}."
    shapes = {"model.embed_tokens.weight": (ROWS, width), "model.norm.weight": (width,)}
    for number in range(LARGE.layers):
        own = {"input_layernorm": (width,), "post_attention_layernorm": (width,)}
        own |= {
            f"self_attn.{name}_proj": (size, width) for name, size in zip("qkvo", (width, kv, kv, width), strict=True)
        }
        own |= {"mlp.gate_proj": (mlp, width), "mlp.up_proj": (mlp, width), "mlp.down_proj": (width, mlp)}
        shapes |= {f"{layer.format(number)}{name}.weight": shape for name, shape in own.items()}
    draw = rng.standard_normal(2**20, np.float32).astype(ml_dtypes.bfloat16)
    tensors = {
        name: np.resize(np.roll(draw, 7 * place), math.prod(shape)).reshape(shape)
        for place, (name, shape) in enumerate(shapes.items())
    }
    save_file(tensors, folder / WHOLE)
    done = subprocess.run(
        [sys.executable, "-m", "tests.models.sharded_load", str(folder)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=900,
        env={**os.environ, "JAX_PLATFORMS": "cpu"},
    )
    (folder / WHOLE).unlink()
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout)


def test_every_parameter_is_that_of_the_files(report):
    assert len(report["equal"]) == 11 and all(report["equal"].values())


def test_each_device_holds_its_part(report):
    matrices = {"embedding"} | {f"{name}.weight" for name in ("query", "key", "value", "output", "gate", "up", "down")}
    assert {name for name, share in report["share"].items() if share == 0.25} == matrices


def test_loading_takes_little_more_memory_than_the_weights(report):
    assert report["result"] > 100e6
    assert report["peak"] < report["result"] + 64e6  # JAX's compiler takes 30 MB, however many layers there are


@pytest.mark.parametrize(
    ("stored", "ours", "index"),
    [
        (Stored("", (1, 2), True), (6, 4, 3), (slice(2, 4), slice(1, 3), slice(None))),
        (Stored("", (2, 1), True), (4, 3, 6), (slice(1, 3), slice(None), slice(3, 6))),
        (Stored("", (1, 1), True), (6, 8), (slice(None), slice(2, 4))),
        (Stored("", (1, 1)), (6, 8), (slice(3, 6), slice(4, 8))),
        (Stored("", (2,)), (4, 3), (slice(2, 4), slice(None))),
        (Stored(""), (8,), (slice(None),)),
    ],
)
def test_a_part_of_ours_is_a_part_of_the_tensor(stored, ours, index):
    whole = np.arange(math.prod(ours)).reshape(ours)
    shape = stored.shape(ours)
    tensor = whole.reshape(shape[::-1]).T if stored.transposed else whole.reshape(shape)
    part = tensor[stored.slices(ours, index)]
    assert part.size == whole[index].size
    np.testing.assert_array_equal((part.T if stored.transposed else part).reshape(whole[index].shape), whole[index])


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_weights_come_in_the_dtype_that_is_asked_for(dtype):
    _, found = load(GOLDENS / "llama", dtype=dtype)
    assert {leaf.dtype for leaf in nnx.to_pure_dict(found)["blocks"]["query"].values()} == {jnp.dtype(dtype)}
    expected = load_file(GOLDENS / "llama" / WHOLE)["model.embed_tokens.weight"].astype(jnp.dtype(dtype))
    np.testing.assert_array_equal(np.asarray(found["embedding"][...]), expected)


def change(folder: Path, **changes: np.ndarray | None) -> None:
    """Replaces, adds or (None) removes tensors; `__` stands for a point."""
    tensors = load_file(folder / WHOLE) | {name.replace("__", "."): value for name, value in changes.items()}
    save_file({name: value for name, value in tensors.items() if value is not None}, folder / WHOLE)


def test_precomputed_frequencies_of_old_files_are_passed_over(llama):
    change(llama, model__layers__0__self_attn__rotary_emb__inv_freq=np.ones(2, np.float32))
    load(llama)


def test_a_head_that_repeats_the_tied_embedding_is_passed_over(tmp_path):
    folder = tmp_path / "tied"
    shutil.copytree(GOLDENS / "llama-tied", folder)
    embedding = load_file(folder / WHOLE)["model.embed_tokens.weight"]
    change(folder, lm_head__weight=embedding)
    load(folder)
    change(folder, lm_head__weight=embedding + 1)
    with pytest.raises(UserError, match=r"lm_head\.weight is not the embedding that config\.json ties it to"):
        load(folder)


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"model__norm__weight": None}, r"has no tensor model\.norm\.weight \(16,\)"),
        ({"model__norm__weight": np.ones(8, np.float16)}, r"model\.norm\.weight has shape \(8,\), .* asks for \(16,\)"),
        ({"model__norm__weight": np.ones(16, np.int8)}, r"model\.norm\.weight is of type I8; only F32, F16, BF16"),
        ({"model__extra__weight": np.ones(16, np.float16)}, r"tensor model\.extra\.weight \(16,\) is not understood"),
    ],
)
def test_tensors_that_do_not_fit_are_refused_by_name(llama, changes, line):
    change(llama, **changes)
    with pytest.raises(UserError, match=line):
        load(llama)


@pytest.mark.parametrize("size", [0, 4, 300, 9000])
def test_a_truncated_file_is_refused(llama, size):
    whole = (llama / WHOLE).read_bytes()
    assert len(whole) > 9000
    (llama / WHOLE).write_bytes(whole[:size])
    with pytest.raises(UserError, match=r"model\.safetensors is damaged .*; download it again"):
        load(llama)


def test_a_missing_file_is_refused(llama, tmp_path):
    (llama / WHOLE).unlink()
    with pytest.raises(UserError, match=r"has neither model\.safetensors nor model\.safetensors\.index\.json"):
        load(llama)
    folder = tmp_path / "parts"
    shutil.copytree(GOLDENS / "qwen2", folder)
    (folder / "model-00002-of-00003.safetensors").unlink()
    with pytest.raises(UserError, match=r"lacks model-00002-of-00003\.safetensors, which model\.safetensors\.index"):
        load(folder)
    shutil.copyfile(folder / "model-00001-of-00003.safetensors", folder / "model-00002-of-00003.safetensors")
    with pytest.raises(UserError, match=r"model-00002-of-00003\.safetensors lacks model\.layers"):
        load(folder)
    (folder / INDEX).write_text("{}")
    with pytest.raises(UserError, match="has no weight_map"):
        load(folder)


def test_a_tokenizer_with_more_ids_than_rows_is_refused():
    with pytest.raises(UserError, match="the tokenizer has 41 ids, the model's embedding 40 rows"):
        load(GOLDENS / "llama", vocab_size=41)


def test_rows_beyond_the_tokenizer_are_never_predicted():
    graph, state = load(GOLDENS / "llama", vocab_size=37)
    model, all_ids = nnx.merge(graph, state), nnx.merge(*load(GOLDENS / "llama"))
    hidden = jnp.asarray(np.random.default_rng(0).normal(size=(5, 16)), jnp.float32)
    scores = model.logits(hidden)
    np.testing.assert_array_equal(scores[:, :37], all_ids.logits(hidden)[:, :37])
    assert scores.shape == (5, 40) and (jax.nn.softmax(scores)[:, 37:] == 0).all()
    assert (all_ids.logits(hidden)[:, 37:] > -10).all()

    def picked(hidden):
        scores, entropy = losses.log_probability(model, hidden[None], jnp.array([[0, 36, 5, 7, 9]]))
        return scores.sum() + entropy.sum(), (scores, entropy)

    (_, (found, entropy)), gradient = jax.value_and_grad(picked, has_aux=True)(hidden)
    plain = jax.nn.log_softmax(scores[:, :37])
    np.testing.assert_allclose(found[0], plain[np.arange(5), [0, 36, 5, 7, 9]], atol=1e-4)
    np.testing.assert_allclose(entropy[0], -(jnp.exp(plain) * plain).sum(-1), atol=1e-4)
    assert jnp.isfinite(gradient).all()


@pytest.mark.parametrize("file_bytes", [10**9, 3000])
def test_what_is_written_is_read_again(tmp_path, file_bytes):
    model = decoder(SHAPE, 13, value_head=True)
    _, state = nnx.split(model)
    (tmp_path / hf.CONFIG).write_text(json.dumps(hf_export.config_for(SHAPE, 13, "float32")))
    hf_export.write_weights(tmp_path, state, "float32", file_bytes=file_bytes)
    assert (tmp_path / INDEX).exists() == (file_bytes == 3000)
    _, again = load(tmp_path, value_head=True)
    ours, read = nnx.to_pure_dict(state), nnx.to_pure_dict(again)
    assert ours.keys() == read.keys()
    jax.tree.map(np.testing.assert_array_equal, ours, read)
    assert float(jnp.abs(read["value"]).max()) > 0


def test_a_checkpoint_without_a_value_head_gets_one_of_zeros():
    _, found = load(GOLDENS / "llama", value_head=True)
    assert found["value"][...].shape == (16,) and not found["value"][...].any() and not found["value_bias"][...]
