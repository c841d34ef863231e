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

import dataclasses
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
from o1coder_jax.model_config import ModelConfig
from train.config import Config, load_config
from train.plan.chips import Topology, devices_of, parse_topology
from train.plan.program import Program, Role
from train.plan.report import compiled, show, to_json
from train.plan.search import search_programs
from train.plan.training import training_programs
from train.pretrained import model_of, resolved

DOES_NOT_FIT_EXIT_STATUS = 1
WIDTH = 170  # columns where the output is no terminal


def programs(config: Config, mesh: Mesh, tcg_base: Config | None = None) -> Iterator[Program]:
    """All that a round of the loop runs on the devices.

    The TCG has the shape of `tcg_base`, else of `tcg.checkpoint`, else of the policy; the reward model that of
    `prm.checkpoint`, else of the policy.
    """
    sampling = config.generation.dtype
    policy = Role(config.model, _rows(config.model, config), adapter=config.policy.adapter, sampling=sampling)
    shape = _shape(config.prm.checkpoint, config.model)
    reward = Role(shape, _rows(shape, config), value_head=True, adapter=config.prm.adapter, sampling=sampling)
    base = tcg_base or config
    shape = base.model if tcg_base else _shape(config.tcg.checkpoint, config.model)
    tcg = Role(shape, _rows(shape, base), adapter=config.tcg.adapter)
    yield from training_programs(config, policy, reward, tcg, mesh)
    yield from search_programs(config.search.resolved(), policy, reward, mesh)


def _shape(checkpoint: str | None, policy: ModelConfig) -> ModelConfig:
    return model_of(checkpoint, policy) if checkpoint else policy


def _rows(model: ModelConfig, config: Config) -> int:
    """Of the embedding: a checkpoint has its own number, others have the vocabulary's."""
    return model.embedding_rows or config.tokenizer.vocab_size


def _lowered_on_cpu(config: Config) -> Config:
    """With xla's attention in place of cuDNN's, which no CPU lowers."""
    if config.model.attention != "cudnn":
        return config
    print("model.attention is cudnn; the estimate takes xla's attention, which reads and writes more", flush=True)
    return dataclasses.replace(config, model=dataclasses.replace(config.model, attention="xla"))


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
    if topology.estimated:
        config = _lowered_on_cpu(config)
        tcg_base = _lowered_on_cpu(tcg_base) if tcg_base else None
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
