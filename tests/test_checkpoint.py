"""Checkpoints: they come back as they were, bare Orbax opens them, and a wrong one is said in one line."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from o1coder_jax import checkpoint
from o1coder_jax.errors import UserError


def tree() -> dict:
    parameters = {
        "layers": {"w": jnp.arange(24.0).reshape(2, 3, 4), "norm.scale": jnp.ones(3, jnp.bfloat16)},
        "embed": jnp.ones((5, 3)),
    }
    return {"params": parameters, "optimiser": optax.adamw(1e-3).init(parameters), "step": 3}


def same(a, b) -> bool:
    return jax.tree.structure(a) == jax.tree.structure(b) and all(
        np.array_equal(x, y) and np.asarray(x).dtype == np.asarray(y).dtype
        for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
    )


@pytest.fixture
def path(tmp_path: Path) -> Path:
    folder = tmp_path / "checkpoint"
    checkpoint.save(folder, tree(), {"iteration": 2, "loss": 0.5})
    return folder


def test_tree_comes_back_with_its_containers_and_dtypes(path: Path):
    assert same(checkpoint.restore(path, tree()), tree())


def test_abstract_tree_is_enough_to_restore(path: Path):
    restored = checkpoint.restore(path, jax.eval_shape(lambda: tree()))
    assert same(restored["params"], tree()["params"])


def test_without_a_template_plain_numpy_dictionaries_come_back(path: Path):
    restored = checkpoint.restore(path)
    assert type(restored["optimiser"]["0"]["mu"]) is dict
    assert isinstance(restored["params"]["embed"], np.ndarray)
    np.testing.assert_array_equal(restored["params"]["layers"]["w"], tree()["params"]["layers"]["w"])


def test_bare_orbax_opens_it_in_four_lines(path: Path):
    import orbax.checkpoint as ocp

    with ocp.StandardCheckpointer() as checkpointer:
        restored = checkpointer.restore(path)
    np.testing.assert_array_equal(restored["params"]["layers"]["w"], tree()["params"]["layers"]["w"])


def test_branch_that_is_not_asked_for_is_not_read(path: Path):
    assert same(checkpoint.restore(path, {"params": tree()["params"]}), {"params": tree()["params"]})


def test_values_are_cast_to_the_dtype_that_is_asked_for(path: Path):
    like = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, jnp.bfloat16), tree()["params"])
    assert checkpoint.restore(path, {"params": like})["params"]["embed"].dtype == jnp.bfloat16


def test_typed_random_keys_go_on_where_they_were(tmp_path: Path):
    keys = {"key": jax.random.key(7), "rbg": jax.random.key(7, impl="rbg")}
    checkpoint.save(tmp_path / "c", keys)
    restored = checkpoint.restore(tmp_path / "c", jax.eval_shape(lambda: keys))
    for name in keys:
        assert jax.random.bits(restored[name]) == jax.random.bits(keys[name])


def test_flax_modules_are_stored_as_plain_dictionaries(tmp_path: Path):
    state = nnx.state(nnx.Linear(2, 3, rngs=nnx.Rngs(0)))
    checkpoint.save(tmp_path / "c", nnx.to_pure_dict(state))
    assert {info.name: info.shape for info in checkpoint.describe(tmp_path / "c")} == {"bias": (3,), "kernel": (2, 3)}


def test_metadata_comes_back(path: Path):
    assert checkpoint.metadata(path) == {"iteration": 2, "loss": 0.5}


def test_description_lists_arrays_with_their_sizes(path: Path):
    info = {info.name: info for info in checkpoint.describe(path)}["params/layers/norm.scale"]
    assert (info.shape, info.dtype, info.size_bytes) == ((3,), "bfloat16", 6)


def test_saving_again_replaces_the_checkpoint(path: Path):
    checkpoint.save(path, {"params": {"w": jnp.zeros(2)}}, {"iteration": 3})
    assert [info.name for info in checkpoint.describe(path)] == ["params/w"]
    assert checkpoint.metadata(path) == {"iteration": 3}


def refusal(path: Path, like) -> str:
    with pytest.raises(UserError) as caught:
        checkpoint.restore(path, like)
    return str(caught.value)


def test_other_shape_names_the_array_and_both_shapes(path: Path):
    like = tree()["params"]
    like["layers"]["w"] = jnp.zeros((4, 3, 4))
    assert "params/layers/w has shape (2, 3, 4), the configuration asks for (4, 3, 4)" in refusal(
        path, {"params": like}
    )


def test_array_that_the_checkpoint_lacks_is_named(path: Path):
    like = tree()["params"] | {"head": jnp.zeros((3, 5))}
    assert "has no array params/head (3, 5)" in refusal(path, {"params": like})


def test_array_that_nobody_asks_for_is_named(path: Path):
    like = tree()["params"]
    del like["embed"]
    assert "has an array params/embed (5, 3) more" in refusal(path, {"params": like})


def test_missing_checkpoint_is_named(tmp_path: Path):
    assert refusal(tmp_path / "none", None).startswith(f"there is no checkpoint at {tmp_path}/none; ")


def test_folder_that_is_no_checkpoint_is_named(tmp_path: Path):
    assert refusal(tmp_path, tree()).startswith(f"{tmp_path} is no checkpoint; ")


def largest_data_file(path: Path) -> Path:
    return max(path.glob("ocdbt.process_0/d/*"), key=lambda file: file.stat().st_size)


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda file: file.write_bytes(file.read_bytes()[:10]), "is not as it was written"),
        (lambda file: file.write_bytes(file.read_bytes()[:-1] + b"?"), "is not as it was written"),
        (lambda file: file.unlink(), "is missing"),
    ],
)
def test_damaged_checkpoint_is_one_line(path: Path, damage, said: str):
    file = largest_data_file(path)
    damage(file)
    assert refusal(path, tree()) == (
        f"the checkpoint {path} is damaged ({file.relative_to(path)} {said}); remove it and redo its stage"
    )


def test_checkpoint_of_bare_orbax_is_read(tmp_path: Path):
    import orbax.checkpoint as ocp

    with ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save(tmp_path / "c", {"w": jnp.arange(3)})
    assert same(checkpoint.restore(tmp_path / "c", {"w": jnp.zeros(3, int)}), {"w": jnp.arange(3)})


def test_full_disk_is_one_line(tmp_path: Path):
    code = (
        "import sys, numpy as np\n"
        "from o1coder_jax import checkpoint, errors\n"
        "tree = {'w': np.random.default_rng(0).random(2**20)}\n"
        "errors.run_command(lambda: checkpoint.save(sys.argv[1], tree))\n"
    )
    mount = f'mount -t tmpfs -o size=1m none {tmp_path} && exec {sys.executable} -c "$0" {tmp_path}/c'
    if subprocess.run(["unshare", "-rm", "true"], capture_output=True).returncode:
        pytest.skip("no small file system can be mounted here: unshare -rm fails")
    done = subprocess.run(["unshare", "-rm", "sh", "-c", mount, code], capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1] == (
        f"error: cannot write the checkpoint {tmp_path}/c: no space left; free space, then start the command again"
    )
    assert "Traceback" not in done.stderr


def test_two_arrays_of_one_name_are_refused(tmp_path: Path):
    with pytest.raises(ValueError, match="named 'a/b'"):
        checkpoint.save(tmp_path / "c", {"a": {"b": jnp.zeros(1)}, "a/b": jnp.zeros(1)})


_SHARDED = """
import sys
import jax, jax.numpy as jnp, numpy as np
from jax.sharding import NamedSharding, PartitionSpec
from o1coder_jax import checkpoint

mesh = jax.make_mesh((jax.device_count(),), ("x",))
rows = NamedSharding(mesh, PartitionSpec("x"))
if sys.argv[2] == "save":
    checkpoint.save(sys.argv[1], {"w": jax.device_put(jnp.arange(8.0), rows)})
else:
    restored = checkpoint.restore(sys.argv[1], {"w": jax.ShapeDtypeStruct((8,), jnp.float32, sharding=rows)})["w"]
    np.testing.assert_array_equal(restored, np.arange(8.0))
    np.testing.assert_array_equal(checkpoint.restore(sys.argv[1])["w"], np.arange(8.0))
    print(restored.sharding.shard_shape(restored.shape))
"""


def sharded(path: Path, what: str, devices: int) -> str:
    environment = os.environ | {"XLA_FLAGS": f"--xla_force_host_platform_device_count={devices}"}
    command = [sys.executable, "-c", _SHARDED, str(path), what]
    return subprocess.run(command, env=environment, check=True, capture_output=True, text=True).stdout.strip()


def test_checkpoint_of_four_devices_opens_on_two_and_on_one(tmp_path: Path):
    sharded(tmp_path / "c", "save", 4)
    assert sharded(tmp_path / "c", "restore", 2) == "(4,)"
    assert sharded(tmp_path / "c", "restore", 1) == "(8,)"
