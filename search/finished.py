"""Finished trees of a search under way, in a file that survives a kill.

The first line is the key of the search: hashes of all that its trees depend on. Each further line is a tree, written as
soon as it ended, and forced onto the disk once a second: a kill takes nothing of it, a power cut a second's trees. A
tree does not depend on the trees around it, so a search that begins again keeps these, grows the others from their
roots, and ends with the same trees. Of several processes each has a file of its own, and reads those of the others.
"""

from __future__ import annotations

import fcntl
import json
import os
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from o1coder_jax.config import to_dict
from o1coder_jax.errors import UserError
from o1coder_jax.records import Problem, content_hash, to_line
from search.config import SearchConfig
from search.harvest import Provenance
from search.store import StoredTree, read_tree
from search.tree import Tree

# Of the settings, those that a tree does not depend on.
_PLACES = ("trees", "slots", "wave_steps", "pages", "page_tokens", "paging")
_PATIENCE_SECONDS = 90.0
_POLL_SECONDS = 0.2
_SYNC_SECONDS = 1.0  # a disk may take ten milliseconds, which thousands of small trees would wait for


class FinishedTrees:
    """The trees of one search, as they end.

    Attributes:
      kept: those of an earlier attempt, by their problems' ids.
    """

    def __init__(self, path: Path, problems: Sequence[Problem], provenance: Provenance, *, replace: bool = False):
        """Opens the file, or begins it.

        Args:
          path: of the file; its folder is made.
          problems: of the search.
          provenance: of its trees.
          replace: drop the trees of another search; without it they are a `UserError`.
        """
        self.path, self._provenance = path, provenance
        self._problems = {problem.id: problem for problem in problems}
        self._key = to_line({"search": search_key(problems, provenance)}).encode()
        self.kept: dict[str, Tree] = {}
        self._synced = time.monotonic()
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = path.open("a+b")
        try:
            self._begin(self._key, replace)
        except BaseException:
            self._file.close()
            raise

    def _begin(self, key: bytes, replace: bool) -> None:
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise UserError(
                f"{self.path} is in use by another search; wait for it, or choose another folder"
            ) from error
        self._file.seek(0)
        size = self._read(self._file.read(), key, replace)
        self._file.truncate(size)
        if not size:
            self._write(key)

    def _read(self, data: bytes, key: bytes, replace: bool) -> int:
        """Takes the trees that are there; returns how many bytes of the file are of use."""
        lines = data.splitlines(keepends=True)
        if not lines or not lines[0].endswith(b"\n"):
            return 0
        if lines[0] != key:
            if replace:
                return 0
            raise UserError(f"{self.path} holds trees of another search; remove the file, or choose another folder")
        size = len(key)
        for number, line in enumerate(lines[1:], 2):
            if not line.endswith(b"\n"):
                break  # the kill came in the middle of this one
            tree = self._tree(line, f"{self.path}, line {number}")
            self.kept[tree.problem.id] = tree
            size += len(line)
        return size

    def _tree(self, line: bytes, where: str) -> Tree:
        try:
            row = json.loads(line)
        except ValueError as error:
            raise UserError(f"{where}: not JSON ({error}); remove the file to search all anew") from error
        tree = read_tree(row, where).tree
        tree.problem = self._problems[tree.problem.id]
        return tree

    def elsewhere(self, paths: Iterable[Path]) -> dict[str, Tree]:
        """The trees of the same search in the files of other processes, which may be growing."""
        found: dict[str, Tree] = {}
        for path in paths:
            lines = path.read_bytes().splitlines(keepends=True)
            whole = [line for line in lines[1:] if line.endswith(b"\n")] if lines[:1] == [self._key] else []
            for number, line in enumerate(whole, 2):
                tree = self._tree(line, f"{path}, line {number}")
                found[tree.problem.id] = tree
        return found

    def complete(self, own: dict[str, Tree], elsewhere: Callable[[], Iterable[Path]]) -> list[Tree]:
        """The trees of all processes by number, once all are grown; network file systems show files of others late."""
        self._sync()  # where the others look for it
        deadline = time.monotonic() + _PATIENCE_SECONDS
        while len(found := self.elsewhere(elsewhere()) | own) < len(self._problems):
            if time.monotonic() > deadline:
                missing = len(self._problems) - len(found)
                raise UserError(f"{self.path}: {missing} trees of other processes are not there; share the folder")
            time.sleep(_POLL_SECONDS)
        return sorted(found.values(), key=lambda tree: tree.number)

    def add(self, tree: Tree) -> None:
        """Writes a tree that has ended; a kill does not take it when this has returned."""
        self._write(to_line(StoredTree(tree, self._provenance)).encode())
        if time.monotonic() - self._synced >= _SYNC_SECONDS:
            self._sync()

    def _write(self, line: bytes) -> None:
        self._file.write(line)
        self._file.flush()

    def _sync(self) -> None:
        os.fsync(self._file.fileno())
        self._synced = time.monotonic()

    def close(self) -> None:
        """Closes the file, which stays for another attempt."""
        self._sync()
        self._file.close()


def provenance_of(
    run: str,
    iteration: int,
    config: SearchConfig,
    *,
    policy: str,
    tokenizer: str,
    seed: int,
    reward_model: str = "",
) -> Provenance:
    """Of the trees of a search with these settings."""
    return Provenance(run, iteration, policy, tokenizer, reward_model, seed, to_dict(config.resolved()))


def search_key(problems: Sequence[Problem], provenance: Provenance) -> str:
    """Identifies all that the trees of a search depend on."""
    settings: dict[str, Any] = {k: v for k, v in provenance.search.items() if k not in _PLACES}
    tasks = [content_hash(problem.to_json()) for problem in problems]
    hashes = (provenance.policy, provenance.tokenizer, provenance.reward_model)
    return content_hash(provenance.iteration, provenance.seed, hashes, settings, tasks)
