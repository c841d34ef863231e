"""The optimiser steps of a run as programs to be compiled: `update_step` (`train/step.py`) as `Trainer` calls it."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from o1coder_jax import losses, policy_losses
from o1coder_jax.attention_kernels import kernel_for
from o1coder_jax.errors import UserError
from o1coder_jax.mesh import ROWS, parameter_shardings, row_shards
from o1coder_jax.transformer import parameter_count
from train.config import Config
from train.data import BatchConfig, round_up
from train.plan.executed import activation_bytes, training_traffic, training_work
from train.plan.program import INPUTS, OPTIMISER, PARAMETERS, Program, Role, chip_bytes, placed, training_weights
from train.rl.lessons import LENGTH_BUCKET, PACKED_BUCKET
from train.rl.loop import objective_of
from train.step import Objective, OptimizerConfig, TrainState, jitted_step

SMALLER = (
    "a larger optimizer.microbatches",
    "model.rematerialize: layers",
    "a larger mesh.fsdp",
    "a batch of fewer rows or a shorter length",
)


def training_programs(config: Config, policy: Role, reward: Role, tcg: Role, mesh: Mesh) -> Iterator[Program]:
    """The updates of all stages, in their order."""
    sft = Objective.of(losses.sft)
    first = chip_bytes(nnx.filter_state(training_weights(tcg, mesh)[1], nnx.Param))  # stays until the stage has ended
    yield training_program("tcg sft", tcg, config.tcg.batch, sft, config.tcg.optimizer, mesh, others=first)
    dpo = Objective.of(losses.dpo, beta=config.tcg.beta, sft_weight=config.tcg.dpo_sft_weight)
    pairs = BatchConfig(2 * config.tcg.dpo_pairs, config.tcg.batch.length)
    others = 2 * first  # and the reference
    yield training_program("tcg dpo", tcg, pairs, dpo, config.tcg.dpo_optimizer, mesh, others=others)
    yield training_program("sft", policy, config.sft.batch, sft, config.sft.optimizer, mesh)
    if config.prm.weights == "policy":
        raise UserError("a reward model that is a head alone is not planned; plan with prm.weights own")
    pairwise = config.prm.objective == "pairwise"
    rating = Objective.of(losses.prm_pairwise if pairwise else losses.prm_pointwise)
    yield training_program("prm", reward, config.prm.batch, rating, config.prm.optimizer, mesh)
    yield from rl_programs(config, policy, reward, mesh)


def rl_programs(config: Config, policy: Role, reward: Role, mesh: Mesh) -> Iterator[Program]:
    """The updates of reinforcement learning: the policy's, and with PPO its critic's.

    Raises:
      UserError: the critic is a head alone, which is not planned.
    """
    longest, rl = config.search.prompt_tokens + config.generation.answer_tokens, config.rl
    if rl.from_trees:
        longest = max(longest, config.search.path_pages * config.search.page_tokens + config.search.code_tokens)
    paths = BatchConfig(rl.minibatch, round_up(longest, LENGTH_BUCKET if rl.algorithm == "dpo" else PACKED_BUCKET))
    reference = nnx.filter_state(training_weights(policy, mesh)[1], nnx.Param)  # it shares what is frozen
    others = chip_bytes(reference) + chip_bytes(training_weights(reward, mesh)[1])
    if rl.algorithm != "ppo":
        yield training_program("rl", policy, paths, objective_of(rl), rl.optimizer, mesh, others=others)
        return
    settings = rl.ppo.critic
    if settings.weights == "policy":
        raise UserError("a critic that is a head alone is not planned; plan with rl.ppo.critic.weights own")
    role = dataclasses.replace(policy, value_head=True, adapter=settings.adapter)
    error = Objective.of(policy_losses.value_error, clip=settings.clip)
    critic = training_program("rl critic", role, paths, error, settings.optimizer, mesh)
    actor = training_program("rl", policy, paths, objective_of(rl), rl.optimizer, mesh)
    for program, other in ((actor, critic), (critic, actor)):
        resident = other.held[PARAMETERS] + other.held[OPTIMISER]
        yield dataclasses.replace(program, others=others + resident)


def training_program(
    name: str,
    role: Role,
    batch: BatchConfig,
    objective: Objective,
    optimizer: OptimizerConfig,
    mesh: Mesh,
    *,
    others: float = 0.0,
) -> Program:
    """One objective's update; `UserError` when the mesh cannot share the batch's rows."""
    dropout = role.adapter is not None and role.adapter.dropout > 0
    shapes, parts, taken = _batch_shapes(objective, batch, dropout), row_shards(mesh), optimizer.microbatches
    unit = parts if taken == 1 else parts * taken * (2 if "valid" in shapes else 1)  # as train.step.split_rows
    if batch.rows % unit:
        raise UserError(
            f"{name}: {batch.rows} rows cannot be shared by {parts} parts of the mesh in {taken} microbatches; "
            f"make them a multiple of {unit}"
        )
    graph, weights = training_weights(role, mesh)
    trained, frozen = nnx.split_state(weights, nnx.Param, ...)
    moments = jax.eval_shape(optimizer.transformation().init, trained)
    moments = placed(moments, parameter_shardings(mesh, moments))
    everywhere = NamedSharding(mesh, P())
    counter: Any = jax.ShapeDtypeStruct((), jnp.int32, sharding=everywhere)
    state = TrainState(trained, moments, counter)
    rate = jax.ShapeDtypeStruct((), jnp.float32, sharding=everywhere)
    rows = placed(shapes, NamedSharding(mesh, P(ROWS)))
    vocabulary, tensor, held = 0 if role.value_head else role.vocab_size, mesh.shape["tensor"], chip_bytes(weights)

    def lower() -> jax.stages.Lowered:
        leaves, structure = jax.tree.flatten(state)
        step: Any = jitted_step(structure, tuple(leaf.sharding for leaf in leaves))
        with jax.set_mesh(mesh):
            lowered: jax.stages.Lowered = step.lower(
                state, frozen, rows, rate, graph=graph, objective=objective, optimizer=optimizer
            )
        return lowered

    return Program(
        name=name,
        parameters=parameter_count(weights),
        work=training_work(
            role.config,
            vocabulary,
            rows=batch.rows,
            length=batch.length,
            parts=parts * taken,
            tensor=tensor,
            kernel=kernel_for(role.config, mesh.devices.flat[0] if isinstance(mesh, Mesh) else None),
            factors=None if role.adapter is None else parameter_count(nnx.filter_state(trained, nnx.LoRAParam)),
        ),
        held={PARAMETERS: held, OPTIMISER: chip_bytes(moments), INPUTS: chip_bytes(rows)},
        lower=lower,
        smaller=SMALLER,
        others=others,
        scratch=activation_bytes(
            role.config,
            vocabulary,
            rows=batch.rows // (parts * taken),
            length=batch.length,
            tensor=tensor,
            weights=chip_bytes(trained),
            microbatches=taken,
        ),
        traffic=training_traffic(
            role.config,
            vocabulary,
            tokens=batch.rows * batch.length // parts,
            tensor=tensor,
            weights=chip_bytes(trained),
            microbatches=taken,
        ),
    )


def _batch_shapes(objective: Objective, batch: BatchConfig, dropout: bool) -> dict[str, jax.ShapeDtypeStruct]:
    """The arrays that an objective reads, see `o1coder_jax/losses.py` and `policy_losses.py`."""
    of_tokens: dict[Any, tuple[str, ...]] = {
        losses.prm_pointwise: ("label",),
        policy_losses.policy_gradient: ("old", "advantage", "reference"),
        policy_losses.value_error: ("returns", "value"),
    }
    of_rows: dict[Any, tuple[str, ...]] = {losses.dpo: ("reference", "valid"), losses.prm_pairwise: ("valid",)}
    shape, function = (batch.rows, batch.length), objective.function
    whole = dict.fromkeys(("tokens", "positions", "segments"), jax.ShapeDtypeStruct(shape, jnp.int32))
    real = dict.fromkeys(("weight", *of_tokens.get(function, ())), jax.ShapeDtypeStruct(shape, jnp.float32))
    seeds = {"dropout": jax.ShapeDtypeStruct((batch.rows, 2), jnp.uint32)} if dropout else {}
    return whole | real | seeds | dict.fromkeys(of_rows.get(function, ()), jax.ShapeDtypeStruct(shape[:1], jnp.float32))
