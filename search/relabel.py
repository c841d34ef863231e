"""Judges the programs of stored trees once more, with the tests that their problems have now; nothing is generated.

    python -m search.relabel TREES.jsonl --problems PROBLEMS.jsonl -o OUT.jsonl [--records PROCESS.jsonl]

How is told in `search/labels.py`.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from o1coder_jax.errors import run_command
from o1coder_jax.records import read_problems, write_jsonl
from sandbox.pool import Pool, SandboxConfig, submission_for
from search.labels import changed, relabel
from search.store import read_trees


def main() -> None:
    default = SandboxConfig()
    parser = argparse.ArgumentParser(
        prog="python -m search.relabel", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("trees", type=Path, help="a trees.jsonl")
    parser.add_argument("--problems", type=Path, required=True, help="problems.jsonl with the new tests")
    parser.add_argument("-o", "--output", type=Path, required=True, help="where the trees go")
    parser.add_argument("--records", type=Path, help="where their process records go; none are written without it")
    parser.add_argument("--workers", type=int, default=default.workers)
    parser.add_argument("--isolation", default=default.isolation, choices=("auto", "full", "reduced", "trusted"))
    arguments = parser.parse_args()
    problems = {problem.id: problem for problem in read_problems(arguments.problems)}
    trees = list(read_trees(arguments.trees))
    for path in filter(None, (arguments.output, arguments.records)):
        path.parent.mkdir(parents=True, exist_ok=True)
    with Pool(SandboxConfig(workers=arguments.workers, isolation=arguments.isolation)) as pool:
        print(f"sandbox: {pool.isolation}", flush=True)
        after = list(relabel(trees, problems, lambda problem, code: pool.submit(submission_for(problem, code))))
    write_jsonl(arguments.output, after)
    differ = sum(map(changed, trees, after))
    unchecked = sum(stored.tree.infra_errors for stored in after)
    judged = sum(node.judgement is not None for stored in after for node in stored.tree.nodes)
    solved = [sum(stored.tree.solved for stored in part) for part in (trees, after)]
    print(f"{arguments.output}: {len(after)} trees, {judged} programs, {differ} verdicts changed")
    print(f"solved: {solved[0]} before, {solved[1]} now" + (f"; {unchecked} could not be checked" * bool(unchecked)))
    if arguments.records:
        count = write_jsonl(arguments.records, (record for stored in after for record in stored.records()))
        print(f"{arguments.records}: {count} records")


if __name__ == "__main__":
    run_command(main)
