"""What the host knows of a tree: the text of its nodes, and what became of them."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field
from typing import ClassVar

from o1coder_jax.records import Judgement, Problem, Verdict, content_hash
from o1coder_jax.rewards import terminal_reward
from o1coder_jax.steps import END, STEP_END, Action, parse_step, split_path
from o1coder_jax.vocabulary import Vocabulary
from search.config import SearchConfig


@dataclass
class Node:
    """A step and its fate.

    Attributes:
      ended: why no step may follow: `code`, `depth`, `malformed`, `truncated`; empty for an inner node.
      code: the program, for a code step.
      log_probability: of its tokens but those that it was given.
      judgement, reward: set when a rollout came here; reward stays None if it could not be checked.
      visits, value: set when the tree is finished; value is None for a node that was never visited.
      prior: its log-probability per token that was drawn, with those of the candidates that were merged into it.
      opinion: the process reward model's, in [0, 1]; None without one.
      given: so many of its tokens, the first, are a header that it was given; they are no part of its text.
    """

    parent: int
    depth: int
    tokens: tuple[int, ...] = ()
    text: str = ""
    action: Action = Action.NONE
    log_probability: float = 0.0
    ended: str = ""
    code: str | None = None
    judgement: Judgement | None = None
    reward: float | None = None
    visits: int = 0
    value: float | None = None
    prior: float = 0.0
    opinion: float | None = None
    given: int = 0

    @property
    def terminal(self) -> bool:
        return bool(self.ended)

    @property
    def drawn(self) -> int:
        """How many tokens it was drawn with."""
        return len(self.tokens) - self.given

    def judge(self, judgement: Judgement, alpha: float) -> None:
        self.judgement = judgement if self.code is not None else None
        self.reward = terminal_reward(judgement, alpha)


@dataclass(frozen=True, slots=True)
class Rollout:
    """Where a rollout ended.

    Attributes:
      end: the node.
      leaf: the first node that the rollout added; -1 if it added none.
      again: it came once more to a terminal that was judged before, which the published code's rules allow.
    """

    end: int
    leaf: int = -1
    again: bool = False


@dataclass
class Tree:
    """A problem's tree.

    Attributes:
      number: of its problem in the search.
      tests: hash of the tests that its programs met.
      alpha, value_weight: as in `SearchConfig`: what a terminal and a rollout were worth.
      rollouts: in order; with the terminals' rewards they give every N and Q.
      tokens: generated for it; `executions` programs run on `tests_run` tests, `infra_errors` could not be checked.
    """

    NO_PROGRAM: ClassVar[Judgement] = Judgement(Verdict.COMPILE_ERROR, compiled=False, passed=0, total=0)

    number: int
    problem: Problem
    prompt: tuple[int, ...]
    nodes: list[Node] = field(default_factory=lambda: [Node(parent=-1, depth=0)])
    alpha: float = 0.0
    value_weight: float = 0.0
    tests: str = ""
    rollouts: list[Rollout] = field(default_factory=list)
    tokens: int = 0
    executions: int = 0
    tests_run: int = 0
    infra_errors: int = 0

    def __post_init__(self) -> None:
        self.tests = self.tests or tests_hash(self.problem)

    def count(self, judgement: Judgement) -> None:
        """Adds a verdict to what the tree cost."""
        self.tests_run += len(judgement.tests) if judgement.checked else 0
        self.infra_errors += not judgement.checked

    def finish(self, rollouts: Sequence[Rollout]) -> None:
        """Takes the rollouts, and gives every node its N and Q / N."""
        self.rollouts = list(rollouts)
        self.back_up()

    def back_up(self) -> None:
        """Sets N and Q / N of all nodes from the rollouts and the rewards at their ends, as `search.rollouts` does."""
        visits, total = [0] * len(self.nodes), [0.0] * len(self.nodes)
        for rollout in self.rollouts:
            for index, worth in self.worths(rollout):
                visits[index] += 1
                total[index] += worth
        for node, count, sum_of in zip(self.nodes, visits, total, strict=True):
            node.visits, node.value = count, sum_of / count if count else None

    def worths(self, rollout: Rollout) -> Iterator[tuple[int, float]]:
        """The nodes on a rollout's way with what it adds to their Q; none if its end could not be checked."""
        end = self.nodes[rollout.end]
        reward = end.reward if end.terminal else end.opinion or 0.0
        if reward is None:
            return
        above, below = reward, False
        if end.terminal and not rollout.again and rollout.leaf not in (-1, rollout.end):
            opinion = self.nodes[rollout.leaf].opinion or 0.0
            above = (1 - self.value_weight) * reward + self.value_weight * opinion
            below = True
        for index in [*reversed(self.path(rollout.end)), 0]:
            below = below and index != rollout.leaf
            yield index, 0.0 if rollout.again and index == rollout.end else reward if below else above

    @property
    def solved(self) -> bool:
        return any(node.judgement is not None and node.judgement.accepted for node in self.nodes)

    def path(self, index: int) -> list[int]:
        """Nodes from below the root to `index`."""
        path: list[int] = []
        while index > 0:
            path.append(index)
            index = self.nodes[index].parent
        return path[::-1]

    def attach(self, candidates: Sequence[Node], *, merge: bool, known: Collection[tuple[int, ...]] = ()) -> list[bool]:
        """Makes candidates children of their parent, all but repeated ones if `merge`; says which became one.

        `known` are the tokens of children from earlier expansions.

        They are numbered in order, as `search.forest.grow` does it on the device.
        """
        first: dict[tuple[int, ...], Node] = {}
        opinion = {node.tokens: node.opinion for node in candidates if node.opinion is not None}
        count: dict[tuple[int, ...], int] = {}
        fresh = []
        for node in candidates:
            count[node.tokens] = count.get(node.tokens, 0) + 1
            repeated = merge and (node.tokens in first or node.tokens in known)
            fresh.append(not repeated)
            if not repeated:
                first[node.tokens] = node
                self.nodes.append(node)
                node.opinion = opinion.get(node.tokens)
        for node in candidates:
            node.prior = node.log_probability / max(node.drawn, 1)
            if merge:
                node.prior += math.log(count[node.tokens])
        return fresh


def tests_hash(problem: Problem) -> str:
    """Identifies a problem's own tests."""
    return content_hash([test.to_json() for test in problem.tests])


def read_step(
    tokens: tuple[int, ...],
    log_probability: float,
    parent: int,
    depth: int,
    *,
    stopped: bool,
    tokenizer: Vocabulary,
    config: SearchConfig,
    given: int = 0,
) -> Node:
    """A candidate at `depth`, from a row's ids, `given` of them its header; `stopped` says that they met a stop.

    Its text ends with the marker. The last token may hold more: what comes after the marker is no part of the step, but
    it stays on the path, for the ids are what the model said and will read.
    """
    drawn = tokens[given:]
    text = next(iter(split_path(tokenizer.decode(drawn))), "")
    step = parse_step(text)
    # An end of text is none of the markers; it closes a path as END does.
    right = text.endswith(STEP_END) != step.terminal
    early = any(marker in tokenizer.decode(drawn[:-1]) for marker in (STEP_END, END))  # spelled out in other tokens
    too_long = not step.terminal and len(tokens) > config.step_tokens
    if not stopped or too_long:
        ended = "truncated"
    elif step.action is Action.NONE or not right or early:
        ended = "malformed"
    elif step.terminal:
        ended = "code"
    else:
        ended = "depth" if depth >= config.depth else ""
    return Node(
        parent=parent,
        depth=depth,
        tokens=tokens,
        given=given,
        text=text,
        action=step.action,
        log_probability=log_probability,
        ended=ended,
        code=step.code if ended == "code" else None,
    )
