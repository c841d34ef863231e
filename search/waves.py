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

import math
import time
from collections import deque
from collections.abc import Collection, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, wait
from dataclasses import dataclass, replace
from itertools import zip_longest

from jax.sharding import Mesh

from o1coder_jax.errors import UserError
from o1coder_jax.mesh import agree, own_shards, row_shards
from o1coder_jax.policy import Policy, encode_prompt
from o1coder_jax.prm import RewardModel
from o1coder_jax.records import Problem
from search.config import SearchConfig
from search.counters import Counters
from search.device import Device
from search.expansion import Ended, Piece
from search.growing import Judge, Opinion
from search.places import Places
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
        self.policy, self.counters = policy, Counters()
        self.device = Device(policy, reward_model, config, mesh)
        self.mesh, own = mesh, own_shards(mesh)
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
        # With several processes each has a fixed share: only what they call next must be agreed on.
        mine = [i for i, problem in enumerate(problems) if i % count in own and problem.id not in without]
        waiting = deque((i, problems[i], tuple(prompts[i])) for i in mine)
        self.places = Places(
            config, judge, self.counters, (seed, iteration), waiting, self.parts, self.device.trees, tree_tokens
        )
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
                yield from self.places.follow(self.device.turn(self.places.orders()), self.device)
            else:
                yield from self.places.advance()

    # Agree.

    def _agree(self, lost: Sequence[Pieces]) -> Round:
        """What is needed here or elsewhere; the loop's only talk between processes, beside what jitted calls do."""
        kinds = [1 + self.device.long(pieces) for pieces in lost]
        kinds += [0] * (self.device.sizes.openings - len(kinds))  # each reads for a path that the next wave opens
        plantings, decoding = self.places.plantings(self.device.sizes.prompts), any(part.busy for part in self.parts)
        plants, grows, busy, *kinds = agree(self.mesh, plantings, self.places.growing, decoding, *kinds)
        return Round(tuple(kind == 2 for kind in kinds if kind), bool(busy), plants, bool(grows))

    def _lost(self) -> list[Pieces]:
        """The ends of paths whose pages were dropped, in the order in which they are read before the next wave."""
        rounds: list[Pieces] = []
        while any(pieces := [part.read_lost(self.counters.waves) for part in self.parts]):
            rounds.append(pieces)
        return rounds

    def _plant(self) -> None:
        """Gives free places to waiting problems: as many in each part as are read in one go."""
        pieces, seeds = self.places.plant(self.device.sizes.prompts, self.counters.waves)
        self.device.read(pieces)
        self.device.plant(seeds)

    def _check_pages(self) -> None:
        least = self.config.path_pages
        if self.device.sizes.pages < least:
            raise UserError(
                f"search.pages {self.config.pages} is too few: one path in each part of the mesh may need "
                f"{least * row_shards(self.mesh)}; give more, or 0 for as many as all trees can need"
            )

    def _await_verdict(self) -> None:
        """Nothing can be decoded before a verdict has come."""
        awaited = self.places.awaited
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
                step.opinion = _finite(float(opinions[d, rows[d][i] if own_head else i]), "the reward model's score")

    def _candidate(self, ended: Ended, ids: tuple[int, ...], log_probability: float, *, stopped: bool) -> Node:
        tree, parent = ended.expansion.tree, ended.expansion.node
        given = len(self.places.part(ended.expansion.place).header(ended.expansion))
        tree.tokens += len(ids) - given
        self.counters.tokens += len(ids) - given
        self.device.fed += len(ids) - 1  # its last token is fed when a value head rates it, or somebody continues it
        depth = tree.nodes[parent].depth + 1
        step = read_step(
            ids,
            _finite(log_probability, "the policy's log-probability"),
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


def _finite(value: float, what: str) -> float:
    """A number that a model gave; one that is none would lead walks in circles."""
    if not math.isfinite(value):
        raise UserError(
            f"search: {what} of a step is {value}; the checkpoint's weights are no numbers, take another one"
        )
    return value


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
