"""The search loop: many trees in lockstep, one wave of decoding at a time.

    while trees remain:
        wave     every tree decodes candidates for the node under its cursor           (device)
        collect  verdicts of the terminals that the last wave reached                  (sandbox, meanwhile)
        turn     back up rewards, attach finished candidates, walk on                  (device)
        submit   programs under the cursors to the judge; hand out finished trees      (host)

A wave is a fixed number of decode steps over T x K places. A tree whose candidates are not finished goes on in
the next wave; one that awaits a verdict sits one wave out, never more: verdicts are collected in the order of
the waves, so what the search does cannot depend on when they arrive. Random choices derive from
(seed, iteration, problem) and the node, so trees do not depend on their neighbours either.
"""

from __future__ import annotations

import zlib
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass

import jax
import numpy as np
from flax import nnx
from jax.sharding import Mesh

from o1coder_jax.decode import stop_mask
from o1coder_jax.errors import UserError
from o1coder_jax.mesh import replicate, row_shards, shard_rows
from o1coder_jax.policy import Policy, encode_prompt
from o1coder_jax.records import Judgement, Problem
from o1coder_jax.sampling import seed_for
from search.config import SearchConfig
from search.engine import Orders, initial_state, refill, turn, wave
from search.tree import Node, Tree, read_candidates

Judge = Callable[[Problem, str], "Future[Judgement]"]


@dataclass
class Counters:
    """What a search cost and did.

    `kept` tokens became nodes; `places` is decode steps times rows, the work that was paid for.
    """

    tokens: int = 0
    kept: int = 0
    places: int = 0
    waves: int = 0
    executions: int = 0
    infra_errors: int = 0
    truncated_prompts: int = 0


class Search:
    """A search over problems; iterate over it to get finished trees, in the order in which they end.

    Args:
      policy: whose weights and vocabulary to use.
      problems: one tree each.
      judge: called with a problem and a program, answers with a future verdict.
      config: sizes and rules.
      mesh: trees are split over its row axes, which must divide `config.trees`.
      seed, iteration: with the problem's id, the only source of chance.
    """

    def __init__(
        self,
        policy: Policy,
        problems: Sequence[Problem],
        judge: Judge,
        config: SearchConfig,
        mesh: Mesh,
        *,
        seed: int,
        iteration: int,
    ):
        self.parts = row_shards(mesh)
        if config.trees % self.parts:
            raise UserError(f"search.trees {config.trees} is not a multiple of the mesh's {self.parts} row parts")
        self.policy, self.judge, self.config, self.mesh = policy, judge, config, mesh
        self.seed, self.iteration = seed, iteration
        self.waiting = deque(enumerate(problems))
        self.places: list[Tree | None] = [None] * config.trees
        self.counters = Counters()
        self._verdicts: list[tuple[int, Node, Future[Judgement]]] = []
        self._stop = replicate(mesh, stop_mask(policy.tokenizer.vocab_size, policy.step_stops))
        self._settings = replicate(mesh, config.sampling.arrays())
        self._weights = policy.weights
        self.state = shard_rows(mesh, initial_state(nnx.merge(policy.graph, policy.weights), config))

    def __iter__(self) -> Iterator[Tree]:
        """The main loop; see the top of this file."""
        while self._refill() or any(self.places):
            opening = np.array([tree is not None and tree.opening for tree in self.places])
            self._dispatch_wave(opening)
            orders = self._collect_verdicts()
            self._read_rows(orders)
            self.state = turn(self.state, shard_rows(self.mesh, orders), config=self.config)
            yield from self._follow_cursors(orders)

    def _refill(self) -> bool:
        """Gives free places to waiting problems, when enough are free to be worth a prefill."""
        per_part = self.config.trees // self.parts
        rows = max(1, per_part // 4)
        free = [[i for i in range(per_part) if self.places[part * per_part + i] is None] for part in range(self.parts)]
        enough = any(len(f) >= rows for f in free) or not any(self.places)
        if not self.waiting or not enough:
            return False
        slot = np.full((self.parts, rows), per_part, np.int32)
        tokens = np.zeros((self.parts, rows, self.config.prompt_pages * self.config.page_tokens), np.int32)
        length = np.ones((self.parts, rows), np.int32)
        which = np.zeros(self.config.trees, bool)
        seeds = np.zeros((self.config.trees, 2), np.uint32)
        for row in range(rows):
            for part in range(self.parts):
                if not self.waiting or row >= len(free[part]):
                    continue
                number, problem = self.waiting.popleft()
                ids, cut = encode_prompt(self.policy.tokenizer, problem, self.config.prompt_tokens)
                self.counters.truncated_prompts += cut
                slot[part, row] = free[part][row]
                tokens[part, row, : len(ids)] = ids
                length[part, row] = len(ids)
                place = part * per_part + free[part][row]
                which[place] = True
                seeds[place] = np.asarray(seed_for(self.seed, self.iteration, zlib.crc32(problem.id.encode())))
                self.places[place] = Tree(number, problem, tuple(ids))
        batch = {"slot": slot, "tokens": tokens, "length": length, "which": which, "seed": seeds}
        self.state = refill(
            self.policy.graph, self._weights, self.state, shard_rows(self.mesh, batch), config=self.config
        )
        return True

    def _dispatch_wave(self, opening: np.ndarray) -> None:
        for place in np.flatnonzero(opening):
            tree = self.places[place]
            assert tree is not None
            tree.opening, tree.decoding = False, True
        self.state = wave(
            self.policy.graph,
            self._weights,
            self.state,
            shard_rows(self.mesh, opening),
            self._stop,
            self._settings,
            config=self.config,
            truncated=self.config.sampling.truncated,
        )
        self.counters.waves += 1
        self.counters.places += self.config.wave_steps * self.config.trees * self.config.samples

    def _collect_verdicts(self) -> Orders:
        """Waits for the verdicts of the last wave's terminals, while the device decodes."""
        trees, width = self.config.trees, self.config.samples
        orders = Orders(
            settles=np.zeros(trees, bool),
            reward=np.zeros(trees, np.float32),
            counted=np.zeros(trees, bool),
            grows=np.zeros(trees, bool),
            fresh=np.zeros((trees, width), bool),
            terminal=np.zeros((trees, width), bool),
        )
        for place, node, future in self._verdicts:
            node.judge(future.result(), self.config.alpha)
            orders.settles[place] = True
            orders.counted[place] = node.reward is not None
            orders.reward[place] = node.reward or 0.0
            self.counters.infra_errors += node.reward is None
        self._verdicts = []
        return orders

    def _read_rows(self, orders: Orders) -> None:
        """Reads candidates in trees whose rows are all done, and orders them to be attached."""
        rows = self.state.rows
        done, length, tokens, log_probability = jax.device_get(
            (rows.done, rows.length, rows.tokens, rows.log_probability)
        )
        for place, tree in enumerate(self.places):
            if tree is None or not tree.decoding or not done[place].all():
                continue
            sampled = [
                (tuple(tokens[place, k, : length[place, k]].tolist()), float(log_probability[place, k].sum()))
                for k in range(self.config.samples)
            ]
            fresh = read_candidates(tree, sampled, self.policy.tokenizer, self.config)
            tree.decoding = False
            orders.grows[place] = True
            orders.fresh[place] = [node is not None for node in fresh]
            orders.terminal[place] = [node is not None and node.terminal for node in fresh]
            self.counters.tokens += int(length[place].sum())
            self.counters.kept += sum(len(node.tokens) for node in fresh if node is not None)

    def _follow_cursors(self, orders: Orders) -> Iterator[Tree]:
        """Sees where the trees went: to a terminal (judge it), to a new node (open it), or to their end."""
        forest = self.state.forest
        cursor, rollouts, exhausted = jax.device_get((forest.cursor, forest.rollouts, forest.closed[:, 0]))
        finished = []
        for place, tree in enumerate(self.places):
            if tree is None or not (orders.settles[place] or orders.grows[place]):
                continue
            if rollouts[place] >= self.config.rollouts or exhausted[place]:
                finished.append(place)
                continue
            tree.cursor = int(cursor[place])
            node = tree.nodes[tree.cursor]
            if node.terminal:
                self._verdicts.append((place, node, self._verdict(tree, node)))
            else:
                tree.opening = True
        if finished:
            visits, total = jax.device_get((forest.visits, forest.total))
            for place in finished:
                tree = self.places[place]
                assert tree is not None
                tree.finish(visits[place], total[place])
                self.places[place] = None
                yield tree

    def _verdict(self, tree: Tree, node: Node) -> Future[Judgement]:
        if node.code is not None:
            self.counters.executions += 1
            return self.judge(tree.problem, node.code)
        nothing: Future[Judgement] = Future()
        nothing.set_result(Tree.NO_PROGRAM)
        return nothing
