"""Reads the text of a compiled program: computations, instructions, shapes, trip counts of loops.

The grammar is that of XLA's `HloModule::ToString` (openxla.org/xla/operation_semantics). Only what the costs in
`train/plan/hlo_costs.py` need is kept.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, field

from o1coder_jax.errors import UserError

_COMMENT = re.compile(r"/\*.*?\*/")
_SHAPE = re.compile(r"\b([a-z]\w*)\[([\d,]*)\](?:\{([^}]*)\})?")
_MEMORY = re.compile(r"S\((\d+)\)")
_HEAD = re.compile(r"^(ENTRY )?%?([\w.\-]+) \(.*\) -> .* \{$")
_NAME = re.compile(r"%([\w.\-]+)")
_TRIPS = re.compile(r'"known_trip_count":\{"n":"(\d+)"')
_NO_BITS = ("token", "opaque")


@dataclass(frozen=True)
class Shape:
    """One array: `memory` 0 is the main memory, others (`S(n)` in the text) are on the chip."""

    dtype: str
    dims: tuple[int, ...]
    memory: int = 0

    @property
    def size(self) -> int:
        return math.prod(self.dims)

    @property
    def bytes(self) -> float:
        if self.dtype in _NO_BITS:
            return 0.0
        if self.dtype == "pred":
            return float(self.size)
        bits = re.match(r"[a-z]+(\d+)", self.dtype)  # also f8e4m3fn
        return self.size * int(bits[1]) / 8 if bits else 0.0


@dataclass(frozen=True)
class Instruction:
    """One line of a computation.

    Attributes:
      shapes: of the result, several for a tuple.
      operands: names; `inside`: the text between the parentheses; `attributes`: what follows.
    """

    name: str
    opcode: str
    shapes: tuple[Shape, ...]
    operands: tuple[str, ...]
    inside: str
    attributes: str
    root: bool

    def called(self, *keys: str) -> list[str]:
        """Computations named by attributes such as `calls`, `body`, `branch_computations`."""
        found = []
        for key in keys:
            if match := re.search(rf"\b{key}=(\{{[^}}]*\}}|%[\w.\-]+)", self.attributes):
                found += _NAME.findall(match[1])
        return found


@dataclass
class Computation:
    """Instructions by name, in order."""

    name: str
    instructions: dict[str, Instruction] = field(default_factory=dict)

    @property
    def root(self) -> Instruction:
        return next(i for i in self.instructions.values() if i.root)

    def shape(self, name: str) -> Shape:
        """The (first) shape of an instruction's result."""
        return self.instructions[name].shapes[0]

    def parameter(self, number: int) -> str | None:
        """The name of parameter `number`."""
        wanted = str(number)
        return next(
            (i.name for i in self.instructions.values() if i.opcode == "parameter" and i.inside == wanted), None
        )

    def users(self, name: str) -> list[Instruction]:
        return [i for i in self.instructions.values() if name in i.operands]


@dataclass(frozen=True)
class Module:
    """A program: all computations by name, and the one that it starts with."""

    computations: dict[str, Computation]
    entry: str


def parse_hlo(text: str) -> Module:
    """Reads `jax.stages.Compiled.as_text()`; `UserError` when it has no entry computation."""
    computations: dict[str, Computation] = {}
    entry, current = "", None
    for raw in text.splitlines():
        if current is None:
            if head := _HEAD.match(_COMMENT.sub("", raw)):
                current = computations[head[2]] = Computation(head[2])
                entry = head[2] if head[1] else entry
        elif raw == "}":
            current = None
        elif raw.startswith(" ") and (instruction := _instruction(_COMMENT.sub("", raw).strip())):
            current.instructions[instruction.name] = instruction
        # Other lines go on with an attribute of the line before, a kernel's description: no cost is read from it.
    if not entry:
        raise UserError("the compiled program's text has no entry computation; this JAX prints another form")
    return Module(computations, entry)


def trip_count(module: Module, loop: Instruction, computation: Computation) -> int | None:
    """How often a `while` runs its body: what the compiler noted, or the bound in a condition `i < N`.

    A counter that starts elsewhere than at 0 starts at the constant in the loop's first tuple.
    """
    if known := _TRIPS.search(loop.attributes):
        return int(known[1])
    condition = module.computations[loop.called("condition")[0]]
    compared = _comparison(module, condition)
    if compared is None:
        return None
    bound, index = compared
    start = 0
    first = computation.instructions.get(loop.operands[0])
    if first is not None and first.opcode == "tuple":
        start = _constant(computation, first.operands[index]) or 0
    return max(bound - start, 0)


def _comparison(module: Module, condition: Computation) -> tuple[int, int] | None:
    """(N, place of i in the loop's tuple) of a condition that is `i < N`, fused or not."""
    root, inner = condition.root, condition
    outer = root.operands
    if root.opcode == "fusion":
        inner = module.computations[root.called("calls")[0]]
        root = inner.root
    if root.opcode != "compare" or "direction=LT" not in root.attributes:
        return None

    def resolve(name: str) -> str:  # a fused computation's parameter stands for an operand of the fusion
        instruction = inner.instructions[name]
        if inner is not condition and instruction.opcode == "parameter":
            return outer[int(instruction.inside)]
        return name

    counter, limit = (resolve(name) for name in root.operands)
    bound = _constant(condition, limit)
    if bound is None and limit in inner.instructions:
        bound = _constant(inner, limit)
    read = condition.instructions.get(counter)
    if bound is None or read is None or read.opcode != "get-tuple-element":
        return None
    index = re.search(r"index=(\d+)", read.attributes)
    return (bound, int(index[1])) if index else None


def _constant(computation: Computation, name: str) -> int | None:
    """The value of an integer constant, also behind a copy; None for anything else."""
    found = computation.instructions.get(name)
    while found is not None and found.opcode in ("copy", "bitcast", "convert"):
        found = computation.instructions.get(found.operands[0])
    if found is None or found.opcode != "constant" or not re.fullmatch(r"-?\d+", found.inside):
        return None
    return int(found.inside)


def _instruction(line: str) -> Instruction | None:
    root = line.startswith("ROOT ")
    name, equals, rest = line.removeprefix("ROOT ").partition(" = ")
    if not equals:
        return None
    end = _balanced(rest, 0) if rest.startswith("(") else rest.index(" ")
    shapes, rest = rest[:end], rest[end:].strip()
    opened = rest.index("(")
    closed = _balanced(rest, opened)
    inside = rest[opened + 1 : closed - 1]
    return Instruction(
        name=name.lstrip("%"),
        opcode=rest[:opened],
        shapes=tuple(_shapes(shapes)),
        operands=tuple(_NAME.findall(inside)),
        inside=inside,
        attributes=rest[closed:],
        root=root,
    )


def _shapes(text: str) -> list[Shape]:
    found = []
    for dtype, dims, layout in _SHAPE.findall(text):
        memory = _MEMORY.search(layout)
        sizes = tuple(int(d) for d in dims.split(",") if d)
        found.append(Shape(dtype, sizes, int(memory[1]) if memory else 0))
    return found


def _balanced(text: str, start: int) -> int:
    """The place after the parenthesis that closes the one at `start`."""
    depth = 0
    for place in range(start, len(text)):
        depth += {"(": 1, ")": -1}.get(text[place], 0)
        if depth == 0:
            return place + 1
    raise ValueError(f"unbalanced parentheses: {text[:120]}")
