"""Reasoning data for a problem file: one tree for each problem, with a policy from a checkpoint.

    python -m search.run --config configs/search.yaml --problems FILE --policy RUN/checkpoints/best --out OUT

    OUT/trees.jsonl     the trees, in the order of the problems (see search/store.py)
    OUT/process.jsonl   their visited paths;  OUT/pairs.jsonl  their visited siblings, winner and loser
    OUT/summary.json    what it came to
    OUT/../.compiled    what XLA compiled, for the next search of the same shapes; may be removed
    OUT/underway*.jsonl trees that have ended, while the search is under way, one file for each process

A search that is killed goes on with the same command: finished trees are kept, and it ends with the same trees.
"""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jax

from o1coder_jax.config import parse
from o1coder_jax.errors import UserError, run_command
from o1coder_jax.hosts import DistributedConfig, barrier, gather, joined
from o1coder_jax.mesh import MeshConfig, keep_compiled, make_mesh, prepare_cpu
from o1coder_jax.records import read_problems, write_jsonl
from sandbox.pool import Pool, SandboxConfig, submission_for
from search.config import SearchConfig
from search.finished import FinishedTrees, provenance_of, search_key
from search.harvest import formed_badly, step_counts
from search.models import load_policy, load_rater, tokenizer_of
from search.store import StoredTree, records_and_pairs
from search.tree import Tree
from search.waves import Search
from train.session import load_tokenizer


@dataclass(frozen=True)
class RunConfig:
    """A search by itself.

    Attributes:
      problems: JSONL file of problems, as a run's `problems/selfplay.jsonl`.
      policy: checkpoint folder, as `runs/tiny/checkpoints/best`.
      reward_model: checkpoint folder of a process reward model, as `runs/tiny/checkpoints/prm-001`, or of a value head
        that was fitted on this policy, as `head-001` beside `policy-001`; empty for none.
      tokenizer: the vocabulary's file (a byte-level one ends in .json); empty for that of the policy's run.
      out: the folder for what is found.
      name: of the run, in records.
      seed, iteration: with the problems' ids, the only source of chance.
      margin: between the values of a pair.
      search, sandbox, mesh, distributed: see there.
    """

    problems: str
    policy: str
    out: str
    reward_model: str = ""
    tokenizer: str = ""
    name: str = "search"
    seed: int = 0
    iteration: int = 1
    margin: float = 0.1
    search: SearchConfig = field(default_factory=SearchConfig)
    sandbox: SandboxConfig = field(default_factory=SandboxConfig)
    mesh: MeshConfig = field(default_factory=MeshConfig)
    distributed: DistributedConfig = field(default_factory=DistributedConfig)

    def __post_init__(self) -> None:
        if not 0 <= self.margin <= 1:
            raise UserError(f"margin is {self.margin}; it must lie in [0, 1]")
        if self.seed < 0 or self.iteration < 0:
            raise UserError(f"seed is {self.seed} and iteration {self.iteration}; neither may be negative")


def run(config: RunConfig) -> dict[str, Any]:
    """Searches; returns what `summary.json` holds."""
    began, out = time.monotonic(), Path(config.out)
    problems = read_problems(config.problems)
    if len({problem.id for problem in problems}) < len(problems):
        raise UserError(f"{config.problems}: two problems have the same id; rename one")
    prepare_cpu(config.mesh)
    keep_compiled(out.absolute().parent)
    mesh = make_mesh(config.mesh)
    policy_path = Path(config.policy)
    tokenizer = load_tokenizer(Path(config.tokenizer) if config.tokenizer else tokenizer_of(policy_path))
    policy = load_policy(policy_path, tokenizer, mesh)
    rater = None
    if config.reward_model:
        policy, rater = load_rater(Path(config.reward_model), policy, mesh)
    provenance = provenance_of(
        config.name,
        config.iteration,
        config.search,
        policy=policy.fingerprint,
        tokenizer=tokenizer.fingerprint,
        reward_model=rater.fingerprint if rater else policy.head,
        seed=config.seed,
    )
    key = search_key(problems, provenance)
    if (earlier := _summary(out)) is not None:
        if earlier["search"] != key:
            raise UserError(f"{out} holds another search; choose another folder for `out`")
        print(f"{out} is finished", flush=True)
        return earlier
    barrier("nothing is finished")  # else one could be done before another has looked
    process = jax.process_index()
    underway = out / (f"underway-{process:03d}.jsonl" if process else "underway.jsonl")

    def elsewhere() -> list[Path]:
        return [path for path in sorted(out.glob("underway*.jsonl")) if path != underway]

    with Pool(config.sandbox) as pool, contextlib.closing(FinishedTrees(underway, problems, provenance)) as finished:
        barrier("trees opened")  # whoever had more processes before has left files for all
        found = finished.elsewhere(elsewhere()) | finished.kept
        kept = len(found)
        print(f"sandbox: {pool.isolation}; {len(problems)} problems, {kept} trees finished before", flush=True)
        search = Search(
            policy,
            problems,
            lambda problem, code: pool.submit(submission_for(problem, code)),
            config.search,
            mesh,
            seed=config.seed,
            iteration=config.iteration,
            reward_model=rater,
            without=found.copy(),
        )
        for tree in search:
            finished.add(tree)
            found[tree.problem.id] = tree
            print(f"{len(found)} of {len(problems)} trees, {time.monotonic() - began:.0f} s", flush=True)
        isolation = pool.isolation
        barrier("trees grown")
        trees = finished.complete(found, elsewhere)
        own = search.counters
        kept_tokens, places = (sum(n) for n in zip(*gather((own.kept, own.places)), strict=True))
    if cut := search.truncated_prompts:
        print(f"{cut} prompts were cut to search.prompt_tokens {config.search.prompt_tokens}", flush=True)
    if warning := formed_badly(step_counts(trees)):
        print(warning, flush=True)
    stored = [StoredTree(tree, provenance) for tree in trees]
    records, pairs = records_and_pairs(stored, config.margin)
    summary = {
        "search": key,
        **_totals(trees),
        **step_counts(trees),
        "process_records": len(records),
        "pairs": len(pairs),
        "kept_share": kept_tokens / max(places, 1),
        "truncated_prompts": search.truncated_prompts,
        "trees_of_earlier_attempts": kept,
        "seconds": round(time.monotonic() - began, 1),
        "isolation": isolation,
    }
    if process == 0:
        write_jsonl(out / "trees.jsonl", stored)
        write_jsonl(out / "process.jsonl", records)
        write_jsonl(out / "pairs.jsonl", pairs)
        write_jsonl(out / "summary.json", [summary])  # last: it says that all is there
        for path in (underway, *elsewhere()):
            path.unlink()
    return summary


def _totals(trees: Sequence[Tree]) -> dict[str, int]:
    return {
        "trees": len(trees),
        "solved": sum(tree.solved for tree in trees),
        "tokens": sum(tree.tokens for tree in trees),
        "executions": sum(tree.executions for tree in trees),
        "tests_run": sum(tree.tests_run for tree in trees),
        "infra_errors": sum(tree.infra_errors for tree in trees),
    }


def _summary(out: Path) -> dict[str, Any] | None:
    path = out / "summary.json"
    if not path.exists():
        return None
    try:
        found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        found["search"]
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path}: not the summary of a search ({error!r}); choose another folder for `out`") from error
    return found


def main() -> None:
    """The command."""
    config = parse(RunConfig, prog="python -m search.run", description="Reasoning data for a problem file.")
    with joined(config.distributed):
        for name, value in run(config).items():
            print(f"{name}: {value}")


if __name__ == "__main__":
    run_command(main)
