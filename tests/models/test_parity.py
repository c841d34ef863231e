"""Checkpoints that transformers wrote compute here what they compute there: from files, and live where torch is.

The files of `goldens` are made by `make_goldens.py`. With O1CODER_TORCH_PYTHON, an interpreter that has torch and
transformers, the same cases are made anew and compared, and exported models are run there.
"""

from __future__ import annotations

import functools
import os
import subprocess
from pathlib import Path

import jax
import numpy as np
import pytest
from flax import nnx

from o1coder_jax import hf, losses, weights
from o1coder_jax.mesh import parameter_name
from tests.tiny import one_device

GOLDENS = Path(__file__).parent / "goldens"
CASES = sorted(path.name for path in GOLDENS.iterdir() if path.is_dir())
TORCH = os.environ.get("O1CODER_TORCH_PYTHON")
needs_torch = pytest.mark.skipif(not TORCH, reason="O1CODER_TORCH_PYTHON names no interpreter with torch")


def batch_of(expected) -> dict[str, np.ndarray]:
    """The case's rows, each its own segment; a token counts if it and the one before it are no padding."""
    mask = expected["mask"].astype(np.int32)
    counted = np.pad(mask[:, 1:] * mask[:, :-1], ((0, 0), (1, 0))).astype(np.float32)
    positions = np.maximum(mask.cumsum(-1) - 1, 0).astype(np.int32)
    return {"tokens": expected["tokens"].astype(np.int32), "positions": positions, "segments": mask, "weight": counted}


@functools.partial(jax.jit, static_argnames=("graph",))
def logits_of(graph, state, batch):
    model = nnx.merge(graph, state)
    return model.logits(model.read(batch["tokens"], batch["positions"], batch["segments"]))


@functools.partial(jax.jit, static_argnames=("graph",))
def loss_and_gradient(graph, state, batch):
    return jax.value_and_grad(lambda state: losses.sft(nnx.merge(graph, state), batch)[0])(state)


def check_logits(folder: Path) -> None:
    expected = np.load(folder / "expected.npz")
    batch = batch_of(expected)
    shown = batch["segments"] == 1
    found = logits_of(*weights.load(folder, hf.model_config(folder), one_device()), batch)
    scale = np.abs(expected["logits"][shown]).max()
    assert scale > 1
    np.testing.assert_allclose(np.asarray(found)[shown], expected["logits"][shown], atol=1e-4 * scale, rtol=0)


def check_gradient(folder: Path) -> None:
    expected = np.load(folder / "expected.npz")
    graph, state = weights.load(folder, hf.model_config(folder), one_device())
    loss, gradient = loss_and_gradient(graph, state, batch_of(expected))
    assert float(loss) == pytest.approx(float(expected["loss"]), rel=1e-3)
    ours = theirs_of(nnx.to_pure_dict(gradient))
    names = [name for name in expected.files if name.startswith("gradient:")]
    assert len(names) >= 4
    for name in names:
        theirs = expected[name]
        difference = np.linalg.norm(ours[name.removeprefix("gradient:")] - theirs)
        assert difference < 1e-3 * np.linalg.norm(theirs), name


def theirs_of(tree) -> dict[str, np.ndarray]:
    """Our parameters (or their gradients) under their names in checkpoints and in their layout."""
    found = {}
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        stored = weights.STORED[parameter_name(path)]
        for layer, (name, shape) in enumerate(weights.stored_tensors(path, leaf.shape)):
            own = np.asarray(leaf if shape == leaf.shape else leaf[layer])
            found[name] = own.reshape(stored.shape(shape)[::-1]).T if stored.transposed else own.reshape(-1, *shape[1:])
            found[name] = found[name].reshape(stored.shape(shape))
    return found


def with_gradients(folder: Path) -> list[str]:
    return [name for name in CASES if any("gradient" in key for key in np.load(folder / name / "expected.npz").files)]


@pytest.mark.parametrize("name", CASES)
def test_logits_are_those_of_transformers(name):
    check_logits(GOLDENS / name)


@pytest.mark.parametrize("name", with_gradients(GOLDENS))
def test_loss_and_gradient_are_those_of_torch(name):
    check_gradient(GOLDENS / name)


def test_each_family_and_both_kinds_of_files_are_among_the_cases():
    assert {name.split("-")[0] for name in CASES} == set(hf.FAMILIES)
    assert (GOLDENS / "qwen2" / weights.INDEX).exists() and (GOLDENS / "llama" / weights.WHOLE).exists()
    assert len(with_gradients(GOLDENS)) == 5


@needs_torch
def test_live_logits_and_gradients(tmp_path):
    """The installed transformers, whatever its version, computes what the files say, and so do we."""
    torch("make_goldens.py", tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == CASES
    for name in CASES:
        check_logits(tmp_path / name)
    for name in with_gradients(tmp_path):
        check_gradient(tmp_path / name)


def torch(script: str, *arguments: object) -> str:
    """What a script beside this file prints where torch is."""
    assert TORCH is not None
    command = [TORCH, str(Path(__file__).parent / script), *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout
