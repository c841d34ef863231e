"""The device's side of a search: its state, and the arrays that the jitted functions of `engine.py` are called with."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from flax import nnx
from jax.sharding import Mesh

from o1coder_jax.errors import UserError
from o1coder_jax.mesh import own_rows, own_shards, replicate, row_shards, shard_own_caches, shard_own_rows
from o1coder_jax.policy import Policy, encode_headers
from o1coder_jax.prm import RewardModel
from o1coder_jax.rows import HEADS, LAID_HEADS
from search import engine, forest, plans
from search.cache import page_table
from search.config import SearchConfig
from search.expansion import Piece
from search.forest import Forest
from search.plans import Plan, Reading, Sizes
from search.rollouts import Orders
from search.slots import Part
from search.tree import Rollout


@dataclass(frozen=True)
class Report:
    """Where the trees stand after a turn, as in `Forest`; `exhausted` (T,): nothing is left to be found."""

    cursor: np.ndarray
    walking: np.ndarray
    rollouts: np.ndarray
    asked: np.ndarray
    waiting: np.ndarray
    exhausted: np.ndarray


class Device:
    """Forest, pages, paths and rows on the mesh.

    With several processes each manages the trees, rows and pages of its own parts, and all call the same methods in the
    same order: what comes in and goes out here is a process's own share.

    Attributes:
      parts: of this process; `trees` in them.
      headers: that steps at depth 1, 2, ... are given; none without `double_headers`.
      own_head: the policy's value head rates steps, from the policy's own pages.
      keeps_states: at nodes' last tokens, because a head asks for them or nodes may be expanded again.
      fed, rated: tokens that the policy and the process reward model have computed.
    """

    def __init__(self, policy: Policy, reward_model: RewardModel | None, config: SearchConfig, mesh: Mesh):
        self.policy, self.reward_model, self.config, self.mesh = policy, reward_model, config, mesh
        parts = row_shards(mesh)
        self.parts = len(own_shards(mesh))
        self.trees = config.trees * self.parts // parts
        self.headers = encode_headers(policy.tokenizer, config.depth) if config.double_headers else []
        longest = max(map(len, self.headers), default=0)
        if longest >= config.step_tokens:
            raise UserError(
                f"search.step_tokens {config.step_tokens} leave no room beside a header of {longest} tokens; "
                "give more, or set search.double_headers to false"
            )
        self.sizes = Sizes.of(config, parts, config.nodes, header_tokens=longest)
        self.fed = self.rated = 0
        model = nnx.merge(policy.graph, policy.weights)
        self.own_head = bool(policy.head) and reward_model is None
        self.keeps_states = self.own_head or config.expansions > 1
        shape = (self.trees, config.nodes, config.samples * config.expansions, config.window, config.rollouts)
        self.forest: Forest = shard_own_rows(mesh, forest.empty(*shape, mass=config.draws_on))
        self._generation = shard_own_caches(
            mesh, plans.empty_generation(model, config, self.sizes, self.parts), heads=LAID_HEADS
        )
        self._pages = shard_own_caches(mesh, plans.empty_pages(model, config, self.sizes, self.parts), heads=HEADS)
        self._states = (
            shard_own_rows(mesh, plans.empty_states(model, self.sizes, self.parts)) if self.keeps_states else None
        )
        if reward_model is not None:
            rater = nnx.merge(reward_model.graph, reward_model.weights)
            self._rated_pages = shard_own_caches(
                mesh, plans.empty_pages(rater, config, self.sizes, self.parts), heads=HEADS
            )
        self._stops = replicate(mesh, policy.stops())
        self._settings = replicate(mesh, config.sampling.arrays())

    def plant(self, seeds: Mapping[int, np.ndarray]) -> None:
        """Clears trees, each with the key data of its new problem, by their places."""
        which = np.zeros(self.trees, bool)
        data = np.zeros((self.trees, 2), np.uint32)
        for place, seed in seeds.items():
            which[place], data[place] = True, seed
        self.forest = engine.plant(self.forest, *shard_own_rows(self.mesh, (which, data)))

    def turn(self, orders: Orders) -> Report:
        """Moves the trees."""
        orders = shard_own_rows(self.mesh, orders)
        self.forest = engine.turn(self.forest, orders, rules=self.config.rules, mesh=self.mesh)
        f = self.forest
        planes = (f.cursor, f.walking, f.rollouts, f.asked, f.waiting, f.closed[:, 0])
        return Report(*own_rows(self.mesh, planes))

    def ends(self, places: Sequence[int]) -> dict[int, list[Rollout]]:
        """The rollouts of trees by their places, in order."""
        f = self.forest
        count, *planes = own_rows(self.mesh, (f.rollouts, f.ends, f.leaves, f.again))
        rows = {place: [plane[place, : count[place]].tolist() for plane in planes] for place in places}
        return {place: [Rollout(*rollout) for rollout in zip(*row, strict=True)] for place, row in rows.items()}

    def long(self, pieces: Sequence[Sequence[Piece]]) -> bool:
        """Whether one of these has more tokens than a prompt may have."""
        prompts = self.config.prompt_pages * self.config.page_tokens
        return any(len(piece.tokens) > prompts for part in pieces for piece in part)

    def read(self, pieces: Sequence[Sequence[Piece]], *, long: bool = False) -> None:
        """Takes tokens into pages: so many pieces for each part; of two shapes, for prompts, and for whole paths."""
        length = (self.config.path_pages if long else self.config.prompt_pages) * self.config.page_tokens
        size, count = self.config.page_tokens, self.sizes.prompts
        reading = self._reading(pieces, count, length)
        hidden, *new = engine.read(self.policy.graph, self.policy.weights, self._pages, reading, page_tokens=size)
        self._pages = engine.store(self._pages, reading.places, *new)
        if self._states is not None:
            self._states = engine.note(self._states, reading.ends, hidden)
        self.fed += sum(len(piece.tokens) - piece.open for part in pieces for piece in part)
        if self.reward_model is not None:
            model = self.reward_model
            reading = self._reading(pieces, count, length, closed=True)
            _, *new = engine.read(model.graph, model.weights, self._rated_pages, reading, page_tokens=size)
            self._rated_pages = engine.store(self._rated_pages, reading.places, *new)
            self.rated += sum(len(piece.tokens) for part in pieces for piece in part)

    def rate(self, pieces: Sequence[Sequence[Piece]]) -> np.ndarray:
        """The process reward model's opinion of steps, (D, A), in [0, 1]."""
        model = self.reward_model
        assert model is not None
        reading = self._reading(pieces, self.sizes.turnover, self.config.code_tokens, closed=True)
        self.rated += sum(len(piece.tokens) for part in pieces for piece in part)
        opinion, *new = engine.rate(
            model.graph, model.weights, self._rated_pages, reading, page_tokens=self.config.page_tokens
        )
        self._rated_pages = engine.store(self._rated_pages, reading.places, *new)
        return own_rows(self.mesh, opinion)

    def value(self, rows: Sequence[Sequence[int]], pieces: Sequence[Sequence[Piece]]) -> np.ndarray:
        """The opinion of the policy's value head of steps that have ended in these rows, (D, R), in [0, 1]."""
        shape = (self.parts, self.sizes.rows)
        ended, ends = np.zeros(shape, bool), np.full(shape, self.sizes.pages, np.int32)
        for d, found in enumerate(pieces):
            for row, piece in zip(rows[d], found, strict=True):
                ended[d, row] = True
                if piece.places:
                    ends[d, row] = piece.places[-1] // self.config.page_tokens
        self.fed += int(ended.sum())
        self._generation, self._states, opinion = engine.value(
            self.policy.graph,
            self.policy.weights,
            self._generation,
            self._states,
            *shard_own_rows(self.mesh, (ended, ends)),
            width=self.config.samples,
        )
        return own_rows(self.mesh, opinion)

    def wave(self, parts: Sequence[Part], now: int) -> tuple[np.ndarray, ...]:
        """Runs a wave; returns (D, R, ...) `done`, `stopped`, `length`, `tokens`, `log_probability` of all rows.

        `stopped`: a stop was met, not the capacity.
        """
        fed = sum(part.fed for part in parts)
        plan = plans.empty_plan(self.config, self.sizes, self.parts)
        for d, part in enumerate(parts):
            part.fill({name: array[d] for name, array in plan.items()}, now)
        self.fed += sum(part.fed for part in parts) - fed
        config = self.config
        kept, places = shard_own_rows(self.mesh, [plan.pop(name) for name in ("kept", "kept_places")])
        self._pages = engine.keep(self._pages, self._generation.rows, kept, places)
        ready = shard_own_rows(self.mesh, Plan(**plan))
        self._generation, last = engine.wave(
            self.policy.graph,
            self.policy.weights,
            self._pages,
            self._states,
            self._generation,
            ready,
            self._stops,
            self._settings,
            steps=config.wave_steps,
            width=config.samples,
            page_tokens=config.page_tokens,
            truncated=config.sampling.truncated,
            to_end=self.own_head,
        )
        if last is not None:
            hidden, new = last
            self._pages = engine.store(self._pages, ready.last_place, new.keys, new.values)
            if self._states is not None:
                ends = shard_own_rows(self.mesh, plan["last_place"] // config.page_tokens)
                self._states = engine.note(self._states, ends, hidden)
        rows = self._generation.rows
        planes = (rows.done, rows.stop, rows.length, rows.tokens, rows.log_probability)
        done, stop, *rest = own_rows(self.mesh, planes)
        return done, stop == self._stops.end, *rest

    def _reading(self, pieces: Sequence[Sequence[Piece]], rows: int, length: int, *, closed: bool = False) -> Reading:
        """With `closed`, last tokens are read as well, and so were those of what comes before."""
        c = self.config
        reading = plans.empty_reading(c, self.sizes, self.parts, rows, length)
        for part, row, piece in ((k, i, piece) for k, found in enumerate(pieces) for i, piece in enumerate(found)):
            pages, filled = page_table(piece.before, c.page_tokens, closed=closed)
            reading.table[part, row, : len(pages)], reading.filled[part, row, : len(pages)] = pages, filled
            read = len(piece.tokens) - (piece.open and not closed)
            reading.tokens[part, row, :read] = piece.tokens[:read]
            reading.places[part, row, : min(read, len(piece.places))] = piece.places[:read]
            for end in piece.ends:
                reading.ends[part, row, end] = piece.places[end] // c.page_tokens
            reading.count[part, row], reading.start[part, row] = read, piece.start
        return shard_own_rows(self.mesh, reading)
