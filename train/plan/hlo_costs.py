"""What a compiled program costs one device: FLOPs, bytes of main memory, collectives; loops times their trip counts.

XLA's own `cost_analysis` counts a loop's body once, so it says little of a program that scans its layers.
FLOPs are those of matrix products (dots and convolutions, 2 per multiplication with addition); bytes are read and
written where a fusion begins and ends, slices by what they touch, buffers on the chip not at all.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field

from train.plan.hlo import Computation, Instruction, Module, trip_count

COLLECTIVES = (
    "all-gather",
    "all-reduce",
    "reduce-scatter",
    "all-to-all",
    "ragged-all-to-all",
    "collective-permute",
    "collective-broadcast",
)
_FREE = (  # no traffic: names for what is there, or counted where it begins
    "parameter constant tuple get-tuple-element bitcast after-all partition-id replica-id while conditional call "
    "add-dependency opt-barrier"
).split()
_NOTHING_MOVES = ("AllocateBuffer", "ConcatBitcast", "AssumeGatherIndicesInBound", "Sharding", "SliceBitcast")
# Products of a kernel: scores and sums; scores again, gradients of v, weights and k; scores again, of weights and q.
SPLASH_PRODUCTS = {"splash_mha_fwd": 2, "splash_mha_dkv": 4, "splash_mha_dq": 3}
_SLICES = ("dynamic-slice", "slice", "gather")


@dataclass(frozen=True)
class Collective:
    """One kind of exchange.

    Attributes:
      payload: bytes of the whole array on one device: what is gathered to, reduced or sent away.
      group: devices that take part together.
    """

    kind: str
    payload: float
    group: int

    @property
    def sent(self) -> float:
        """Bytes that each device must send at least: (n - 1)/n of the payload, twice for an all-reduce.

        The bandwidth-optimal rings of Thakur, Rabenseifner and Gropp (2005), section 4.
        """
        if self.kind in ("collective-permute", "collective-broadcast"):
            return self.payload
        share = (self.group - 1) / self.group
        return (2 if self.kind == "all-reduce" else 1) * share * self.payload


@dataclass
class Costs:
    """Of one device.

    Attributes:
      flops, bytes: see the module.
      collectives: how often each is done.
      unknown_loops: loops whose trip count could not be read; their bodies are counted once.
    """

    flops: float = 0.0
    bytes: float = 0.0
    collectives: Counter[Collective] = field(default_factory=Counter)
    unknown_loops: int = 0

    def add(self, other: Costs, times: int = 1) -> None:
        self.flops += times * other.flops
        self.bytes += times * other.bytes
        self.unknown_loops += other.unknown_loops
        for collective, count in other.collectives.items():
            self.collectives[collective] += times * count

    @property
    def sent(self) -> float:
        """Bytes that each device sends."""
        return sum(collective.sent * count for collective, count in self.collectives.items())


def count_costs(module: Module, devices: int) -> Costs:
    """The costs of a program that runs on so many devices, for one of them."""
    return _Counting(module, devices).of(module.entry)


class _Counting:
    def __init__(self, module: Module, devices: int):
        self.module, self.devices = module, devices
        self.known: dict[tuple[str, bool], Costs] = {}

    def of(self, name: str, *, fused: bool = False) -> Costs:
        if (name, fused) not in self.known:
            computation, total = self.module.computations[name], Costs()
            for instruction in computation.instructions.values():
                total.add(self._one(computation, instruction, fused))
            self.known[name, fused] = total
        return self.known[name, fused]

    def _one(self, computation: Computation, instruction: Instruction, fused: bool) -> Costs:
        costs, opcode = Costs(), instruction.opcode
        if opcode == "while":
            trips = trip_count(self.module, instruction, computation)
            costs.add(self.of(instruction.called("body")[0]), 1 if trips is None else trips)
            costs.unknown_loops += trips is None
            return costs
        if opcode == "conditional":
            branches = instruction.called("branch_computations", "true_computation", "false_computation")
            costs.add(max((self.of(name) for name in branches), key=lambda c: (c.flops, c.bytes)))
        elif opcode in ("fusion", "async-start", "call"):
            for name in instruction.called("calls", "to_apply", "called_computation"):
                costs.add(self.of(name, fused=fused or opcode == "fusion"))
        elif opcode == "dot":
            costs.flops += dot_flops(computation, instruction)
        elif opcode == "convolution":
            costs.flops += convolution_flops(computation, instruction)
        elif opcode == "custom-call":
            costs.flops += splash_flops(computation, instruction)
        if (kind := opcode.removesuffix("-start")) in COLLECTIVES:
            costs.collectives[self._collective(kind, computation, instruction)] += 1
        if not fused:
            costs.bytes += self._bytes(computation, instruction)
        return costs

    def _collective(self, kind: str, computation: Computation, instruction: Instruction) -> Collective:
        operands = sum(computation.shape(name).bytes for name in instruction.operands)
        group = group_size(instruction.attributes, self.devices)
        if kind == "all-reduce" and "all-reduce-scatter" in computation.name:
            kind = "reduce-scatter"  # how the TPU compiler writes it: an all-reduce fused with a slice
        return Collective(kind, operands * (group if kind == "all-gather" else 1), group)

    def _bytes(self, computation: Computation, instruction: Instruction) -> float:
        opcode = instruction.opcode
        if opcode in _FREE or opcode.endswith(("-done", "-update")) or opcode == "async-start":
            return 0.0
        if opcode == "custom-call" and any(f'"{name}"' in instruction.attributes for name in _NOTHING_MOVES):
            return 0.0
        if opcode in ("copy-start", "slice-start"):
            target = instruction.shapes[opcode == "slice-start"]  # (target, source, ..) and ((source), target, ..)
            source = computation.shape(instruction.operands[0])
            return target.bytes * ((target.memory == 0) + (source.memory == 0))
        if opcode.endswith("-start"):  # of a collective; the result may name the operands, too
            read = sum(_main(computation, name) for name in instruction.operands)
            named = sum(s.bytes for s in instruction.shapes if s.memory == 0)
            return max(named, 2 * read) if opcode == "all-reduce-start" else max(named, read)
        written = sum(s.bytes for s in instruction.shapes if s.memory == 0)
        if opcode == "fusion":
            inner = self.module.computations[instruction.called("calls")[0]]
            return self._fusion_bytes(computation, instruction, inner)
        if opcode == "dynamic-update-slice":
            return 2 * _main(computation, instruction.operands[1])
        if opcode == "scatter":
            return 2 * sum(_main(computation, name) for name in instruction.operands[len(instruction.operands) // 2 :])
        if opcode in _SLICES:
            sliced = computation.shape(instruction.operands[0])
            return written + (instruction.shapes[0].bytes if sliced.memory == 0 else 0.0)
        return written + sum(_main(computation, name) for name in instruction.operands)

    def _fusion_bytes(self, computation: Computation, instruction: Instruction, inner: Computation) -> float:
        read = 0.0
        for number, name in enumerate(instruction.operands):
            if _main(computation, name):
                parameter = inner.parameter(number)
                read += min(_main(computation, name), self._touched(inner, parameter) if parameter else 0.0)
        root = inner.root
        parts = [inner.instructions[name] for name in root.operands] if root.opcode == "tuple" else [root]
        written = 0.0
        for part, shape in zip(parts, instruction.shapes, strict=False):
            while part.opcode == "bitcast":
                part = inner.instructions[part.operands[0]]
            if shape.memory == 0:
                update = part.opcode == "dynamic-update-slice"
                written += inner.shape(part.operands[1]).bytes if update else shape.bytes
        return read + written

    def _touched(self, computation: Computation, name: str) -> float:
        """Bytes of a fused computation's parameter that are read: all of it, unless it is only sliced."""
        total = 0.0
        for user in computation.users(name):
            if user.opcode in _SLICES and user.operands[0] == name:
                total += user.shapes[0].bytes
            elif user.opcode == "dynamic-update-slice" and user.operands[0] == name:
                continue  # updated in place
            elif user.opcode == "bitcast":
                total += self._touched(computation, user.name)
            elif user.opcode == "fusion":
                inner = self.module.computations[user.called("calls")[0]]
                for number, operand in enumerate(user.operands):
                    if operand == name and (parameter := inner.parameter(number)):
                        total += self._touched(inner, parameter)
            else:
                return computation.shape(name).bytes
        return min(total, computation.shape(name).bytes)


def _main(computation: Computation, name: str) -> float:
    """Bytes in main memory of an instruction's result."""
    found = computation.instructions.get(name)
    return sum(s.bytes for s in found.shapes if s.memory == 0) if found else 0.0


def dot_flops(computation: Computation, dot: Instruction) -> float:
    """2 x result x contracted sizes."""
    left = computation.shape(dot.operands[0])
    contracted = re.search(r"lhs_contracting_dims=\{([\d,]*)\}", dot.attributes)
    axes = [int(d) for d in contracted[1].split(",") if d] if contracted else []
    return 2.0 * dot.shapes[0].size * math.prod(left.dims[axis] for axis in axes)


def splash_flops(computation: Computation, call: Instruction) -> float:
    """Of a call of JAX's splash attention (`o1coder_jax/attention_kernels.py`); 0 of any other.

    A kernel computes the blocks that its table (1, rows of blocks, columns of blocks) lists: of a causal mask
    min(i + 1, w) in row i, where w is the longest row. Operands 2 and 3 are queries (B, H, S, E) and
    keys; without B where it is 1.
    """
    products = next((count for name, count in SPLASH_PRODUCTS.items() if call.name.startswith(name)), 0)
    if not products:
        return 0.0
    least, most = sorted(computation.shape(call.operands[0]).dims[-2:])
    *rows_and_heads, length, size = computation.shape(call.operands[2]).dims
    blocks = sum(min(row + 1, least) for row in range(most))
    return 2.0 * products * math.prod(rows_and_heads) * size * blocks * (length / most) ** 2


def convolution_flops(computation: Computation, convolution: Instruction) -> float:
    """2 x batch x output features x input features x places where window and input meet, each spatial axis.

    The TPU compiler writes matrix products with batch axes as convolutions whose windows are dilated or padded so that
    most places meet nothing; those are not computed and not counted (as in XLA's HloCostAnalysis).
    """
    left, right = (computation.shape(name) for name in convolution.operands[:2])
    labels = re.search(r"dim_labels=(\w+)_(\w+)->(\w+)", convolution.attributes)
    assert labels is not None
    input_labels, kernel_labels, output_labels = labels[1], labels[2], labels[3]
    result = convolution.shapes[0]
    batch = left.dims[input_labels.index("b")] // _attribute(convolution, "batch_group_count")
    flops = 2.0 * batch * right.dims[kernel_labels.index("o")] * right.dims[kernel_labels.index("i")]
    window = _Window(convolution.attributes)
    for axis in (label for label in input_labels if label.isdigit()):
        flops *= window.meetings(
            int(axis),
            left.dims[input_labels.index(axis)],
            right.dims[kernel_labels.index(axis)],
            result.dims[output_labels.index(axis)],
        )
    return flops


class _Window:
    """The `window={size=.. stride=.. pad=.. lhs_dilate=.. rhs_dilate=..}` of a convolution."""

    def __init__(self, attributes: str):
        found = re.search(r"window=\{([^}]*)\}", attributes)
        self.fields = dict(part.split("=") for part in found[1].split()) if found else {}

    def _number(self, key: str, axis: int) -> int:
        return int(self.fields[key].split("x")[axis].split("_")[0]) if key in self.fields else 1

    def meetings(self, axis: int, size: int, kernel: int, result: int) -> int:
        """Pairs (place of the result, place of the window) that meet an element of the input."""
        stride, dilate, spread = (self._number(key, axis) for key in ("stride", "lhs_dilate", "rhs_dilate"))
        pad = self._number("pad", axis) if "pad" in self.fields else 0
        last = (size - 1) * dilate
        return sum(
            1
            for out, inner in _pairs(result, kernel)
            if 0 <= (place := out * stride - pad + inner * spread) <= last and place % dilate == 0
        )


def _pairs(first: int, second: int) -> Iterator[tuple[int, int]]:
    return ((a, b) for a in range(first) for b in range(second))


def _attribute(instruction: Instruction, key: str) -> int:
    found = re.search(rf"\b{key}=(\d+)", instruction.attributes)
    return int(found[1]) if found else 1


def group_size(attributes: str, devices: int) -> int:
    """How many devices exchange with each other, from `replica_groups` in any of its three forms, or from pairs."""
    if "source_target_pairs" in attributes:
        return 2
    if mesh := re.search(r"replica_groups=(?:@?)mesh\[([^\]]*)\] ?\{([^}]*)\}", attributes):
        sizes = {name: int(size) for name, size in re.findall(r"'?([\w]+)'?=(\d+)", mesh[1])}
        group = 1
        for name, part in re.findall(r"'?([A-Za-z_]\w*)'?(?::\(\d+\)(\d+))?", mesh[2]):
            group *= int(part) if part else sizes[name]
        return group
    if iota := re.search(r"replica_groups=\[(\d+),(\d+)\]<=", attributes):
        return int(iota[2])
    if listed := re.search(r"replica_groups=\{\{([\d,]*)\}", attributes):
        return len(listed[1].split(","))
    return devices
