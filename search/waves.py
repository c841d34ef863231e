"""The search loop: many trees in lockstep, one wave of decoding at a time.

    while trees remain:
        agree    what any process needs in this round is done in all: the one gather    (between processes)
        wave     the queue's candidates take the rows that are free; all rows decode    (device; sandbox meanwhile)
        read     rows that have ended become candidates, and are rated                  (device)
        plant    free places get the next problems                                      (device: read prompts)
        turn     back up the verdicts that have come, attach candidates, walk on        (device)
        follow   programs under the cursors go to the judge, nodes to the queue; finished trees are handed out

A wave is a fixed number of decode steps over fixed rows; a row that has ended its step is taken by the next candidate
of any tree, and a tree that lacks a verdict takes none meanwhile. What a tree does depends on its own verdicts in the
order of its rollouts, and on chance that derives from (seed, iteration, problem), its rollouts and nodes: not on the
trees around it, nor on when verdicts come.
"""

from __future__ import annotations

import time
import zlib
from collections import deque
from collections.abc import Collection, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, wait
from dataclasses import dataclass, replace
from itertools import zip_longest

import numpy as np
from jax.sharding import Mesh

from o1coder_jax.errors import UserError
from o1coder_jax.mesh import agree, own_shards, row_shards
from o1coder_jax.policy import Policy, encode_prompt
from o1coder_jax.prm import RewardModel
from o1coder_jax.records import Problem
from o1coder_jax.sampling import seed_for
from search.baselines import Levels
from search.config import SearchConfig
from search.device import Device, Report
from search.expansion import Ended, Piece
from search.forest import Growth
from search.growing import Attached, Growing, Judge, Opinion
from search.rollouts import Orders
from search.slots import Part
from search.tree import Node, Tree, read_step

Pieces = list[list[Piece]]  # for each part


@dataclass(frozen=True)
class Round:
    """What all processes do in a round, because one of them needs it.

    Attributes:
      reads: of paths whose pages were dropped, one after the other; True for the shape of whole paths.
      decodes: a wave runs.
      plants: readings of new problems' prompts.
      grows: some tree is not finished.
    """

    reads: tuple[bool, ...]
    decodes: bool
    plants: int
    grows: bool


@dataclass
class Counters:
    """What a search cost and did.

    Attributes:
      tokens: generated; `kept` of them became nodes.
      places: decode steps times rows, and rows that were started: what was paid for.
      fed: tokens that the policy computed, and `rated` the process reward model; `reread` were computed before.
      waves: of decoding; `idle`: times that there was nothing to decode, because every tree awaited a verdict, and
        `idle_seconds` that this took in all.
      executions, infra_errors: programs that were run, and those of them that could not be checked.
    """

    tokens: int = 0
    kept: int = 0
    places: int = 0
    fed: int = 0
    rated: int = 0
    reread: int = 0
    waves: int = 0
    idle: int = 0
    idle_seconds: float = 0.0
    executions: int = 0
    infra_errors: int = 0


class Search:
    """A search over problems; iterate over it to get finished trees, in the order in which they end.

    Args:
      policy: whose weights and vocabulary to use.
      problems: one tree each.
      judge: called with a problem and a program, answers with a future verdict.
      config: sizes and rules.
      mesh: trees are split over its row axes, which must divide `config.trees` and `config.slots`.
      seed, iteration: with the problem's id, the only source of chance.
      without: ids of problems that get no tree, because theirs is finished already; the others' are the same as ever.
      reward_model: gives every candidate a value, in place of the value head that the policy may carry; one of the two
        is needed when `config.value_weight` is not 0, and by a baseline that ranks by it.
      opinion: gives every candidate a value on the host, in place of both: for bounds.
      tree_tokens: for each problem, in place of `config.tree_tokens`.
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
        reward_model: RewardModel | None = None,
        without: Collection[str] = (),
        tree_tokens: Sequence[int] | None = None,
        opinion: Opinion | None = None,
    ):
        config, cap = config.resolved(), config.prompt_tokens
        if before := policy.tokenizer.encode(policy.prompt.before) if policy.prompt.before else []:
            config = replace(config, prompt_tokens=cap + len(before))  # the cap is that of statements
        self.config = config
        count = row_shards(mesh)
        for name in ("trees", "slots"):
            if getattr(config, name) % count:
                raise UserError(
                    f"search.{name} {getattr(config, name)} is not a multiple of the mesh's {count} row parts"
                )
        modelled = bool(policy.head) or reward_model is not None
        if opinion and modelled:
            raise ValueError("an opinion stands in place of a reward model and a value head; give one of them")
        rated = modelled or opinion is not None
        if config.value_weight and not rated:
            raise UserError("search.value_weight is not 0, but there is no process reward model; set it to 0")
        if config.baseline.rated and not rated:
            raise UserError(
                f"search.baseline.ranking is {config.baseline.ranking}, but there is no process reward model; "
                "use drawn or likelihood"
            )
        self.policy, self.judge = policy, judge
        self.seed, self.iteration = seed, iteration
        self.counters = Counters()
        self.device = Device(policy, reward_model, config, mesh)
        self.mesh, own = mesh, own_shards(mesh)
        # With several processes each has a fixed share: only what they call next must be agreed on.
        mine = [(i, problem) for i, problem in enumerate(problems) if i % count in own]
        self.waiting = deque((i, problem) for i, problem in mine if problem.id not in without)
        self.places: list[Growing | Levels | None] = [None] * self.device.trees
        self._tree_tokens = tree_tokens
        self._prompts = [encode_prompt(policy.tokenizer, problem, cap, policy.prompt) for problem in problems]
        prompts = [ids for ids, _ in self._prompts]
        shared = common_prefix(prompts, config.page_tokens) if config.paging else []
        self._rated, self._opinion = modelled, opinion
        self.parts = [
            Part(
                config,
                self.device.sizes,
                len(shared),
                rated=reward_model is not None,
                headers=self.device.headers,
                states=self.device.keeps_states,
                to_end=self.device.own_head,
            )
            for _ in own
        ]
        self._check_pages()
        if shared:
            self.device.read([part.read_shared(shared) for part in self.parts])

    @property
    def truncated_prompts(self) -> int:
        """Statements that are cut, also of the problems that get no tree."""
        return sum(cut for _, cut in self._prompts)

    def __iter__(self) -> Iterator[Tree]:
        """The main loop; see the top of this file."""
        while True:
            lost = self._lost()
            needed = self._agree(lost)
            if not (needed.grows or needed.plants):
                return
            if needed.decodes:
                self._decode(needed.reads, lost)
            elif not needed.plants:
                self._await_verdict()
            for _ in range(needed.plants):
                self._plant()
            if self.config.baseline.kind == "none":
                yield from self._follow(self.device.turn(self._orders()))
            else:
                yield from self._advance()

    # Agree.

    def _agree(self, lost: Sequence[Pieces]) -> Round:
        """What is needed here or elsewhere; the loop's only talk between processes, beside what jitted calls do."""
        kinds = [1 + self.device.long(pieces) for pieces in lost]
        kinds += [0] * (self.device.sizes.openings - len(kinds))  # each reads for a path that the next wave opens
        plants, grows, busy, *kinds = agree(
            self.mesh, self._plantings(), any(self.places), any(part.busy for part in self.parts), *kinds
        )
        return Round(tuple(kind == 2 for kind in kinds if kind), bool(busy), plants, bool(grows))

    def _lost(self) -> list[Pieces]:
        """The ends of paths whose pages were dropped, in the order in which they are read before the next wave."""
        rounds: list[Pieces] = []
        while any(pieces := [part.read_lost(self.counters.waves) for part in self.parts]):
            rounds.append(pieces)
        return rounds

    def _free(self) -> list[deque[int]]:
        """The free places of each part."""
        size = len(self.places) // len(self.parts)
        return [
            deque(place for place in range(d * size, (d + 1) * size) if self.places[place] is None)
            for d in range(len(self.parts))
        ]

    def _plantings(self) -> int:
        """Readings that give free places to waiting problems, when enough are free to be worth one."""
        batch, left, empty = self.device.sizes.prompts, len(self.waiting), not any(self.places)
        free = [len(places) for places in self._free()]
        count = 0
        while left and (empty or max(free) >= batch):
            empty, count = False, count + 1
            for _ in range(batch):
                for d in range(len(free)):
                    if left and free[d]:
                        left, free[d] = left - 1, free[d] - 1
        return count

    # Plant.

    def _plant(self) -> None:
        """Gives free places to waiting problems: as many in each part as are read in one go."""
        free = self._free()
        pieces: list[list[Piece]] = [[] for _ in self.parts]
        seeds = {}
        for _ in range(self.device.sizes.prompts):
            for d, part in enumerate(self.parts):
                if self.waiting and free[d]:
                    place = free[d].popleft()
                    self.places[place] = growing = self._next_tree(place)
                    seeds[place] = growing.seed
                    pieces[d] += part.read_prompt(growing.tree, self.counters.waves)
        self.device.read(pieces)
        self.device.plant(seeds)

    def _next_tree(self, place: int) -> Growing | Levels:
        number, problem = self.waiting.popleft()
        ids, _ = self._prompts[number]
        seed = np.asarray(seed_for(self.seed, self.iteration, zlib.crc32(problem.id.encode())))
        config = self.config
        tree = Tree(number, problem, tuple(ids), alpha=config.alpha, value_weight=config.value_weight)
        if self._tree_tokens is not None:
            config = replace(config, tree_tokens=self._tree_tokens[number])
        if config.baseline.kind != "none":
            return Levels(tree, place, seed, self.judge, config)
        return Growing(tree, seed, self.judge, config)

    def _check_pages(self) -> None:
        least = self.config.path_pages
        if self.device.sizes.pages < least:
            raise UserError(
                f"search.pages {self.config.pages} is too few: one path in each part of the mesh may need "
                f"{least * row_shards(self.mesh)}; give more, or 0 for as many as all trees can need"
            )

    # Turn.

    def _orders(self) -> Orders:
        """Verdicts that have come, and candidates that are complete."""
        trees, width = len(self.places), self.config.samples
        settles, counted, starts, which = np.zeros((4, trees), bool)
        reward = np.zeros(trees, np.float32)
        fresh, terminal = np.zeros((2, trees, width), bool)
        prior, value = np.zeros((2, trees, width), np.float32)
        for place, growing in enumerate(self.places):
            if not isinstance(growing, Growing):
                continue
            if (node := growing.settled()) is not None:
                settles[place], counted[place], reward[place] = True, node.reward is not None, node.reward or 0.0
            if (new := growing.attached()) is not None:
                steps = new.expansion.drawn
                which[place], fresh[place] = True, new.fresh
                terminal[place] = [step.terminal for step in steps]
                prior[place] = [step.prior for step in steps]
                value[place] = [step.opinion or 0.0 for step in steps]
                self._adopt(place, new)
            starts[place] = growing.may_start
        return Orders(settles, reward, counted, Growth(which, fresh, terminal, prior, value), starts)

    def _adopt(self, place: int, new: Attached) -> None:
        self._part(place).adopt(new.expansion, new.numbers)
        steps = zip(new.expansion.drawn, new.fresh, strict=True)
        self.counters.kept += sum(step.drawn for step, fresh in steps if fresh)

    def _part(self, place: int) -> Part:
        return self.parts[place * len(self.parts) // len(self.places)]

    # Follow.

    def _follow(self, report: Report) -> Iterator[Tree]:
        """Sees where the trees went: to terminals (judge them), to a new node (draw candidates), or to their end."""
        ended = []
        for place, growing in enumerate(self.places):
            if not isinstance(growing, Growing):
                continue
            for number in range(growing.asked, int(report.asked[place])):
                growing.ask(growing.tree.nodes[report.waiting[place, number % self.config.window]])
            growing.walking = bool(report.walking[place])
            if growing.walking and growing.expansion is None:
                self._part(place).waiting.append(growing.expand(place, int(report.cursor[place])))
            over = report.rollouts[place] >= self.config.rollouts or report.exhausted[place]
            if not growing.walking and not growing.verdicts and (over or not growing.may_start):
                ended.append(place)
        if ended:
            rollouts = self.device.ends(ended)
            for place in ended:
                tree = self._clear(place)
                tree.finish(rollouts[place])
                yield tree

    def _advance(self) -> Iterator[Tree]:
        """The same for the trees of a baseline, which move on the host."""
        for place, growing in enumerate(self.places):
            if not isinstance(growing, Levels):
                continue
            part, move = self._part(place), growing.advance()
            for new in move.attached:
                self._adopt(place, new)
            for node in move.given_up:
                part.cache.release((growing.tree.number, node))
            part.waiting.extend(move.wanted)
            if growing.over:
                tree = self._clear(place)
                tree.finish(growing.rollouts)
                yield tree

    def _clear(self, place: int) -> Tree:
        growing = self.places[place]
        assert growing is not None
        self.places[place] = None
        self._part(place).cache.release_tree(growing.tree.number, len(growing.tree.nodes))
        self.counters.executions += growing.tree.executions
        self.counters.infra_errors += growing.tree.infra_errors
        return growing.tree

    def _await_verdict(self) -> None:
        """Nothing can be decoded before a verdict has come."""
        awaited = [future for growing in self.places if growing is not None for future in growing.awaited]
        if awaited and not any(future.done() for future in awaited):
            self.counters.idle += 1
            started = time.perf_counter()
            wait(awaited, return_when=FIRST_COMPLETED)
            self.counters.idle_seconds += time.perf_counter() - started

    # Wave and read.

    def _decode(self, reads: Sequence[bool], lost: Sequence[Pieces]) -> None:
        now = self.counters.waves
        nothing: Pieces = [[] for _ in self.parts]
        for long, ends in zip_longest(reads, lost, fillvalue=nothing):
            self.device.read(ends, long=bool(long))
        started = sum(part.started for part in self.parts)
        done, stopped, length, tokens, log_probability = self.device.wave(self.parts, now)
        started = sum(part.started for part in self.parts) - started
        self.counters.reread = sum(part.reread for part in self.parts)
        self.counters.waves += 1
        self.counters.places += self.config.wave_steps * len(self.parts) * self.device.sizes.rows + started
        steps: list[list[Node]] = [[] for _ in self.parts]
        pieces: list[list[Piece]] = [[] for _ in self.parts]
        rows: list[list[int]] = [[] for _ in self.parts]
        for d, part in enumerate(self.parts):
            for ended in part.ended(done[d]):
                ids = tuple(tokens[d, ended.row, : length[d, ended.row]].tolist())
                score = float(log_probability[d, ended.row].sum())
                step = self._candidate(ended, ids, score, stopped=bool(stopped[d, ended.row]))
                piece = part.take(ended, step, self.counters.waves)
                if piece is not None:
                    steps[d].append(step)
                    pieces[d].append(piece)
                    rows[d].append(ended.row)
        # Whether a row ends in another process is not known here, and asking costs more than rating nothing.
        if self._rated and (self.mesh.is_multi_process or any(steps)):
            self._rate(steps, pieces, rows)
        self.counters.fed, self.counters.rated = self.device.fed, self.device.rated

    def _rate(
        self, steps: Sequence[Sequence[Node]], pieces: Sequence[Sequence[Piece]], rows: Sequence[Sequence[int]]
    ) -> None:
        """Gives candidates that have ended their value: a head's by their rows, a model's in their order."""
        own_head = self.device.own_head
        opinions = self.device.value(rows, pieces) if own_head else self.device.rate(pieces)
        for d, found in enumerate(steps):
            for i, step in enumerate(found):
                step.opinion = float(opinions[d, rows[d][i] if own_head else i])

    def _candidate(self, ended: Ended, ids: tuple[int, ...], log_probability: float, *, stopped: bool) -> Node:
        tree, parent = ended.expansion.tree, ended.expansion.node
        given = len(self._part(ended.expansion.place).header(ended.expansion))
        tree.tokens += len(ids) - given
        self.counters.tokens += len(ids) - given
        self.device.fed += len(ids) - 1  # its last token is fed when a value head rates it, or somebody continues it
        depth = tree.nodes[parent].depth + 1
        step = read_step(
            ids,
            log_probability,
            parent,
            depth,
            stopped=stopped,
            tokenizer=self.policy.tokenizer,
            config=self.config,
            given=given,
        )
        if self._opinion is not None:
            step.opinion = self._opinion(tree, step)
        return step


def common_prefix(prompts: Sequence[Sequence[int]], least: int) -> list[int]:
    """Tokens that all prompts begin with, each keeping at least one of its own; none if they are fewer than `least`."""
    if len(prompts) < 2:
        return []
    count = 0
    for column in zip(*(prompt[:-1] for prompt in prompts), strict=False):
        if len(set(column)) > 1:
            break
        count += 1
    return list(prompts[0][:count]) if count >= least else []
