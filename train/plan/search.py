"""What a search runs on the device as programs to be compiled: `search/engine.py` as `search/device.py` calls it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import jax
from flax import nnx
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from o1coder_jax import mesh as meshes
from o1coder_jax.errors import UserError
from o1coder_jax.rows import HEADS, LAID_HEADS
from o1coder_jax.stopping import stop_ids
from o1coder_jax.transformer import parameter_count
from search import engine, plans
from search.config import SearchConfig
from search.plans import Plan, Sizes
from train.plan.executed import layer_traffic, reading_work, wave_work
from train.plan.program import PAGES, PARAMETERS, ROWS, Program, Role, chip_bytes, placed, sampling_weights

SMALLER = ("a larger mesh.tensor", "fewer search.pages", "fewer search.slots", "a shorter search.code_tokens")


def search_programs(config: SearchConfig, policy: Role, reward: Role, mesh: Mesh) -> Iterator[Program]:
    """Reading prompts, the wave, and rating where a reward model takes part (`search.value_weight`).

    Raises:
      UserError: the mesh cannot share trees or slots.
    """
    parts = meshes.row_shards(mesh)
    for key in ("trees", "slots"):
        if getattr(config, key) % parts:
            raise UserError(f"search.{key} is {getattr(config, key)}; make it a multiple of {parts}, the mesh's parts")
    split, everywhere = NamedSharding(mesh, P(meshes.ROWS)), NamedSharding(mesh, P())
    sizes, path = Sizes.of(config, parts, config.nodes), config.path_pages * config.page_tokens
    graph, weights = sampling_weights(policy, mesh)
    generation, pages = (
        jax.eval_shape(lambda w, make=make: make(nnx.merge(graph, w), config, sizes, parts), weights)
        for make in (plans.empty_generation, plans.empty_pages)
    )
    generation, pages = (
        placed(caches, meshes.cache_shardings(mesh, caches, heads=heads))
        for caches, heads in ((generation, LAID_HEADS), (pages, HEADS))
    )
    states = None  # at nodes' last tokens, where these may be opened again
    if config.expansions > 1:
        shapes = jax.eval_shape(lambda w: plans.empty_states(nnx.merge(graph, w), sizes, parts), weights)
        states = placed(shapes, split)
    rater, rater_weights = sampling_weights(reward, mesh)
    rates = config.value_weight > 0
    own = {PARAMETERS: chip_bytes(weights), PAGES: chip_bytes((pages, states)), ROWS: chip_bytes(generation)}
    rated = {PARAMETERS: chip_bytes(rater_weights), PAGES: chip_bytes(pages)} if rates else {}
    plan = placed(plans.empty_plan(config, sizes, parts), split)
    stops = placed(jax.eval_shape(lambda: stop_ids(policy.vocab_size, (0,))), everywhere)
    settings = placed(jax.eval_shape(config.sampling.arrays), everywhere)

    def lower_wave() -> jax.stages.Lowered:
        wave: Any = engine.wave
        lowered: jax.stages.Lowered = wave.lower(
            graph,
            weights,
            pages,
            states,
            generation,
            Plan(**{name: plan[name] for name in plan if not name.startswith("kept")}),
            stops,
            settings,
            steps=config.wave_steps,
            width=config.samples,
            page_tokens=config.page_tokens,
            truncated=config.sampling.truncated,
        )
        return lowered

    def reading(function: Any, graph: Any, weights: Any, rows: int, length: int) -> jax.stages.Lowered:
        pieces = placed(plans.empty_reading(config, sizes, parts, rows, length), split)
        lowered: jax.stages.Lowered = function.lower(graph, weights, pages, pieces, page_tokens=config.page_tokens)
        return lowered

    prompts = config.prompt_pages * config.page_tokens
    yield Program(
        "search read",
        parameter_count(weights),
        reading_work(policy.config, rows=parts * sizes.prompts, length=prompts, before=path),
        {kind: own[kind] for kind in (PARAMETERS, PAGES)},
        lambda: reading(engine.read, graph, weights, sizes.prompts, prompts),
        SMALLER,
        own[ROWS] + sum(rated.values()),
        traffic=layer_traffic(policy.config, tokens=sizes.prompts * prompts, tensor=mesh.shape["tensor"]),
    )
    yield Program(
        "search wave",
        parameter_count(weights),
        wave_work(
            policy.config,
            policy.vocab_size,
            rows=parts * sizes.rows,
            paths=parts * sizes.paths,
            width=config.samples,
            openings=parts * sizes.openings,
            steps=config.wave_steps,
            path=path,
            own=config.code_tokens,
        ),
        own,
        lower_wave,
        SMALLER,
        sum(rated.values()),
        # Each step reads the weights, and the keys and values of all paths and rows.
        traffic=config.wave_steps * (own[PARAMETERS] + own[ROWS]),
    )
    if rates:
        yield Program(
            "search rate",
            parameter_count(rater_weights),
            reading_work(reward.config, rows=parts * sizes.turnover, length=config.code_tokens, before=path),
            rated,
            lambda: reading(engine.rate, rater, rater_weights, sizes.turnover, config.code_tokens),
            SMALLER,
            sum(own.values()),
            traffic=layer_traffic(
                reward.config, tokens=sizes.turnover * config.code_tokens, tensor=mesh.shape["tensor"]
            ),
        )
