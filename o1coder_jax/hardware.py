"""What devices can do at best: the one table behind FLOP utilisation and plans for machines that are not here."""

from __future__ import annotations

import resource
import sys
from collections.abc import Sequence
from dataclasses import dataclass

import jax

GIB = 2**30


@dataclass(frozen=True)
class Device:
    """A device as JAX counts them.

    Attributes:
      name: as people say it.
      peak_flops: dense bf16 FLOP/s, products with float32 sums.
      memory_bytes: of HBM.
      bandwidth: of HBM, bytes/s.
    """

    name: str
    peak_flops: float
    memory_bytes: int
    bandwidth: float


# By the beginning of `jax.Device.device_kind`; the first that fits counts. From the makers' data sheets, without
# sparsity; TPU v2 and v3 count two devices to a chip.
DEVICES: dict[str, Device] = {
    "TPU v2": Device("TPU v2", 22.5e12, 8 * GIB, 350e9),
    "TPU v3": Device("TPU v3", 61.5e12, 16 * GIB, 450e9),
    "TPU v4": Device("TPU v4", 275e12, 32 * GIB, 1228e9),
    "TPU v5 lite": Device("TPU v5e", 197e12, 16 * GIB, 819e9),
    "TPU v5e": Device("TPU v5e", 197e12, 16 * GIB, 819e9),
    "TPU v5p": Device("TPU v5p", 459e12, 95 * GIB, 2765e9),
    "TPU v5": Device("TPU v5p", 459e12, 95 * GIB, 2765e9),
    "TPU v6e": Device("TPU v6e", 918e12, 32 * GIB, 1640e9),
    "TPU v6 lite": Device("TPU v6e", 918e12, 32 * GIB, 1640e9),
    "NVIDIA A100-SXM4-80GB": Device("A100 80GB", 312e12, 80 * GIB, 2039e9),
    "NVIDIA A100 80GB PCIe": Device("A100 80GB", 312e12, 80 * GIB, 1935e9),
    "NVIDIA A100": Device("A100 40GB", 312e12, 40 * GIB, 1555e9),
    "NVIDIA H100 PCIe": Device("H100 PCIe", 756e12, 80 * GIB, 2000e9),
    "NVIDIA H100 NVL": Device("H100 NVL", 835e12, 94 * GIB, 3900e9),
    "NVIDIA H100": Device("H100", 989e12, 80 * GIB, 3350e9),
    "NVIDIA H200": Device("H200", 989e12, 141 * 10**9, 4800e9),
    "NVIDIA B200": Device("B200", 2250e12, 180 * 10**9, 7700e9),
    "NVIDIA L4": Device("L4", 121e12, 24 * GIB, 300e9),
}


def find(kind: str) -> Device | None:
    """The device of a `device_kind`; None for a CPU and for what the table does not hold."""

    def fits(start: str) -> bool:
        return kind == start or kind.startswith((f"{start} ", f"{start}-"))

    return next((device for start, device in DEVICES.items() if fits(start)), None)


def peak_flops(devices: Sequence[jax.Device]) -> float | None:
    """The devices' peak together, bf16 FLOP/s; None where one of them is not in the table."""
    known = [find(device.device_kind) for device in devices]
    return sum(device.peak_flops for device in known if device) if all(known) else None


def peak_memory_bytes(devices: Sequence[jax.Device]) -> int:
    """The most that any of these devices has held since the program began.

    Devices that do not count it (the CPU) stand for this process's memory: its largest resident size.
    """
    held = [(device.memory_stats() or {}).get("peak_bytes_in_use", 0) for device in devices]
    return max(held, default=0) or resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * _RSS_UNIT


_RSS_UNIT = 1 if sys.platform == "darwin" else 1024  # bytes there, kilobytes elsewhere
