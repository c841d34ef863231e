"""Shows stored trees.

    python -m search.render TREES.jsonl [--problem ID] [--json]

As text, a line for each node that was visited (all with `--all`): how often (N) and with what value (Q/N), the step's
log-probability, its action, how it ended or what the judge said, and the beginning of its text. The path with the best
value at every step is marked `*`. As JSON, nested nodes.
"""

from __future__ import annotations

import argparse
import json
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from o1coder_jax.errors import UserError, run_command
from o1coder_jax.steps import END, STEP_END, Action
from search.store import StoredTree, read_trees
from search.tree import Node, Tree

_WIDTH = 120


def best_path(tree: Tree) -> list[int]:
    """From the root down to the child of the highest value, of these to the one with most visits."""
    path = [0]
    while below := [i for i, node in enumerate(tree.nodes) if node.parent == path[-1] and node.visits]:
        path.append(max(below, key=lambda i: (tree.nodes[i].value or 0.0, tree.nodes[i].visits, -i)))
    return path


def text_of(stored: StoredTree, *, unvisited: bool = False, width: int = _WIDTH) -> str:
    """A tree as lines of at most `width` characters."""
    tree, origin = stored.tree, stored.provenance
    head = (
        f"{tree.problem.id}: {len(tree.nodes) - 1} nodes, {len(tree.rollouts)} rollouts, "
        f"{'solved' if tree.solved else 'not solved'}; {tree.tokens} tokens, {tree.executions} programs run"
    )
    rest = [f"run {origin.run}", f"iteration {origin.iteration}", f"policy {origin.policy or 'unknown'}"]
    rest += [f"relabelled from tests {origin.relabelled_from}"] if origin.relabelled_from else []
    best = set(best_path(tree))
    lines = [head, f"  {', '.join(rest)}"]
    for index, depth in _walk(tree):
        node = tree.nodes[index]
        if node.visits or unvisited:
            lines.append(_line(node, depth, index in best))
    return "\n".join(line if len(line) <= width else line[: width - 3] + "..." for line in lines)


def _line(node: Node, depth: int, best: bool) -> str:
    value = "   -" if node.value is None else f"{node.value:.2f}"
    numbers = f"N {node.visits:3d}  Q/N {value}"
    if depth == 0:
        return f"* {numbers}           root"
    action = node.action.name.lower() if node.action is not Action.NONE else "no step"
    fate = node.judgement.verdict if node.judgement is not None else node.ended
    said = f" [{fate}]" if fate else ""
    opinion = f" r {node.opinion:.2f}" if node.opinion is not None else ""
    text = " ".join(node.text.removesuffix(STEP_END).removesuffix(END).split())
    return (
        f"{'*' if best else ' '} {numbers}  {node.log_probability:8.2f}{opinion} {'  ' * depth}{action}{said}: {text}"
    )


def json_of(stored: StoredTree, *, unvisited: bool = False) -> dict[str, Any]:
    """A tree as nested JSON values."""
    best = set(best_path(stored.tree))
    row = stored.to_json()
    nested = [
        {"node": index, "best": index in best, **{k: v for k, v in one.items() if k != "parent"}, "children": []}
        for index, one in enumerate(row["nodes"])
    ]
    for index, node in enumerate(stored.tree.nodes[1:], 1):
        if node.visits or unvisited:
            nested[node.parent]["children"].append(nested[index])
    return {**{k: v for k, v in row.items() if k not in ("nodes", "rollouts")}, "root": nested[0]}


def _walk(tree: Tree) -> Iterator[tuple[int, int]]:
    """Nodes, each before its children, with their depths."""
    children: dict[int, list[int]] = {}
    for index, node in enumerate(tree.nodes[1:], 1):
        children.setdefault(node.parent, []).append(index)
    stack = [(0, 0)]
    while stack:
        index, depth = stack.pop()
        yield index, depth
        stack += [(child, depth + 1) for child in reversed(children.get(index, []))]


def chosen(trees: Iterable[StoredTree], problem: str | None, path: Path) -> Iterator[StoredTree]:
    """The trees of one problem, or all; `UserError` if there is none."""
    found = False
    for stored in trees:
        if problem is None or stored.tree.problem.id == problem:
            found = True
            yield stored
    if not found:
        raise UserError(
            f"{path} has no tree" + (f" of problem {problem}" if problem else "") + "; look at another file"
        )


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m search.render", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("trees", type=Path, help="a trees.jsonl")
    parser.add_argument("--problem", help="show the trees of this problem only")
    parser.add_argument("--json", action="store_true", help="one JSON value for each tree")
    parser.add_argument("--all", action="store_true", help="show nodes that no rollout came to as well")
    arguments = parser.parse_args()
    width = shutil.get_terminal_size((_WIDTH, 0)).columns
    for stored in chosen(read_trees(arguments.trees), arguments.problem, arguments.trees):
        if arguments.json:
            print(json.dumps(json_of(stored, unvisited=arguments.all), ensure_ascii=False))
        else:
            print(text_of(stored, unvisited=arguments.all, width=width), end="\n\n")


if __name__ == "__main__":
    run_command(main)
