"""A device without a model: pages whose contents are the tokens that were read, and rows that follow from their seeds.

What is kept at a place of the pool stands for the keys there: the whole path up to its token. So every path that is
gathered can be compared with the tokens of the nodes that it stands for, and a search takes no time.
"""

from __future__ import annotations

import random
import zlib

import numpy as np

from o1coder_jax.mesh import row_shards, shard_rows
from search import forest
from search.device import Device
from search.plans import Sizes, empty_plan
from tests.search.scripted import PIECES

STEP_END, END = len(PIECES) - 2, len(PIECES) - 1
TURNS = 5000


class Endless(AssertionError):
    """The search does not come to its end."""


class ByHand(Device):
    """In the place of `search.device.Device`."""

    def __init__(self, policy, reward_model, config, mesh):
        self.policy, self.reward_model, self.config, self.mesh = policy, reward_model, config, mesh
        self.own_head = bool(policy.head) and reward_model is None
        self.keeps_states = self.own_head or config.expansions > 1
        self.parts = row_shards(mesh)
        self.trees = config.trees
        nodes = forest.nodes_needed(rollouts=config.rollouts, depth=config.depth, width=config.samples)
        self.sizes = Sizes.of(config, self.parts, nodes)
        self.fed = self.rated = self.turns = 0
        self.headers = []
        shape = (config.trees, nodes, config.samples * config.expansions, config.window, config.rollouts)
        self.forest = shard_rows(mesh, forest.empty(*shape))
        places = self.sizes.pages * config.page_tokens
        self.pool = [[None] * places for _ in range(self.parts)]
        self.rated_pool = [[None] * places for _ in range(self.parts)]
        self.states = [[None] * self.sizes.pages for _ in range(self.parts)]  # of a page: the path to a node's end
        self.paths = [{} for _ in range(self.parts)]
        self.rows = [[((), [], 0)] * self.sizes.rows for _ in range(self.parts)]  # path, step, tokens drawn

    def turn(self, orders):
        self.turns += 1
        if self.turns > TURNS:
            raise Endless
        return super().turn(orders)

    def read(self, pieces, *, long=False):
        assert long or not self.long(pieces)
        for d, part in enumerate(pieces):
            for piece in part:
                path = self._read(self.pool[d], piece, closed=False)
                self.fed += len(piece.tokens) - piece.open
                for end in piece.ends:
                    self.states[d][piece.places[end] // self.config.page_tokens] = path[: piece.start + end + 1]
                if self.reward_model is not None:
                    assert self._read(self.rated_pool[d], piece, closed=True)[: len(path)] == path
                    self.rated += len(piece.tokens)

    def rate(self, pieces):
        out = np.zeros((self.parts, self.sizes.turnover))
        for d, part in enumerate(pieces):
            for i, piece in enumerate(part):
                path = self._read(self.rated_pool[d], piece, closed=True)
                out[d, i] = zlib.crc32(repr(path).encode()) / 2**32
                self.rated += len(piece.tokens)
        return out

    def value(self, rows, pieces):
        out = np.zeros((self.parts, self.sizes.rows))
        for d, part in enumerate(pieces):
            for row, piece in zip(rows[d], part, strict=True):
                path, step, drawn = self.rows[d][row]
                assert tuple(piece.tokens) == tuple(step[:drawn])
                if piece.places:
                    self.states[d][piece.places[-1] // self.config.page_tokens] = (*path, *step)
                out[d, row] = zlib.crc32(repr((*path, *step)).encode()) / 2**32
                self.fed += 1
        return out

    def _read(self, pool, piece, *, closed):
        path = ()
        for held in piece.before:
            for token in range(held.tokens if closed else held.fed):
                path = follow(path, pool[self._place(held, token)])
        assert len(path) == piece.start
        count = len(piece.tokens) - (piece.open and not closed)
        for i, token in enumerate(piece.tokens[:count]):
            path = (*path, token)
            if i < len(piece.places):
                pool[piece.places[i]] = path
        return path

    def _place(self, held, token):
        page, offset = divmod(token, self.config.page_tokens)
        return held.pages[page] * self.config.page_tokens + offset

    def wave(self, parts, now):
        for d, part in enumerate(parts):
            plan = {name: array[d] for name, array in empty_plan(self.config, self.sizes, self.parts).items()}
            opened, fed = part.opened, part.fed
            part.fill(plan, now)
            self.fed += part.fed - fed
            self._keep(d, plan)
            for i, slot in enumerate(plan["slot"][: part.opened - opened].tolist()):
                self.paths[d][slot] = self._open(d, plan, i)
            for row, slot, seed in zip(plan["row"].tolist(), plan["path"].tolist(), plan["seeds"], strict=True):
                if row < self.sizes.rows:
                    expansion, _ = part.rows[row]
                    tree = expansion.tree
                    steps = [token for node in tree.path(expansion.node) for token in tree.nodes[node].tokens]
                    assert self.paths[d][slot] == (*tree.prompt, *steps)
                    self.rows[d][row] = (self.paths[d][slot], step_of(seed, self.config), 1)
        return self._drawn()

    def _keep(self, d, plan):
        for row, places in zip(plan["kept"], plan["kept_places"], strict=True):
            path, step, _ = self.rows[d][row]
            for i, place in enumerate(places):
                if place < len(self.pool[d]):
                    self.pool[d][place] = (*path, *step[: i + 1])

    def _open(self, d, plan, i):
        size, path = self.config.page_tokens, ()
        for page, filled in zip(plan["table"][i], plan["filled"][i], strict=True):
            for offset in range(filled):
                path = follow(path, self.pool[d][page * size + offset])
        place, page = plan["last_place"][i, 0], plan["end_page"][i]
        if plan["last_path_place"][i] >= self.config.path_pages * size:
            assert self.states[d][page] == path
        else:
            assert place // size == page
            path = (*path, int(plan["last"][i]))
            self.pool[d][place] = self.states[d][page] = path
        assert len(path) == plan["length"][i]
        return path

    def _drawn(self):
        shape = (self.parts, self.sizes.rows)
        done, stopped, length = np.ones(shape, bool), np.zeros(shape, bool), np.zeros(shape, int)
        tokens = np.zeros((*shape, self.config.code_tokens), int)
        for d, rows in enumerate(self.rows):
            for r, (path, step, drawn) in enumerate(rows):
                drawn = min(drawn + self.config.wave_steps, len(step))
                rows[r] = (path, step, drawn)
                length[d, r], done[d, r] = drawn, drawn == len(step)
                tokens[d, r, :drawn] = step[:drawn]
                stopped[d, r] = done[d, r] and bool(step) and step[-1] in (STEP_END, END)
        return done, stopped, length, tokens, -np.ones_like(tokens, float)


def follow(path, kept):
    """The path one token further, by what is kept for that token: all of its past must be that path."""
    assert kept[:-1] == path
    return kept


def step_of(seed, config):
    """A step that follows from its seed: of any length, mostly one that others may follow."""
    rng = random.Random(repr(seed.tolist()))
    kind = rng.random()
    if kind < 0.7:
        return [*[0] * rng.randrange(config.step_tokens - 1), rng.choice((1, 2, 3)), STEP_END]
    if kind < 0.9:
        return [rng.choice((4, 5, 6)), END]
    return [0] * config.code_tokens
