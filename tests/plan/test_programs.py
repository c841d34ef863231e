"""The programs of a plan: their FLOPs against the formula, their memory against what a chip holds."""

from __future__ import annotations

import dataclasses
import importlib.util
import io

import jax
import pytest
import rich.console
from flax import nnx
from jax.sharding import AbstractMesh, Mesh
from jax.sharding import PartitionSpec as P

from o1coder_jax import losses
from o1coder_jax.adapters import AdapterConfig
from o1coder_jax.config import load
from o1coder_jax.errors import UserError
from o1coder_jax.generate import GenerationConfig
from o1coder_jax.hardware import Device
from o1coder_jax.mesh import AXES
from o1coder_jax.model_config import ModelConfig
from search.config import SearchConfig
from tests.tiny import one_device
from train.config import Config
from train.data import BatchConfig
from train.plan.__main__ import plan
from train.plan.chips import CHIPS, Chip, Topology, devices_of, parse_topology
from train.plan.executed import Work
from train.plan.hlo import parse_hlo
from train.plan.hlo_costs import Collective, Costs, count_costs
from train.plan.program import OPTIMISER, PARAMETERS, Program, Role, sampling_weights
from train.plan.report import compiled, show, to_json
from train.plan.roofline import Roofline
from train.plan.search import search_programs
from train.plan.training import rl_programs, training_program
from train.rl import RLConfig
from train.rl.config import CriticConfig, PPOConfig
from train.step import Objective, OptimizerConfig

SHAPE = ModelConfig(
    width=32, layers=6, heads=4, kv_heads=2, head_size=8, mlp_width=80, qkv_bias=True, tied_embeddings=False
)
VOCAB = 320
SEARCH = SearchConfig(trees=4, slots=6, depth=3, value_weight=0.5, prompt_tokens=16, step_tokens=8, code_tokens=16)
CPU = Topology("h100:1", CHIPS["h100"], (1,))
PAPER = "configs/paper-v4-32.yaml"


def measured(program: Program, chips: int = 1) -> float:
    return count_costs(parse_hlo(program.lower().compile().as_text() or ""), chips).flops * chips


@pytest.mark.parametrize("rematerialize, microbatches", [("none", 1), ("dots", 2), ("layers", 4)])
def test_flops_of_an_update_are_those_of_the_formula(rematerialize, microbatches):
    role = Role(dataclasses.replace(SHAPE, rematerialize=rematerialize), VOCAB)
    batch, optimizer = BatchConfig(8, 48), OptimizerConfig(microbatches=microbatches)
    program = training_program("sft", role, batch, Objective.of(losses.sft), optimizer, one_device())
    tokens, blocks = 8 * 48, 6 * (32 * 32 * 2 + 32 * 16 * 2 + 3 * 32 * 80)
    assert program.work.products == 6 * (blocks + 32 * VOCAB) * tokens
    assert program.work.attention == 3 * 4 * 6 * 4 * 8 * 8 * 48**2
    assert measured(program) == pytest.approx(program.work.executed, rel=0.05)


def test_adapters_update_computes_no_gradient_of_its_base():
    adapter = AdapterConfig(rank=2, base="nf4", targets=("query", "down"), dropout=0.1)
    shape = dataclasses.replace(SHAPE, layers=5, head_size=16, rematerialize="layers")
    batch, objective = BatchConfig(4, 48), Objective.of(losses.sft)
    role = Role(shape, VOCAB, adapter=adapter)
    program = training_program("tcg", role, batch, objective, OptimizerConfig(), one_device())
    base, factors = 5 * (32 * 16 * (2 * 4 + 2 * 2) + 3 * 32 * 80) + 32 * VOCAB, 5 * 2 * (32 + 64 + 80 + 32)
    assert program.work.products == (4 * base + 6 * factors) * 4 * 48
    assert program.held[OPTIMISER] == 2 * 4 * factors + 4
    assert measured(program) == pytest.approx(program.work.executed, rel=0.05)


def test_sampler_has_plain_weights_in_its_dtype_on_each_row_of_the_mesh():
    role = Role(SHAPE, VOCAB, adapter=AdapterConfig(rank=2), sampling="bfloat16")
    _, weights = sampling_weights(role, AbstractMesh((1, 2, 2), AXES))
    found = {"/".join(map(str, path)): leaf for path, leaf in nnx.to_flat_state(weights)}
    assert not any("lora" in name for name in found)
    query = jax.tree.leaves(found["blocks/query/weight"])[0]
    assert (query.dtype, query.sharding.spec) == ("bfloat16", P(None, None, "tensor", None))


def test_flops_of_rows_whose_scores_are_taken_in_blocks():
    role = Role(dataclasses.replace(SHAPE, layers=5, rematerialize="layers"), VOCAB)
    objective = Objective.of(losses.prm_pointwise)
    reward = dataclasses.replace(role, value_head=True)
    program = training_program("prm", reward, BatchConfig(1, 1536), objective, OptimizerConfig(), one_device())
    assert measured(program) == pytest.approx(program.work.executed, rel=0.05)


def test_flops_of_a_search_are_those_of_the_formula():
    role = Role(SHAPE, VOCAB)
    reward = dataclasses.replace(role, value_head=True)
    found = {p.name: p for p in search_programs(SEARCH, role, reward, one_device())}
    assert [*found] == ["search read", "search wave", "search rate"]
    for program in found.values():
        assert measured(program) == pytest.approx(program.work.executed, rel=0.05), program.name


def test_memory_at_paper_scale_is_that_of_the_shapes():
    mesh = AbstractMesh((1, 4, 4), AXES)
    config = load(Config, PAPER)
    role = Role(config.model, config.tokenizer.vocab_size)
    batch = BatchConfig(64, 2048)
    program = training_program("sft", role, batch, Objective.of(losses.sft), config.sft.optimizer, mesh)
    assert program.parameters == 7_615_616_512  # as the checkpoint's own description says
    assert program.held[PARAMETERS] == pytest.approx(4 * program.parameters / 16, rel=0.001)
    assert program.held[OPTIMISER] == pytest.approx(8 * program.parameters / 16, rel=0.001)


def test_roofline_is_the_slowest_of_three():
    chip = Chip("x", Device("x", 100.0, 1, 10.0), memory=1.0, links=1.0, axes=2)
    costs = Costs(flops=400.0, bytes=20.0)
    costs.collectives[Collective("all-gather", 4.0, 4)] = 1
    roof = Roofline.of(costs, chip)
    assert (roof.compute, roof.memory, roof.links) == (4.0, 2.0, 3.0)
    assert (roof.seconds, roof.bound) == (4.0, "compute")
    assert roof.mfu(300.0, 1, chip) == 0.75
    assert roof.mfu(300.0 * 8, 8, chip) == 0.75


def small_config() -> Config:
    return dataclasses.replace(Config(), model=dataclasses.replace(SHAPE, layers=1), search=SEARCH)


def rl_config(**settings) -> Config:
    generation = GenerationConfig(answer_tokens=48)
    return dataclasses.replace(
        Config(), model=SHAPE, search=SEARCH, generation=generation, rl=RLConfig(minibatch=4, **settings)
    )


@pytest.mark.parametrize("algorithm, names", [("grpo", ["rl"]), ("ppo", ["rl", "rl critic"]), ("dpo", ["rl"])])
def test_updates_of_the_algorithm_are_planned(algorithm, names):
    config = rl_config(algorithm=algorithm)
    role, mesh = Role(config.model, VOCAB), one_device()
    programs = list(rl_programs(config, role, dataclasses.replace(role, value_head=True), mesh))
    assert [program.name for program in programs] == names
    for program in programs:
        assert measured(program) == pytest.approx(program.work.executed, rel=0.05)
    assert all(program.others > 2 * program.held[PARAMETERS] * 0.99 for program in programs)


def test_critic_that_is_a_head_is_refused_by_name():
    config = rl_config(algorithm="ppo", ppo=PPOConfig(critic=CriticConfig(weights="policy")))
    role = Role(config.model, VOCAB)
    with pytest.raises(UserError, match=r"rl\.ppo\.critic\.weights own"):
        list(rl_programs(config, role, role, one_device()))


def test_plan_that_does_not_fit_leaves_with_1_and_advice(capsys):
    small = dataclasses.replace(CPU, chip=dataclasses.replace(CPU.chip, memory=1e5))
    assert plan(small_config(), small, only=["sft"]) == 1
    printed = " ".join(capsys.readouterr().out.split())
    assert "sft does not fit" in printed and "optimizer.microbatches" in printed


def test_compiler_that_runs_out_of_memory_is_a_plan_that_does_not_fit():
    def lower() -> jax.stages.Lowered:
        raise jax.errors.JaxRuntimeError(
            "RESOURCE_EXHAUSTED: Ran out of memory on HBM, the total memory required for HLO temporaries (2.50G) "
            "exceeds available HBM (0.75G)."
        )

    result = compiled(Program("sft", 10, Work(1, 1.0, 1.0), {PARAMETERS: 2.0**30}, lower, ("less",)), CPU)
    assert result.needed == 3.5 * 2**30 and not result.fits(CPU.chip)
    told = io.StringIO()
    show([result], CPU, rich.console.Console(file=told, width=200))
    assert "sft does not fit" in told.getvalue() and "try less" in told.getvalue()
    assert to_json([result], CPU)["fits"] is False


def test_only_names_programs():
    with pytest.raises(
        UserError, match="--only sfd names no program; there are: tcg sft, tcg dpo, sft, prm, rl, search read"
    ):
        plan(small_config(), CPU, only=["sfd"])


def test_rows_that_a_mesh_cannot_share_are_refused():
    mesh = AbstractMesh((1, 8, 1), AXES)
    with pytest.raises(UserError, match="12 rows cannot be shared by 8 parts"):
        training_program(
            "sft", Role(SHAPE, VOCAB), BatchConfig(12, 8), Objective.of(losses.sft), OptimizerConfig(), mesh
        )


@pytest.mark.parametrize(
    "text, said",
    [
        ("v4-32", "v4-32 is the cloud's name: give the shape of its chips, as v4:2x2x4"),
        ("v4:4x4", "takes 3 sizes; write it as v4:2x2x4"),
        ("v5e:0x4", "takes 2 sizes; write it as v5e:4x4"),
        ("tpu:8", "known are v4, v5e, v5p"),
    ],
)
def test_topologies_that_are_none(text, said):
    with pytest.raises(UserError, match=said):
        parse_topology(text)


def test_topology_counts_chips():
    assert parse_topology("v4:2x2x4").chips == 16
    assert parse_topology("h100:8").estimated


@pytest.mark.skipif(importlib.util.find_spec("libtpu") is not None, reason="libtpu is here")
def test_without_libtpu_one_line_says_how_to_get_it():
    with pytest.raises(UserError, match=r"no libtpu .*pip install -e '.\[plan\]'"):
        devices_of(parse_topology("v4:2x2x4"))


needs_libtpu = pytest.mark.skipif(importlib.util.find_spec("libtpu") is None, reason="libtpu is not installed")


@needs_libtpu
@pytest.mark.parametrize("text, chips", [("v4:2x2x4", 16), ("v5e:4x4", 16), ("v5p:2x2x2", 8)])
def test_devices_are_chips(text, chips):
    found = devices_of(parse_topology(text))
    assert len(found) == chips and len({device.id for device in found}) == chips


@needs_libtpu
def test_flops_of_a_pods_program_are_those_of_the_formula():
    topology = parse_topology("v4:2x2x4")
    mesh = Mesh(devices_of(topology).reshape(1, 4, 4), AXES)
    shape = dataclasses.replace(SHAPE, width=512, heads=8, kv_heads=4, head_size=64, mlp_width=1024, dtype="bfloat16")
    # Splash is a call whose products the compiler does not tell.
    role = Role(dataclasses.replace(shape, rematerialize="layers", attention="xla"), 2048)
    program = training_program("sft", role, BatchConfig(8, 256), Objective.of(losses.sft), OptimizerConfig(), mesh)
    result = compiled(program, topology)
    assert result.costs is not None and result.costs.unknown_loops == 0
    assert result.costs.flops * 16 == pytest.approx(program.work.executed, rel=0.05)
    assert result.fits(topology.chip)
