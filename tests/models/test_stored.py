"""Checkpoints of roles: whole models, and adapters beside the base that they were trained on."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from o1coder_jax import checkpoint, stored
from o1coder_jax.adapters import AdapterConfig, trained
from o1coder_jax.errors import UserError
from o1coder_jax.sampler import sampler_weights
from o1coder_jax.stored import Model, Store
from tests.tiny import SHAPE, VOCAB, decoder, one_device

PACKED = AdapterConfig(rank=2, targets=("q_proj", "v_proj"), base="nf4")
KEY = jax.random.key(0)


def arrays(weights: Any) -> list[np.ndarray]:
    return [np.asarray(leaf) for leaf in jax.tree.leaves(weights)]


def same(a: Any, b: Any) -> bool:
    return all(np.array_equal(x, y) for x, y in zip(arrays(a), arrays(b), strict=True))


def taught(model: Model) -> Any:
    """Its weights after some training."""
    return nnx.merge_state(model.weights, jax.tree.map(lambda w: w + 0.5, trained(model.weights)))


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """A folder with a whole policy `policy-000`."""
    store = Store(tmp_path, VOCAB, "words", one_device(), SHAPE)
    store.save("policy-000", nnx.state(decoder()))
    return store


@pytest.fixture
def adapted(store: Store) -> Any:
    """What an adapter on `policy-000` was taught, stored as `sft-001`."""
    start = store.trainable("policy-000", PACKED, KEY)
    weights = taught(start)
    store.save("sft-001", weights, start)
    return weights


def test_whole_model_comes_back_as_it_was(store: Store):
    assert same(store.load("policy-000").weights, nnx.state(decoder()))


def test_checkpoint_of_a_role_holds_what_was_trained_and_no_more(store: Store, adapted: Any):
    held = {info.name for info in checkpoint.describe(store.folder / "sft-001")}
    assert held == {f"blocks/{name}/lora_{part}" for name in ("query", "value") for part in "ab"}


def test_checkpoint_of_a_role_names_its_base(store: Store, adapted: Any):
    facts, base = (checkpoint.metadata(store.folder / name) for name in ("sft-001", "policy-000"))
    assert facts["base"] == {"checkpoint": "policy-000", "fingerprint": base["fingerprint"]}
    assert AdapterConfig.from_dict(facts["adapter"]) == PACKED


def test_adapter_comes_back_on_its_base(store: Store, adapted: Any):
    model = Store(store.folder, VOCAB, "words", store.mesh).load("sft-001")
    assert same(model.weights, adapted) and model.adapter == PACKED


def test_fingerprint_of_an_adapter_depends_on_its_base(store: Store, adapted: Any):
    first = store.load("sft-001").fingerprint
    start = store.trainable("policy-000", PACKED, KEY)
    other = dataclasses.replace(start, base=dataclasses.replace(start.base, fingerprint="other"))  # type: ignore[arg-type]
    assert store.save("again", adapted, start) == first != store.save("other", adapted, other)


def test_same_adapter_is_trained_on(store: Store, adapted: Any):
    assert same(store.trainable("sft-001", PACKED, jax.random.key(9)).weights, adapted)


def test_another_adapter_begins_anew_on_the_same_base(store: Store, adapted: Any):
    other = store.trainable("sft-001", dataclasses.replace(PACKED, rank=3), KEY)
    assert other.base == store.load("sft-001").base
    assert {leaf.shape[-1] for leaf in jax.tree.leaves(trained(other.weights))} >= {3}


def test_roles_of_one_base_hold_its_arrays_once(store: Store, adapted: Any):
    roles = [store.load("sft-001"), store.trainable("policy-000", dataclasses.replace(PACKED, targets=("*",)), KEY)]
    frozen = [jax.tree.leaves(nnx.split_state(role.weights, nnx.Param, ...)[1]) for role in roles]
    pointers = [[leaf.unsafe_buffer_pointer() for leaf in leaves] for leaves in frozen]
    assert pointers[0] == pointers[1]


def test_released_base_leaves_the_device_with_its_last_role(store: Store):
    store.release()
    before = len(jax.live_arrays())
    role = store.trainable("policy-000", PACKED, KEY)
    base = len(jax.tree.leaves(nnx.split_state(role.weights, nnx.Param, ...)[1]))
    store.release()
    assert len(jax.live_arrays()) >= before + base
    del role
    store.release()
    assert len(jax.live_arrays()) == before


def test_full_training_goes_on_from_the_merged_model(store: Store, adapted: Any):
    start = store.trainable("sft-001", None, KEY)
    assert start.adapter is None
    sampled = sampler_weights(store.load("sft-001").graph, adapted, store.mesh)
    assert same(start.weights, sampled[1]) and start.graph == sampled[0]


def test_full_training_goes_on_in_float32_from_a_packed_base(store: Store):
    start = store.trainable("policy-000", PACKED, KEY)
    store.save("sft-001", taught(start), start)
    plain = store.trainable("sft-001", None, KEY)
    assert {str(leaf.dtype) for leaf in jax.tree.leaves(plain.weights)} == {"float32"}


def test_value_head_is_kept_with_the_adapter(store: Store):
    start = store.trainable("policy-000", PACKED, KEY).with_head(store.mesh)
    weights = taught(start)
    store.save("prm-001", weights, start)
    assert same(store.load("prm-001", value_head=True).weights, weights)
    assert {"value", "value_bias"} < {info.name for info in checkpoint.describe(store.folder / "prm-001")}


def test_base_that_is_another_now_is_refused(store: Store, adapted: Any):
    store.release()
    store.save("policy-000", nnx.state(decoder(seed=5)))
    with pytest.raises(UserError, match=r"sft-001 was trained on policy-000 \w+, which is another now"):
        store.load("sft-001")


def test_adapter_without_its_base_is_refused(store: Store, adapted: Any):
    shutil.rmtree(store.folder / "policy-000")
    with pytest.raises(UserError, match=r"sft-001 is an adapter on policy-000, which is not in that folder"):
        Store(store.folder, VOCAB, "words", store.mesh).load("sft-001")


def test_sampler_has_arrays_of_its_own(store: Store):
    model = store.load("policy-000")
    _, copied = sampler_weights(model.graph, model.weights, store.mesh)
    assert same(copied, model.weights)
    jax.tree.map(lambda leaf: leaf.delete(), model.weights)  # as a training step does with what was donated to it
    assert all(np.isfinite(leaf).all() for leaf in arrays(copied))


def test_sampler_in_bfloat16_halves_the_matrices(store: Store):
    model = store.load("policy-000")
    graph, copied = sampler_weights(model.graph, model.weights, store.mesh, "bfloat16")
    assert nnx.merge(graph, copied).config.dtype == "bfloat16"
    matrices = [leaf for leaf in jax.tree.leaves(copied) if leaf.ndim > 2]
    assert matrices and all(leaf.dtype == jnp.bfloat16 for leaf in matrices)


def test_fingerprint_does_not_depend_on_the_parts_that_it_is_read_in(store: Store, monkeypatch: pytest.MonkeyPatch):
    weights = store.load("policy-000").weights
    whole = stored.fingerprint(weights)
    monkeypatch.setattr(stored, "_LARGEST_PART_BYTES", 100)
    assert stored.fingerprint(weights) == whole
    assert max(part.nbytes for leaf in jax.tree.leaves(weights) for part in stored._parts(leaf)) < max(
        leaf.nbytes for leaf in jax.tree.leaves(weights)
    )
