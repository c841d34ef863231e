"""Proves a configuration on a pod before anyone pays for one.

    python -m train.plan --config configs/paper-v4-32.yaml --tcg_base configs/paper-tcg-base.yaml --topology v4:2x2x4
    python -m train.plan --config configs/paper-8gpu.yaml --tcg_base configs/paper-tcg-base.yaml --topology h100:8

Compiles every update and the search's functions ahead of time for that topology, on any CPU machine and without
allocating an array, and prints memory by kind against the chip's, FLOPs, traffic and collectives with loops multiplied
by their trip counts, and the roofline bound on time and MFU. Leaves with status 1 when something does not fit, and says
what to change. See docs/plan.md.

TPUs need libtpu (`pip install -e '.[plan]'` in an environment of its own). For GPUs there is no such compiler: the
programs are lowered on as many CPU devices, activations follow a formula, and the plan is labelled an estimate.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import jax
import rich.console
from jax.sharding import Mesh

from o1coder_jax.config import Flag, parse_with_flags
from o1coder_jax.errors import UserError, run_command
from o1coder_jax.mesh import arrange
from train.config import Config, load_config
from train.plan.chips import Topology, devices_of, parse_topology
from train.plan.program import Program, Role
from train.plan.report import compiled, show, to_json
from train.plan.search import search_programs
from train.plan.training import training_programs
from train.pretrained import resolved

DOES_NOT_FIT_EXIT_STATUS = 1
WIDTH = 170  # columns where the output is no terminal


def programs(config: Config, mesh: Mesh, tcg_base: Config | None = None) -> Iterator[Program]:
    """All that a round of the loop runs on the devices; the TCG has the shape of `tcg_base`, or of the policy."""
    vocab = config.tokenizer.vocab_size
    sampling = config.generation.dtype
    policy = Role(config.model, vocab, adapter=config.policy.adapter, sampling=sampling)
    reward = Role(config.model, vocab, value_head=True, adapter=config.prm.adapter, sampling=sampling)
    base = tcg_base or config
    tcg = Role(base.model, base.tokenizer.vocab_size, adapter=config.tcg.adapter)
    yield from training_programs(config, policy, reward, tcg, mesh)
    yield from search_programs(config.search.resolved(), policy, reward, mesh)


def plan(
    config: Config,
    topology: Topology,
    *,
    tcg_base: Config | None = None,
    only: Sequence[str] = (),
    out: Path | None = None,
) -> int:
    """Compiles, prints, and returns the exit status."""
    mesh = arrange(config.mesh, devices_of(topology))
    known = {program.name: program for program in programs(config, mesh, tcg_base)}
    if unknown := [name for name in only if name not in known]:
        raise UserError(f"--only {unknown[0]} names no program; there are: {', '.join(known)}")
    chosen = [known[name] for name in only or known]
    results = []
    for program in chosen:
        print(f"compiling {program.name} for {topology.text} ...", file=sys.stderr, flush=True)
        results.append(compiled(program, topology))
        if out is not None:  # after each: compiling takes minutes
            out.write_text(json.dumps(to_json(results, topology), indent=1) + "\n", encoding="utf-8")
    console = rich.console.Console() if sys.stdout.isatty() else rich.console.Console(width=WIDTH)
    show(results, topology, console)
    return 0 if all(result.fits(topology.chip) for result in results) else DOES_NOT_FIT_EXIT_STATUS


def main() -> int:
    """The command."""
    flags = {
        "topology": Flag(str, "", "chips to plan for: v4:2x2x4, v5e:4x4, v5p:2x2x2, or GPUs as h100:8"),
        "tcg_base": Flag(
            str, "", "a configuration whose model and vocabulary the TCG has; the policy's when it is empty"
        ),
        "only": Flag(str, "", "programs to plan, separated by commas, as sft,rl; all when it is empty"),
        "out": Flag(str, "", "a JSON file for the plan"),
    }
    title = (__doc__ or "").split("\n")[0]
    config, options = parse_with_flags(Config, None, flags, prog="python -m train.plan", description=title)
    if not options["topology"]:
        raise UserError("--topology is not given; write it as --topology v4:2x2x4")
    config, replaced = resolved(config)
    if replaced:
        print(replaced, flush=True)
    topology = parse_topology(options["topology"])
    tcg_base = load_config(options["tcg_base"]) if options["tcg_base"] else None
    os.environ["JAX_PLATFORMS"] = "cpu"  # libtpu compiles, and nothing runs
    jax.config.update("jax_platforms", "cpu")
    if topology.estimated:
        jax.config.update("jax_num_cpu_devices", topology.chips)
        jax.config.update("jax_disable_most_optimizations", True)  # of machine code, which nothing will run
    only = [name.strip() for name in options["only"].split(",") if name.strip()]
    out = Path(options["out"]) if options["out"] else None
    return plan(config, topology, tcg_base=tcg_base, only=only, out=out)


if __name__ == "__main__":
    run_command(main)
