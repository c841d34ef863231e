"""Accelerators by name: memory that a program can have, links; and the devices of a topology to compile for.

`v4:2x2x4` is a pod slice by its chips (v4-32 in the cloud's naming, which counts two cores a chip: 16 chips);
`h100:8` are so many GPUs of one node.
"""

from __future__ import annotations

import contextlib
import importlib.util
import math
import os
import re
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np

from o1coder_jax.errors import UserError
from o1coder_jax.hardware import DEVICES, GIB, Device

INSTALL = "pip install -e '.[plan]'"
GPU_SHARE = 0.92  # of a GPU's memory that a program can have, with XLA_PYTHON_CLIENT_MEM_FRACTION=0.92; JAX takes 75 %


@dataclass(frozen=True)
class Chip:
    """What a plan needs to know of an accelerator beside what `o1coder_jax/hardware.py` says.

    Attributes:
      memory: bytes of HBM that a program can have: of a TPU what libtpu's compiler allows.
      links: bytes/s that the chip can send to its neighbours over all links together, one way.
      axes: of the torus; 0 for GPUs.
    """

    name: str
    device: Device
    memory: float
    links: float
    axes: int = 0

    @property
    def flops(self) -> float:
        """Peak bf16 FLOP/s, dense."""
        return self.device.peak_flops

    @property
    def bandwidth(self) -> float:
        """Of the HBM, bytes/s."""
        return self.device.bandwidth


def _gpu(name: str, kind: str, links: float) -> Chip:
    return Chip(name, DEVICES[kind], GPU_SHARE * DEVICES[kind].memory_bytes, links)


# Links of TPUs one way: "How to Scale Your Model", jax-ml.github.io/scaling-book/tpus, 45 GB/s (v4, v5e) and
# 90 GB/s (v5p) each, two an axis. GPUs of one node: NVIDIA's data sheets, NVLink 3 (600 GB/s) and 4
# (900 GB/s), half one way.
CHIPS = {
    chip.name: chip
    for chip in (
        Chip("v4", DEVICES["TPU v4"], 30.75 * GIB, 6 * 45e9, axes=3),
        Chip("v5e", DEVICES["TPU v5e"], 15.75 * GIB, 4 * 45e9, axes=2),
        Chip("v5p", DEVICES["TPU v5p"], 95.74 * GIB, 6 * 90e9, axes=3),
        _gpu("a100", "NVIDIA A100-SXM4-80GB", 300e9),
        _gpu("h100", "NVIDIA H100", 450e9),
        _gpu("h200", "NVIDIA H200", 450e9),
    )
}


@dataclass(frozen=True)
class Topology:
    """Chips that a plan is for.

    Attributes:
      text: as it was given; `shape`: sizes of the torus, or (count,).
    """

    text: str
    chip: Chip
    shape: tuple[int, ...]

    @property
    def chips(self) -> int:
        return math.prod(self.shape)

    @property
    def estimated(self) -> bool:
        """Whether there is no compiler for it here: the program is compiled for as many CPU devices instead."""
        return self.chip.axes == 0


def parse_topology(text: str) -> Topology:
    """`v4:2x2x4`, `v5e:4x4`, `v5p:2x2x2`, `h100:8`; anything else is a `UserError`."""
    name, _, sizes = text.partition(":")
    if name not in CHIPS:
        cloud = re.fullmatch(r"(v\d\w*)-(\d+)", text)
        meant = f"; {text} is the cloud's name: give the shape of its chips, as v4:2x2x4 for v4-32" if cloud else ""
        raise UserError(f"topology {text!r}: unknown chip {name!r}; known are {', '.join(CHIPS)}{meant}")
    chip = CHIPS[name]
    wanted = max(chip.axes, 1)
    if not re.fullmatch(r"[1-9]\d*(x[1-9]\d*)*", sizes) or len(sizes.split("x")) != wanted:
        example = {0: f"{name}:8", 2: f"{name}:4x4", 3: f"{name}:2x2x4"}[chip.axes]
        raise UserError(f"topology {text!r}: {name} takes {wanted} sizes; write it as {example}")
    return Topology(text, chip, tuple(int(size) for size in sizes.split("x")))


def devices_of(topology: Topology) -> np.ndarray:
    """The devices to compile for, in the order in which JAX would name them on the real machine.

    Raises:
      UserError: libtpu is not installed, or it does not know the shape.
    """
    if topology.estimated:
        found = jax.devices("cpu")
        if len(found) < topology.chips:
            raise UserError(f"topology {topology.text}: {len(found)} CPU devices stand for {topology.chips} GPUs")
        return np.array(found[: topology.chips])
    described: Any = _tpu_devices(topology)
    if len(described) != topology.chips:
        raise UserError(f"libtpu gives {len(described)} devices for {topology.text}, not {topology.chips}")
    return np.array(described)


def _tpu_devices(topology: Topology) -> Any:
    from jax.experimental import topologies

    # What libtpu would ask of the machine that it is not on; and two processes may load it.
    for name, value in {
        "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
        "TPU_SKIP_MDS_QUERY": "1",
        "TPU_ACCELERATOR_TYPE": "v4-8",
        "TPU_WORKER_HOSTNAMES": "localhost",
    }.items():
        os.environ.setdefault(name, value)
    # v4 has two cores a chip, which programs see as one device (megacore); four chips (2 x 2) share a host.
    options: dict[str, Any] = {"chip_config_name": "megacore"} if topology.chip.name != "v5e" else {}
    host = [min(size, 2) for size in topology.shape[:2]]
    options["chips_per_host_bounds"] = (*host, 1)
    name = f"{topology.chip.name}:{'x'.join(map(str, topology.shape))}"
    if importlib.util.find_spec("libtpu") is None:
        raise UserError(
            f"there is no libtpu to compile for {name}; install it into an environment of its own: {INSTALL}"
        )
    try:
        with quiet_stderr():
            return topologies.get_topology_desc(topology_name=name, platform="tpu", **options).devices
    except RuntimeError as error:
        reason = str(error).strip().split("\n")[0][:200]
        raise UserError(f"libtpu refuses {name}: {reason}; choose another shape") from error


@contextlib.contextmanager
def quiet_stderr() -> Iterator[list[str]]:
    """Keeps from the terminal what native code writes to stderr; the list holds its lines afterwards."""
    lines: list[str] = []
    sys.stderr.flush()
    saved = os.dup(2)
    with tempfile.TemporaryFile() as heard:
        os.dup2(heard.fileno(), 2)
        try:
            yield lines
        finally:
            os.dup2(saved, 2)
            os.close(saved)
            heard.seek(0)
            lines += heard.read().decode("utf-8", "replace").splitlines()
