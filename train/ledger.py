"""Which problems are worth another try: how often recent policies solved each, and a draw that follows it.

A search adds to the ledger what became of each tree's rollouts, RL what became of each group. Both draw from it. It is
the file `ledger.jsonl` of the run folder: what an unfinished stage added is taken back when the run is opened again.
"""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from o1coder_jax.errors import UserError
from o1coder_jax.estimates import expected
from o1coder_jax.records import Problem
from search.tree import Node, Tree

if TYPE_CHECKING:
    from train.session import Session

LEDGER = "ledger.jsonl"


@dataclass(frozen=True)
class DrawingConfig:
    """Which self-play problems search and RL work on, by their pass rates (s + 1) / (n + 2), s right of n samples.

    Attributes:
      low, high: the window of rates, both ends included, that problems are drawn from. A problem that nobody has tried
        has the rate 1/2.
      retire: a problem above this rate is not drawn any more.
      recent: a rate is over a problem's latest entries that hold so many samples together, or over all it has.
      max_age: entries of more than so many rounds before count no more; 0: entries of any age count.
      trees: how many samples a search's tree counts for: the `paths` it found, or the `rollouts` that it might have
        made. A search without replacement ends where it has found all that the policy is likely to write: one path,
        where the policy is sure, which as a single sample would say little. Not with what ends a tree otherwise
        (`search.stop_when_solved`, `tree_tokens`, `tree_executions`).
      outside: the share of draws that ignore the window, though not the retirement.
      search: problems that a round of search draws; 0: it takes all, retired ones too. RL draws `rl.problems`.
    """

    low: float = 0.1
    high: float = 0.9
    retire: float = 0.9
    recent: int = 16
    max_age: int = 0
    trees: Literal["paths", "rollouts"] = "paths"
    outside: float = 0.1
    search: int = 0

    def __post_init__(self) -> None:
        if not 0 <= self.low <= 0.5 <= self.high <= 1:
            raise UserError(
                f"drawing: low is {self.low} and high {self.high}; keep 0 <= low <= 0.5 <= high <= 1, "
                "0.5 is the rate of a problem that nobody has tried"
            )
        if not 0.5 <= self.retire <= 1:
            raise UserError(f"drawing.retire is {self.retire}; choose a rate from 0.5 to 1")
        if self.recent < 8:
            raise UserError(f"drawing.recent is {self.recent}; a rate takes 8 samples at least")
        if not 0 <= self.outside <= 1:
            raise UserError(f"drawing.outside is {self.outside}; choose a share from 0 to 1")
        for name in ("max_age", "search"):
            if getattr(self, name) < 0:
                raise UserError(f"drawing.{name} is {getattr(self, name)}; it must not be negative")


@dataclass(frozen=True)
class Tally:
    """How a problem's samples fared with one policy: an entry of the ledger.

    Attributes:
      problem_id, iteration, source: whose, in which round, by which stage.
      successes, samples: of those that could be checked.
    """

    problem_id: str
    iteration: int
    source: Literal["search", "rl"]
    successes: int
    samples: int

    def to_json(self) -> dict[str, Any]:
        return dataclasses.asdict(self)

    def of_same_tree(self, other: Tally) -> bool:
        """Whether both tell of the one tree that a round of search grew for a problem."""
        mine, its = ((one.problem_id, one.iteration, one.source) for one in (self, other))
        return self.source == "search" and mine == its


class Ledger:
    """The pass rates of problems, as known in one round.

    Args:
      config: see there.
      entries: so far, oldest first.
      iteration: the round that draws.
    """

    def __init__(self, config: DrawingConfig, entries: Iterable[Tally], iteration: int):
        self.config, self.iteration = config, iteration
        self._entries: dict[str, list[Tally]] = {}
        self.add(entries)

    @classmethod
    def of(cls, session: Session, iteration: int) -> Ledger:
        """What the finished stages of a run have found out."""
        entries = [Tally(**row) for row in session.run.read(LEDGER)]
        return cls(session.config.drawing, entries, iteration)

    def add(self, entries: Iterable[Tally]) -> list[Tally]:
        """Takes further entries; returns those that say something, for the file.

        A tree that was judged again (`train.relabel`) has another entry, which takes the place of its first.
        """
        taken = [entry for entry in entries if entry.samples]
        for entry in taken:
            own = self._entries.setdefault(entry.problem_id, [])
            place = next((i for i, one in enumerate(own) if one.of_same_tree(entry)), len(own))
            own[place : place + 1] = [entry]
        return taken

    def rate(self, problem_id: str) -> float:
        """(s + 1) / (n + 2) over the latest entries; 1/2 for a problem without any."""
        right = count = 0
        for entry in reversed(self._entries.get(problem_id, [])):
            if count >= self.config.recent:
                break
            if self.config.max_age and entry.iteration < self.iteration - self.config.max_age:
                continue
            right, count = right + entry.successes, count + entry.samples
        return (right + 1) / (count + 2)

    def retired(self, problem_id: str) -> bool:
        """Whether a problem is solved too often to be drawn."""
        return self.rate(problem_id) > self.config.retire

    def inside(self, problem_id: str) -> bool:
        """Whether a problem's rate lies in the window."""
        return not self.retired(problem_id) and self.config.low <= self.rate(problem_id) <= self.config.high

    def draw(self, problems: Sequence[Problem], count: int, rng: random.Random) -> list[Problem]:
        """Different problems, `count` of them or all that are not retired if these are fewer.

        Those that the window cannot give are drawn without it.
        """
        ignoring = sum(rng.random() < self.config.outside for _ in range(count))
        inside = [problem for problem in problems if self.inside(problem.id)]
        chosen = rng.sample(inside, min(count - ignoring, len(inside)))
        taken = {problem.id for problem in chosen}
        others = [one for one in problems if one.id not in taken and not self.retired(one.id)]
        return chosen + rng.sample(others, min(count - len(chosen), len(others)))

    def counts(self, problems: Collection[Problem]) -> dict[str, int]:
        """How many problems lie inside the window, how many are retired, and how many are untried."""
        return {
            "problems_inside": sum(self.inside(problem.id) for problem in problems),
            "problems_retired": sum(self.retired(problem.id) for problem in problems),
            "problems_untried": sum(problem.id not in self._entries for problem in problems),
        }


def searched(session: Session, iteration: int) -> list[Problem]:
    """The self-play problems of a round of search, in the order of the run's."""
    problems, count = session.parts.selfplay, session.config.drawing.search
    if not count:
        return problems
    rng = random.Random(f"{session.config.seed} search {iteration}")
    chosen = {problem.id for problem in Ledger.of(session, iteration).draw(problems, count, rng)}
    return [problem for problem in problems if problem.id in chosen]


def rollouts_counted(session: Session) -> int:
    """What `of_tree` takes for a run's searches."""
    return session.config.search.rollouts if session.config.drawing.trees == "rollouts" else 0


def of_tree(tree: Tree, iteration: int, rollouts: int = 0) -> Tally:
    """A tree's rollouts that ended in a terminal and could be checked.

    A search looks for what is unlikely, too, so its ends are no samples: so many of them count as right as would be
    among as many samples of the policy, each end weighed by the probability of its path.

    Args:
      rollouts: a search that ended after fewer, since nothing was left to be found, counts for so many samples, but for
        those that could not be checked; 0: for the ends that it has.
    """
    ends = [rollout.end for rollout in tree.rollouts]
    checked = [end for end in ends if tree.nodes[end].terminal and tree.nodes[end].reward is not None]
    if not checked:
        return Tally(tree.problem.id, iteration, "search", 0, 0)
    chances = [sum(tree.nodes[step].log_probability for step in tree.path(end)) for end in checked]
    passed = expected([float(_accepted(tree.nodes[end])) for end in checked], chances) or 0.0
    count = max(len(checked), rollouts - (len(ends) - len(checked)))
    return Tally(tree.problem.id, iteration, "search", round(count * passed), count)


def _accepted(node: Node) -> bool:
    return node.judgement is not None and node.judgement.accepted


def of_groups(
    problems: Sequence[Problem],
    marks: Iterable[Sequence[float | None]],
    log_probabilities: Iterable[Sequence[float]],
    iteration: int,
) -> list[Tally]:
    """RL's groups, one for each problem: R of each path, None where it could not be checked.

    Args:
      log_probabilities: what each path weighs, see `estimates.expected`: of a tree's paths as in `of_tree`.
    """
    found = []
    for problem, group, likely in zip(problems, marks, log_probabilities, strict=True):
        checked = [(mark, one) for mark, one in zip(group, likely, strict=True) if mark is not None]
        passed = expected([mark for mark, _ in checked], [one for _, one in checked]) or 0.0
        found.append(Tally(problem.id, iteration, "rl", round(len(checked) * passed), len(checked)))
    return found
