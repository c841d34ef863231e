"""What the host knows of a tree: the text of its nodes, and what became of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np

from o1coder_jax.records import Judgement, Problem, Verdict
from o1coder_jax.rewards import terminal_reward
from o1coder_jax.steps import Action, parse_step
from o1coder_jax.tokenizer import Tokenizer
from search.config import SearchConfig


@dataclass
class Node:
    """A step and its fate.

    Attributes:
      ended: why no step may follow: `code`, `depth`, `malformed`, `truncated`; empty for an inner node.
      code: the program, for a code step.
      judgement, reward: set when a rollout came here; reward stays None if it could not be checked.
      visits, value: set when the tree is finished; value is None for a node that was never visited.
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

    @property
    def terminal(self) -> bool:
        return bool(self.ended)

    def judge(self, judgement: Judgement, alpha: float) -> None:
        self.judgement = judgement if self.code is not None else None
        self.reward = terminal_reward(judgement, alpha)


@dataclass
class Tree:
    """A problem's tree. `opening` and `decoding` are the wave loop's: what the tree does next."""

    NO_PROGRAM: ClassVar[Judgement] = Judgement(Verdict.COMPILE_ERROR, compiled=False, passed=0, total=0)

    number: int
    problem: Problem
    prompt: tuple[int, ...]
    nodes: list[Node] = field(default_factory=lambda: [Node(parent=-1, depth=0)])
    cursor: int = 0
    opening: bool = True
    decoding: bool = False

    def finish(self, visits: np.ndarray, total: np.ndarray) -> None:
        """Takes N (nodes,) and Q (nodes,) from the device."""
        for index, node in enumerate(self.nodes):
            node.visits = int(visits[index])
            node.value = float(total[index]) / node.visits if node.visits else None

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


def read_candidates(
    tree: Tree, sampled: Sequence[tuple[tuple[int, ...], float]], tokenizer: Tokenizer, config: SearchConfig
) -> list[Node | None]:
    """Turns the rows of an expansion into nodes under the cursor; None for a repeated one.

    Args:
      sampled: token ids and the sum of their log-probabilities, one per candidate.

    Returns:
      One entry per candidate. The nodes are appended to the tree, in order: their numbers are those that
      `search.forest.grow` gives on the device.
    """
    seen: set[tuple[int, ...]] = set()
    out: list[Node | None] = []
    for tokens, log_probability in sampled:
        if config.merge_identical and tokens in seen:
            out.append(None)
            continue
        seen.add(tokens)
        node = _read(tokens, log_probability, tree.cursor, tree.nodes[tree.cursor].depth + 1, tokenizer, config)
        tree.nodes.append(node)
        out.append(node)
    return out


def _read(
    tokens: tuple[int, ...], log_probability: float, parent: int, depth: int, tokenizer: Tokenizer, config: SearchConfig
) -> Node:
    complete = tokens[-1] in (tokenizer.step_end, tokenizer.end)
    text = tokenizer.decode(tokens)
    step = parse_step(text)
    closing = tokenizer.end if step.terminal else tokenizer.step_end
    too_long = not step.terminal and len(tokens) > config.step_tokens
    if not complete or too_long:
        ended = "truncated"
    elif step.action is Action.NONE or tokens[-1] != closing:
        ended = "malformed"
    elif step.terminal:
        ended = "code"
    else:
        ended = "depth" if depth >= config.depth else ""
    return Node(
        parent=parent,
        depth=depth,
        tokens=tokens,
        text=text,
        action=step.action,
        log_probability=log_probability,
        ended=ended,
        code=step.code if ended == "code" else None,
    )
