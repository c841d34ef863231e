"""Who decodes where: candidates, the rows they are drawn in, and the paths that these continue.

One `Part` for each part of the mesh. Candidates wait in the order in which their trees asked for them; as soon as a row
has ended its step the next candidate takes its place, of whatever tree. The candidates of a node share one path, which
is opened when the first of them starts and is given up when the last has ended.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from search.cache import SHARED, Cache, Held, Owner, page_table
from search.config import SearchConfig
from search.expansion import Ended, Expansion, Piece, owners
from search.plans import Sizes
from search.tree import Node, Tree


@dataclass
class Part:
    """Rows, paths and pages of one part of the mesh.

    Args:
      config, sizes: of the search, and of this part.
      shared: tokens of the prefix that all prompts share.
      rated: whether a process reward model needs the path of every candidate until it has ended.
      headers: that candidates at depth 1, 2, ... begin with; none if they are given nothing.
      states: whether states at last tokens are kept, so that no path is opened by feeding its last token again.
      to_end: whether steps are fed to their last token, for the policy's value head, as soon as they have ended;
        otherwise their last token is fed when the path that it ends is opened for the first time.
    """

    config: SearchConfig
    sizes: Sizes
    shared: int
    rated: bool
    headers: Sequence[Sequence[int]] = ()
    states: bool = False
    to_end: bool = False
    cache: Cache = field(init=False)
    waiting: deque[Expansion] = field(default_factory=deque)
    opened: int = 0
    fed: int = 0
    started: int = 0
    _open: deque[Expansion] = field(default_factory=deque)
    reread: int = 0
    _keep: list[tuple[int, Held]] = field(default_factory=list)
    _unread: set[Owner] = field(default_factory=set)

    def __post_init__(self) -> None:
        self.cache = Cache(self.sizes.pages, self.config.page_tokens)
        self.rows: list[tuple[Expansion, int] | None] = [None] * self.sizes.rows
        self._free_paths = list(range(self.sizes.paths))[::-1]

    @property
    def busy(self) -> bool:
        """Whether there is anything to decode; an open path may have candidates without a row yet, and no others."""
        return any(row is not None for row in self.rows) or bool(self.waiting) or bool(self._open)

    @property
    def _pins(self) -> bool:
        """Whether the pages of open paths are held until their candidates have ended."""
        return self.rated or not self.config.paging

    # Before a wave.

    def missing(self, expansion: Expansion) -> tuple[list[Owner], list[Owner]]:
        """The owners of a path whose pages are there, and those whose pages are not: always its end."""
        path = owners(expansion.tree, expansion.node)
        if not self.shared:
            path = path[1:]
        there = next((i for i, owner in enumerate(path) if self.cache.get(owner) is None), len(path))
        return path[:there], path[there:]

    def read_shared(self, tokens: list[int]) -> list[Piece]:
        """The prefix that all prompts share."""
        if not tokens:
            return []
        held = self.cache.hold(SHARED, len(tokens), 0, 0)
        assert held is not None
        held.fed = len(tokens)
        return [Piece([], tokens, self.cache.places(held, 0, len(tokens)), 0, open=False)]

    def read_prompt(self, tree: Tree, now: int) -> list[Piece]:
        """The rest of a prompt; none when the pool has no room for it now, so that it is read when it is needed."""
        if not self.config.paging:
            self._unread.add((tree.number, 0))
            return []
        shared = self.cache.get(SHARED)
        tokens = self.step_tokens(tree, (tree.number, 0))
        held = self.cache.hold((tree.number, 0), len(tokens), 0, now)
        if held is None:
            self._unread.add((tree.number, 0))
            return []
        held.fed = len(tokens) - (not self.to_end)
        places = self.cache.places(held, 0, len(tokens))
        return [self._piece([shared] if shared else [], tokens, places, [len(tokens) - 1])]

    def _piece(self, before: list[Held], tokens: list[int], places: list[int], ends: list[int]) -> Piece:
        start = sum(held.tokens for held in before)
        kept = ends[: len(ends) - (not self.to_end)] if self.states else []
        return Piece(before, tokens, places, start, open=not self.to_end, ends=tuple(kept))

    def read_lost(self, now: int) -> list[Piece]:
        """The ends of paths whose pages were dropped, of those that can be opened now; as many as are read at once."""
        pieces: list[Piece] = []
        reading: set[Owner] = set()
        for expansion in list(self.waiting)[: self._openable()]:
            there, lost = self.missing(expansion)
            self.cache.touch(there, now)
            if not lost:
                continue
            need = sum(self.cache.need(len(self.step_tokens(expansion.tree, owner))) for owner in lost)
            # What now stands in the way is cold in the next wave, or when rows have ended; what is being read in this
            # go cannot be built on yet.
            if need > self.cache.room(now) or reading.intersection(there):
                break
            pieces.append(self._read_end(expansion.tree, there, lost, now))
            reading.update(lost)
            if len(pieces) == self.sizes.prompts:
                break
        return pieces

    def _read_end(self, tree: Tree, there: Sequence[Owner], lost: Sequence[Owner], now: int) -> Piece:
        """The end of a path, for which the pool has room."""
        before = [held for held in map(self.cache.get, there) if held is not None]
        tokens: list[int] = []
        places: list[int] = []
        ends: list[int] = []
        for owner in lost:
            step = self.step_tokens(tree, owner)
            held = self.cache.hold(owner, len(step), tree.nodes[owner[1]].depth, now)
            assert held is not None
            # The path's last token is fed when it is opened, unless it has to be there by then.
            held.fed = len(step) - (owner == lost[-1] and not self.to_end)
            tokens += step
            places += self.cache.places(held, 0, len(step))
            ends.append(len(tokens) - 1)
            self.reread += held.fed if owner not in self._unread else 0
            self._unread.discard(owner)
        return self._piece(before, tokens, places, ends)

    def _openable(self) -> int:
        """How many of those that wait `fill` opens at most."""
        rows = min(sum(user is None for user in self.rows), self.sizes.turnover)
        rows -= sum(len(expansion.steps) - expansion.started for expansion in self._open)
        return min(max(-(-rows // self.config.samples), 0), self.sizes.openings, len(self._free_paths))

    def step_tokens(self, tree: Tree, owner: Owner) -> list[int]:
        """The tokens that an owner holds: a prompt without the shared prefix, or a step."""
        return list(tree.nodes[owner[1]].tokens if owner[1] else tree.prompt[self.shared :])

    def fill(self, plan: Mapping[str, np.ndarray], now: int) -> None:
        """Writes this part's share of a `Plan`: one row of each array, prepared as out of range."""
        for i, (row, held) in enumerate(self._keep):
            if not held.released:  # else its pages may have been filled with something else since
                plan["kept"][i] = row
                plan["kept_places"][i, : held.fed] = self.cache.places(held, 0, held.fed)
        self._keep = []
        free = [row for row, user in enumerate(self.rows) if user is None]
        openings = 0
        for i, row in enumerate(free[: self.sizes.turnover]):
            if not self._open and not self._open_next(plan, openings, now):
                return
            expansion = self._open[0]
            openings += expansion.started == 0
            k = expansion.started
            assert expansion.path is not None
            plan["row"][i], plan["path"][i], plan["lane"][i] = row, expansion.path, k
            plan["seeds"][i] = expansion.seeds[k]
            self.rows[row] = (expansion, k)
            expansion.started += 1
            self.started += 1
            if expansion.started == len(expansion.steps):
                self._open.popleft()

    def _open_next(self, plan: Mapping[str, np.ndarray], index: int, now: int) -> bool:
        if not self.waiting or not self._free_paths or index >= self.sizes.openings:
            return False
        expansion = self.waiting[0]
        there, lost = self.missing(expansion)
        if lost:
            return False  # to be read again first
        self.waiting.popleft()
        self.cache.touch(there, now)
        if self._pins:
            self.cache.pin(there, 1)
        path = [held for held in map(self.cache.get, there) if held is not None]
        end = path[-1]
        known = self.states and end.fed == end.tokens
        if not known:
            end.fed = end.tokens - 1  # its last token is fed now, also where an earlier opening did
        pages, filled = page_table(path, self.config.page_tokens)
        expansion.path = self._free_paths.pop()
        plan["slot"][index] = expansion.path
        plan["table"][index, : len(pages)] = pages
        plan["filled"][index, : len(filled)] = filled
        plan["last"][index] = self.step_tokens(expansion.tree, there[-1])[-1]
        plan["length"][index] = sum(held.tokens for held in path)
        plan["end_page"][index] = end.pages[-1]
        if not known:
            plan["last_place"][index] = self.cache.places(end, end.tokens - 1, 1)[0]
            before = sum(len(held.pages) for held in path[:-1]) * self.config.page_tokens
            plan["last_path_place"][index] = before + end.tokens - 1
            self.fed += 1
            self.reread += expansion.again
        end.fed = end.tokens
        self._write_texts(plan, index, expansion)
        self.opened += 1
        self._open.append(expansion)
        return True

    def _write_texts(self, plan: Mapping[str, np.ndarray], index: int, expansion: Expansion) -> None:
        """What drawing depends on beside the model: the path's tokens, and the header of the next step."""
        if "said" in plan:
            tree = expansion.tree
            said = [*tree.prompt, *(token for step in tree.path(expansion.node) for token in tree.nodes[step].tokens)]
            plan["said"][index, : len(said)] = said
        if self.headers:
            header = self.header(expansion)
            plan["header"][index, : len(header)] = header
            plan["header_length"][index] = len(header)

    def header(self, expansion: Expansion) -> Sequence[int]:
        """What the candidates of an expansion are given."""
        return self.headers[expansion.tree.nodes[expansion.node].depth] if self.headers else ()

    # After a wave.

    def ended(self, done: np.ndarray) -> Iterator[Ended]:
        """Rows that have ended, at most as many as may in one wave; each must be given to `take`."""
        count = 0
        for row, user in enumerate(self.rows):
            if user is not None and done[row]:
                yield Ended(*user, row)
                count += 1
                if count == self.sizes.turnover:
                    return

    def take(self, ended: Ended, step: Node, now: int) -> Piece | None:
        """Takes a candidate out of its row; gives pages to one that may have children and is not a repetition.

        Returns the step as a process reward model would read it, and where it goes; None for a repetition.
        """
        expansion, cache = ended.expansion, self.cache
        path, lost = self.missing(expansion)
        cache.touch(path, now)
        repeated = self.config.merge_identical and expansion.repeats(step)
        held = None
        if self.config.paging and not (step.terminal or repeated or lost):
            held = cache.hold(expansion.draft(ended.k), len(step.tokens), step.depth, now)
            if held is not None:
                held.fed = len(step.tokens) - (not self.to_end)
                self._keep.append((ended.row, held))
        expansion.steps[ended.k] = step
        self.rows[ended.row] = None
        if expansion.complete:
            assert expansion.path is not None
            self._free_paths.append(expansion.path)
            if self._pins:
                cache.pin(path, -1)
        before = [part for part in map(cache.get, path) if part is not None]
        if expansion.complete and not self.config.paging:
            for owner in path:
                if not cache.pinned(owner):  # by another expansion, as of a beam
                    cache.release(owner)
        if repeated:
            return None
        places = cache.places(held, 0, held.tokens) if held is not None else []
        return Piece(before, list(step.tokens), places, sum(part.tokens for part in before), open=False)

    def adopt(self, expansion: Expansion, numbers: Sequence[int]) -> None:
        """Gives the pages of candidates to the nodes that they became; `numbers` has -1 for those that became none."""
        by_tokens: dict[tuple[int, ...], list[Owner]] = {}
        for k, step in enumerate(expansion.drawn):
            if self.cache.get(expansion.draft(k)) is not None:
                by_tokens.setdefault(step.tokens, []).append(expansion.draft(k))
        for step, number in zip(expansion.drawn, numbers, strict=True):
            drafts = by_tokens.get(step.tokens)
            if number >= 0 and drafts:
                self.cache.rename(drafts.pop(0), (expansion.tree.number, number))
        for drafts in by_tokens.values():
            for draft in drafts:
                self.cache.release(draft)
