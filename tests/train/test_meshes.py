"""Eight devices, in one process or in two, compute what one device does; what one mesh saved, another restores."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.together import free_port, printed
from tests.train.meshes import ACROSS, DEVICES, MESHES, MODEL, VOCABULARY
from tests.train.world import ENVIRONMENT


def run(folder: Path, count: int) -> list[dict[str, Any]]:
    """What each of so many processes found."""
    checkpoint, port = str(folder / "checkpoint"), str(free_port())
    commands = [["tests.train.meshes", checkpoint, str(index), str(count), port] for index in range(count)]
    return printed(commands, ENVIRONMENT)


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return run(tmp_path_factory.mktemp("meshes"), 1)[0]


def near(found: dict[str, float]) -> None:
    assert max(found[name] for name in ("loss", "gradient", "after")) < 1e-5


@pytest.mark.parametrize("mesh", MESHES)
def test_any_mesh_of_eight_computes_what_one_device_does(alone: dict[str, Any], mesh: str):
    assert alone["devices"] == DEVICES
    near(alone[mesh])


@pytest.mark.parametrize("mesh", MESHES)
def test_what_one_mesh_saved_another_restores_bit_by_bit(alone: dict[str, Any], mesh: str):
    assert alone[mesh]["restored"]


def test_rows_alone_are_split_without_gathering(alone: dict[str, Any]):
    assert alone["8x1x1"]["gathered"] == 0


@pytest.mark.parametrize("mesh", ["1x8x1", "2x2x2"])
def test_nothing_larger_than_a_matrix_is_gathered(alone: dict[str, Any], mesh: str):
    """Neither the stacked layers (2,560 numbers of one name) nor the states of all rows (1,536).

    Left out is the mesh that cannot split two key heads over its four devices of `tensor`: they are whole on each.
    """
    assert 0 < alone[mesh]["gathered"] <= max(MODEL.width * MODEL.mlp_width, VOCABULARY * MODEL.width)


def test_two_processes_with_four_devices_compute_the_same(tmp_path: Path):
    for found in run(tmp_path, 2):
        assert found["devices"] == DEVICES
        for mesh in ACROSS:
            near(found[mesh])
