"""Two devices compute what one does, however parameters and rows are split between them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import jax
import pytest
from jax.sharding import PartitionSpec as P

from o1coder_jax.errors import UserError
from o1coder_jax.mesh import MeshConfig, make_mesh, parameter_spec, row_shards

ROOT = Path(__file__).resolve().parent.parent.parent
MESHES = ["data", "fsdp", "tensor"]


@pytest.fixture(scope="module")
def report():
    """What the two devices computed; devices can be counted only once per process."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.models.two_devices"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=900,
        env={**os.environ, "JAX_PLATFORMS": "cpu"},
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout)


def test_there_are_two_devices(report):
    assert report["devices"] == 2


@pytest.mark.parametrize("mesh", ["data", "tensor"])
def test_answers_are_those_of_one_device(report, mesh):
    assert report[mesh]["answers"]


@pytest.mark.parametrize(("mesh", "shares"), [("data", [0.5, 0.5]), ("tensor", [0.5, 1.0])])
def test_rows_are_split_from_the_first_step_on(report, mesh, shares):
    """Else each device would hold all of them at first, and what decodes them would be compiled twice."""
    calls, alike = report[mesh]["decoded"]
    assert calls > 1 and alike == calls
    assert report[mesh]["rows_held"] == shares


@pytest.mark.parametrize("mesh", MESHES)
def test_trees_are_those_of_one_device(report, mesh):
    assert report[mesh]["trees"]


@pytest.mark.parametrize(("mesh", "collectives"), [("data", []), ("fsdp", []), ("tensor", ["all-reduce"])])
def test_a_wave_has_no_collective_but_the_sums_of_split_products(report, mesh, collectives):
    """No device waits for one that holds other rows, wherever training keeps its parameters."""
    assert report[mesh]["collectives"] == collectives


@pytest.mark.parametrize("mesh", MESHES)
def test_loss_and_gradient_are_those_of_one_device(report, mesh):
    assert report[mesh]["loss"] < 1e-5
    assert report[mesh]["gradient"] < 1e-5


def test_rows_are_split_over_data_and_fsdp(report):
    assert [report[mesh]["row_shards"] for mesh in MESHES] == [2, 2, 1]


@pytest.mark.parametrize("mesh", MESHES)
def test_sampler_of_a_packed_and_adapted_model_is_that_of_one_device(report, mesh):
    assert report[mesh]["merged"] < 1e-6


COLUMNS, ROWS = ("query", "key", "value", "gate", "up"), ("output", "down")
MATRICES = {f"{name}.weight" for name in COLUMNS + ROWS} | {"embedding"}


def parts(names: tuple[str, ...], *kinds: str) -> set[str]:
    return {f"{name}.{kind}" for name in names for kind in kinds}


# Two devices cannot share the one block of the width, nor the three of the MLP's width: such packed weights stay whole.
OVER_FSDP = MATRICES | parts(COLUMNS, "codes", "scales", "lora_a") | parts(ROWS, "lora_b")
OVER_TENSOR = MATRICES | parts(("query", "key", "value"), "codes", "scales") | parts(ROWS, "codes", "scales", "lora_a")
OVER_TENSOR |= parts(COLUMNS, "lora_b")


@pytest.mark.parametrize(("mesh", "halved"), [("data", set()), ("fsdp", OVER_FSDP), ("tensor", OVER_TENSOR)])
def test_parameters_are_split_as_their_rule_says(report, mesh, halved):
    shares = report[mesh]["share"]
    assert {name for name, share in shares.items() if share == 0.5} == halved
    assert {share for name, share in shares.items() if name not in halved} <= {1.0}


@pytest.mark.parametrize(
    ("name", "shape", "spec"),
    [
        ("query.weight", (2, 16, 4, 8), P(None, "fsdp", "tensor", None)),
        ("down.weight", (2, 24, 16), P(None, "tensor", "fsdp")),
        ("embedding", (13, 16), P(None, "fsdp")),
        ("value.weight", (2, 16, 3, 8), P(None, "fsdp", None, None)),
        ("gate.lora_a", (2, 16, 3), P(None, "fsdp", None)),
        ("value", (16,), P()),
        ("gate.codes", (2, 16, 4, 32), P(None, "fsdp", "tensor", None)),
        ("gate.scales", (2, 16, 4), P(None, "fsdp", "tensor")),
        ("down.codes", (2, 64, 3, 32), P(None, "tensor", None, None)),
        ("down.scales", (2, 64, 3), P(None, "tensor", None)),
        ("output.codes", (2, 4, 8, 4, 8), P(None, "tensor", None, "fsdp", None)),
        ("attention_norm", (2, 16), P()),
        ("count", (), P()),
    ],
)
def test_parameter_spec_by_name(name, shape, spec):
    assert parameter_spec(name, shape, {"data": 1, "fsdp": 4, "tensor": 2}) == spec


def test_whole_mesh_by_default():
    mesh = make_mesh(MeshConfig())
    assert dict(mesh.shape) == {"data": len(jax.devices()), "fsdp": 1, "tensor": 1}
    assert row_shards(mesh) == len(jax.devices())


@pytest.mark.parametrize("config", [MeshConfig(data=64), MeshConfig(fsdp=64), MeshConfig(data=1, tensor=64)])
def test_mesh_that_does_not_fit_is_refused_with_a_way_out(config):
    with pytest.raises(UserError, match=r"does not use the \d+ devices; set mesh\.data to -1"):
        make_mesh(config)


@pytest.mark.parametrize(
    ("settings", "complaint"),
    [
        ({"data": 0}, "mesh.data is 0"),
        ({"data": -2}, "mesh.data is -2"),
        ({"fsdp": 0}, "mesh.fsdp is 0"),
        ({"tensor": -1}, "mesh.tensor is -1"),
        ({"cpu_devices": 0}, "mesh.cpu_devices is 0"),
    ],
)
def test_sizes_below_one_are_refused(settings, complaint):
    with pytest.raises(UserError, match=complaint):
        MeshConfig(**settings)
