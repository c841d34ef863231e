"""What a compiled program needs and takes, and how a plan is shown."""

from __future__ import annotations

import re
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import jax
import rich.box
import rich.console
import rich.table

from o1coder_jax.hardware import GIB
from train.plan.chips import Chip, Topology, quiet_stderr
from train.plan.hlo import parse_hlo
from train.plan.hlo_costs import Costs, count_costs
from train.plan.program import INPUTS, KINDS, OTHERS, SCRATCH, Program
from train.plan.roofline import Roofline

_NEEDED = re.compile(r"total memory required for HLO temporaries \(([\d.]+)([KMGT])\)|Used ([\d.]+)([KMGT]) of")
_REPLICATED = "Involuntary full rematerialization"
_UNIT = {"K": 2.0**10, "M": 2.0**20, "G": 2.0**30, "T": 2.0**40}


@dataclass(frozen=True)
class Result:
    """What one program comes to.

    Attributes:
      memory: bytes on a chip, by kind.
      costs: of one chip; None where the compiler gave up for want of memory.
      seconds: that compiling took.
      replicated: arrays that the partitioner moves to another layout by giving all of it to every device.
    """

    program: Program
    memory: dict[str, float]
    costs: Costs | None
    seconds: float = 0.0
    replicated: int = 0

    @property
    def needed(self) -> float:
        return sum(self.memory.values())

    def fits(self, chip: Chip) -> bool:
        return self.costs is not None and self.needed <= chip.memory


def compiled(program: Program, topology: Topology) -> Result:
    """Compiles a program ahead of time and reads what it costs."""
    began = time.monotonic()
    held = dict(program.held) | {OTHERS: program.others}
    try:
        with quiet_stderr() as said:
            done = program.lower().compile()
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        return Result(program, held | {SCRATCH: _needed(str(error))}, None, time.monotonic() - began)
    costs = count_costs(parse_hlo(done.as_text() or ""), topology.chips)
    if topology.estimated and program.traffic is not None:
        costs.bytes = program.traffic
    replicated = sum(_REPLICATED in line for line in said)
    return Result(program, _memory(program, done, topology), costs, time.monotonic() - began, replicated)


def _needed(message: str) -> float:
    """Bytes that the compiler said it would need; 0 where it did not say."""
    found = _NEEDED.search(message)
    if not found:
        return 0.0
    number, unit = [group for group in found.groups() if group]
    return float(number) * _UNIT[unit]


def _memory(program: Program, done: jax.stages.Compiled, topology: Topology) -> dict[str, float]:
    held = dict(program.held) | {OTHERS: program.others}
    facts: Any = done.memory_analysis()
    padding = max(facts.argument_size_in_bytes - sum(program.held.values()), 0.0)  # tiles, and small arguments
    scratch = facts.temp_size_in_bytes + facts.output_size_in_bytes - facts.alias_size_in_bytes
    if topology.estimated and program.scratch is not None:
        scratch = program.scratch  # a CPU's scratch says little of a GPU's
    else:
        scratch += facts.generated_code_size_in_bytes
    return held | {INPUTS: held.get(INPUTS, 0.0) + padding, SCRATCH: float(scratch)}


def to_json(results: Sequence[Result], topology: Topology) -> dict[str, Any]:
    """The plan as plain values: bytes and FLOPs of one chip, seconds at least."""
    return {
        "topology": topology.text,
        "chips": topology.chips,
        "estimate": topology.estimated,
        "chip": {"memory_bytes": topology.chip.memory, "peak_flops": topology.chip.flops},
        "fits": all(result.fits(topology.chip) for result in results),
        "programs": [_program_json(result, topology) for result in results],
    }


def _program_json(result: Result, topology: Topology) -> dict[str, Any]:
    program, chip = result.program, topology.chip
    facts: dict[str, Any] = {
        "name": program.name,
        "parameters": program.parameters,
        "memory_bytes": {kind: round(size) for kind, size in result.memory.items() if size},
        "fits": result.fits(chip),
        "compile_seconds": round(result.seconds, 1),
    }
    if result.costs is None:
        return facts
    roof = Roofline.of(result.costs, chip)
    return facts | {
        "tokens": program.work.tokens,
        "flops": result.costs.flops,
        "flops_over_formula": round(result.costs.flops * topology.chips / program.work.executed, 4),
        "bytes": result.costs.bytes,
        "bytes_sent": result.costs.sent,
        "unknown_loops": result.costs.unknown_loops,
        "replicated_arrays": result.replicated,
        "bound_seconds": {"compute": roof.compute, "memory": roof.memory, "links": roof.links},
        "mfu_at_bound": round(roof.mfu(program.work.model, topology.chips, chip), 4),
        "collectives": [
            {"kind": one.kind, "bytes": round(one.payload), "devices": one.group, "times": count}
            for one, count in _by_weight(result.costs)
        ],
    }


def _by_weight(costs: Costs) -> list[tuple[Any, int]]:
    return sorted(costs.collectives.items(), key=lambda item: (-item[0].sent * item[1], item[0].kind, item[0].payload))


def show(results: Sequence[Result], topology: Topology, console: rich.console.Console) -> None:
    """Prints the plan's tables, and what to change where it does not fit."""
    chip = topology.chip
    title = (
        f"{topology.text}: {topology.chips} chips, each {chip.memory / GIB:.2f} GiB, {chip.flops / 1e12:.0f} TFLOP/s"
    )
    if topology.estimated:
        title += "  [ESTIMATE: compiled for CPU devices; activations, traffic by formula]"
    console.print(title, highlight=False, markup=False)
    console.print(_memory_table(results, chip))
    console.print(_time_table(results, topology))
    console.print(_collective_table(results))
    for result in results:
        if result.costs is not None and result.costs.unknown_loops:
            console.print(f"{result.program.name}: {result.costs.unknown_loops} loops of unknown length counted once")
        if result.replicated:
            console.print(f"{result.program.name}: {result.replicated} arrays change layout by way of full copies")
        if not result.fits(chip):
            console.print(_advice(result, chip), highlight=False, markup=False)


def _advice(result: Result, chip: Chip) -> str:
    largest = max(result.memory, key=lambda kind: result.memory[kind])
    said = f"{result.needed / GIB:.1f} GiB" if result.needed > chip.memory else "more than there is"
    return (
        f"{result.program.name} does not fit: it needs {said} of {chip.memory / GIB:.2f} GiB a chip, "
        f"most for {largest}; try {', or '.join(result.program.smaller)}, or more chips"
    )


def _memory_table(results: Sequence[Result], chip: Chip) -> rich.table.Table:
    table = _table("GiB a chip", "N", *KINDS, "sum", "of HBM")
    for result in results:
        cells = [f"{result.memory.get(kind, 0.0) / GIB:.2f}" if result.memory.get(kind) else "-" for kind in KINDS]
        share = f"{result.needed / chip.memory:.0%}" if result.fits(chip) else "DOES NOT FIT"
        name = result.program.name
        table.add_row(name, f"{result.program.parameters / 1e9:.2f} G", *cells, f"{result.needed / GIB:.2f}", share)
    return table


def _time_table(results: Sequence[Result], topology: Topology) -> rich.table.Table:
    chip = topology.chip
    columns = "tokens,TFLOP a chip,over formula,GB moved,GB sent,compute ms,memory ms,links ms,bound,tokens/s,MFU"
    table = _table("at the roofline", *columns.split(","))
    for result in results:
        if result.costs is None:
            continue
        work, costs, roof = result.program.work, result.costs, Roofline.of(result.costs, chip)
        table.add_row(
            result.program.name,
            f"{work.tokens:,}",
            f"{costs.flops / 1e12:.2f}",
            f"{costs.flops * topology.chips / work.executed:.3f}",
            f"{costs.bytes / 1e9:.1f}",
            f"{costs.sent / 1e9:.2f}",
            *(f"{1e3 * seconds:.1f}" for seconds in (roof.compute, roof.memory, roof.links)),
            roof.bound,
            f"{work.tokens / roof.seconds:,.0f}" if roof.seconds else "-",
            f"{roof.mfu(work.model, topology.chips, chip):.1%}",
        )
    return table


def _collective_table(results: Sequence[Result], most: int = 5) -> rich.table.Table:
    """The heaviest collectives of each program by what a chip sends."""
    table = _table("collectives", "kind", "devices", "MB", "times", "GB sent", left=2)
    for result in results:
        if result.costs is None:
            continue
        ranked = _by_weight(result.costs)
        for place, (one, count) in enumerate(ranked[:most]):
            name = "" if place else result.program.name
            sent = one.sent * count / 1e9
            table.add_row(name, one.kind, str(one.group), f"{one.payload / 1e6:.2f}", f"{count:,}", f"{sent:.2f}")
        if rest := ranked[most:]:
            sent = sum(one.sent * count for one, count in rest) / 1e9
            table.add_row("", f"{len(rest)} more", "", "", f"{sum(count for _, count in rest):,}", f"{sent:.2f}")
    return table


def _table(*columns: str, left: int = 1) -> rich.table.Table:
    table = rich.table.Table(box=rich.box.SIMPLE_HEAD)
    for number, name in enumerate(columns):
        table.add_column(name, justify="left" if number < left else "right")
    return table
