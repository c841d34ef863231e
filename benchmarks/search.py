"""What the search pays for, what it waits for, and how fast it is beside a sequential one and beside itself.

    python -m benchmarks.search --torch-python PATH    (about 8 minutes; writes benchmarks/results/search.json)
    python -m benchmarks.search --quick                (under 2 minutes, for a look; writes nothing)

PATH is an interpreter that has torch and transformers, which are no dependency of this project; without it the
comparison with transformers is left out, and says so. The policy is `benchmarks.scripted`: the embedded model's
shape, steps as long as a trained one's. Everything is tied to one core, both sides of a comparison to the same; the
worker of the sandbox has another.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import statistics
import time
import zlib
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from itertools import takewhile
from pathlib import Path
from typing import Any

import flax
import jax
import numpy as np
from jax.sharding import Mesh

from benchmarks import baseline, scripted
from benchmarks.measure import alternate, environment, rates, speedup
from o1coder_jax.errors import UserError, run_command
from o1coder_jax.policy import Policy
from o1coder_jax.prm import RewardModel
from o1coder_jax.records import Judgement, Problem, Verdict
from sandbox.pool import Pool, SandboxConfig, submission_for
from sandbox.processes import descendants
from search.config import SearchConfig
from search.counters import Counters
from search.growing import Judge
from search.tree import Tree
from search.waves import Search

RESULTS = Path(__file__).parent / "results" / "search.json"
# The pool holds all that these trees need: nothing is read twice.
CONFIG = SearchConfig(
    depth=6, wave_steps=2, prompt_tokens=64, step_tokens=24, code_tokens=64, pages=8192, merge_identical=False
)
SMALL = dataclasses.replace(scripted.SHAPE, width=48, layers=1, heads=1, head_size=16, mlp_width=16)
ACCEPTED = 0.25  # share of programs that the judge that answers at once accepts
COMPILING = "/jax/core/compile/backend_compile_duration"


@dataclasses.dataclass(frozen=True)
class Row:
    """A line of the table; `wanted` is the bound, a sign and a number, empty where a figure is only told."""

    name: str
    value: float | None
    wanted: str
    by: str
    details: dict[str, Any]

    @property
    def met(self) -> bool | None:
        if not self.wanted:
            return None
        sign, bound = self.wanted.split()
        value = self.value
        if value is None:
            return False
        return {">=": value >= float(bound), "<=": value <= float(bound), "=": value == float(bound)}[sign]

    def line(self) -> str:
        value = "not to be had" if self.value is None else f"{self.value:,.4g}"
        met = {None: "", True: "yes", False: "no"}[self.met]
        return f"{self.name:62} {value:>13} {self.wanted:>8} {met:>4}  {self.by}"


def instant(problem: Problem, code: str) -> Future[Judgement]:
    """A judge that answers at once, by the text alone."""
    accepted = zlib.crc32(f"{problem.id} {code}".encode()) % 1000 < 1000 * ACCEPTED
    verdict = Verdict.ACCEPTED if accepted else Verdict.WRONG_ANSWER
    future: Future[Judgement] = Future()
    future.set_result(Judgement(verdict, compiled=True, passed=8 if accepted else 2, total=8))
    return future


@dataclasses.dataclass(frozen=True)
class Unique:
    """Tokens that had to be computed once: of the policy, and of a process reward model or a policy with a head."""

    policy: int
    reward_model: int


def unique_tokens(trees: Sequence[Tree]) -> Unique:
    """Of finished trees without merged candidates: each prompt and each node's tokens, what all prompts share once.

    A step's last token is the policy's input only if the step was continued; one that rates reads them all.
    """
    columns = zip(*(tree.prompt for tree in trees), strict=False)
    shared = len([*takewhile(lambda column: len(set(column)) == 1, columns)]) if len(trees) > 1 else 0
    prompts = shared + sum(len(tree.prompt) - shared for tree in trees)
    steps = [node for tree in trees for node in tree.nodes[1:]]
    tokens = sum(len(node.tokens) for node in steps)
    continued = len({(tree.number, node.parent) for tree in trees for node in tree.nodes[1:] if node.parent})
    return Unique(prompts + tokens - len(steps) + continued, prompts + tokens)


def lengths(trees: Sequence[Tree]) -> dict[str, Any]:
    """How long steps and prompts were, in tokens."""
    found: dict[str, Any] = {"prompt": [len(tree.prompt) for tree in trees]}
    for node in (node for tree in trees for node in tree.nodes[1:]):
        found.setdefault(node.action.name.lower(), []).append(len(node.tokens))
    return {
        name: {
            "count": len(values),
            "mean": round(statistics.mean(values), 1),
            "deviation": round(statistics.pstdev(values), 1),
            "least": min(values),
            "most": max(values),
        }
        for name, values in found.items()
    }


def same_trees(first: Sequence[Tree], second: Sequence[Tree]) -> bool:
    def plain(trees: Sequence[Tree]) -> list[Any]:
        ordered = sorted(trees, key=lambda tree: tree.number)
        return [[(n.parent, n.tokens, n.visits, n.value) for n in tree.nodes] for tree in ordered]

    return plain(first) == plain(second)


def awaited_share(counters: Counters, seconds: float) -> float:
    """The larger of two shares: waits among waits and waves, and time spent waiting in the whole."""
    return max(counters.idle / max(counters.idle + counters.waves, 1), counters.idle_seconds / seconds)


def pin(core: int) -> None:
    """Ties all threads of this process, and all that it starts from now on, to a core."""
    for task in os.listdir("/proc/self/task"):
        os.sched_setaffinity(int(task), {core})


class Benchmark:
    """All measurements."""

    def __init__(self, quick: bool, torch_python: str | None):
        self._quick, self._torch_python = quick, torch_python
        self._cores = sorted(os.sched_getaffinity(0))
        pin(self._cores[0])  # before JAX makes its threads
        self._compiled = 0
        jax.monitoring.register_event_duration_secs_listener(self._count)
        self._mesh = Mesh(np.array(jax.devices()[:1]).reshape(1, 1, 1), ("data", "fsdp", "tensor"))
        self._policy = scripted.policy()

    def _count(self, event: str, duration_secs: float, **_: str | int) -> None:
        self._compiled += event == COMPILING

    def rows(self) -> Iterator[Row]:
        yield from self._unique()
        yield from self._kept()
        yield self._awaited()
        yield self._sequential()
        for depth in (2, 8) if self._quick else (2, 4, 8):
            yield self._paging(depth)

    def _search(
        self,
        problems: Sequence[Problem],
        config: SearchConfig = CONFIG,
        judge: Judge = instant,
        policy: Policy | None = None,
        reward_model: RewardModel | None = None,
    ) -> tuple[list[Tree], Counters]:
        search = Search(
            policy or self._policy, problems, judge, config, self._mesh, seed=0, iteration=0, reward_model=reward_model
        )
        return list(search), search.counters

    def _unique(self) -> Iterator[Row]:
        problems = scripted.problems(16 if self._quick else 64, seed=1)
        policy = scripted.policy(shape=SMALL)  # counts do not depend on its size
        rater = scripted.rater(policy)
        config = dataclasses.replace(CONFIG, trees=32, slots=32)
        trees, counters = self._search(problems, config, policy=policy, reward_model=rater)
        merging = dataclasses.replace(config, merge_identical=True)
        _, merged = self._search(problems, merging, policy=policy, reward_model=rater)
        unique = unique_tokens(trees)
        headed = scripted.with_head(policy)
        rated, counted = self._search(problems, config, policy=headed)
        _, merged_rated = self._search(problems, merging, policy=headed)
        by = f"{len(problems)} problems, candidates not merged, each node's tokens once"
        for name, fed, once, with_merging in (
            ("policy", counters.fed, unique.policy, merged.fed),
            ("process reward model", counters.rated, unique.reward_model, merged.rated),
            ("policy with a value head", counted.fed, unique_tokens(rated).reward_model, merged_rated.fed),
        ):
            details = {"computed": fed, "unique": once, "computed_with_merging": with_merging}
            yield Row(f"tokens computed over unique tokens, {name}", fed / once, "= 1", by, details)

    def _kept(self) -> Iterator[Row]:
        config = dataclasses.replace(CONFIG, trees=16, slots=16) if self._quick else CONFIG
        self._search(scripted.problems(16, seed=2), config)
        warm, self._compiled = self._compiled, 0
        problems = scripted.problems(64 if self._quick else 256, seed=3)
        started = time.perf_counter()
        trees, counters = self._search(problems, config)
        seconds = time.perf_counter() - started
        steps = config.slots * config.wave_steps * counters.waves
        details = {
            "counters": dataclasses.asdict(counters),
            "over_slots_and_decode_steps": counters.kept / steps,
            "seconds": round(seconds, 1),
            "lengths": lengths(trees),
            "config": dataclasses.asdict(config),
        }
        if not self._quick:
            merged = self._search(problems[:128], dataclasses.replace(CONFIG, merge_identical=True))[1]
            details["with_merging_128_problems"] = {
                "share": merged.kept / merged.places,
                "counters": dataclasses.asdict(merged),
            }
        by = f"{len(problems)} problems, start and end included, candidates not merged"
        yield Row("tokens kept over places paid for", counters.kept / counters.places, ">= 0.85", by, details)
        self._search(problems[:5], config)
        compiled = float(self._compiled)
        yield Row("compilations after warm-up", compiled, "= 0", "other problems, and fewer", {"in_warm_up": warm})

    def _awaited(self) -> Row:
        name = "waves without work while verdicts are awaited"
        if len(self._cores) < 2:
            return Row(name, None, "<= 0.05", "this machine has one core", {})
        problems = scripted.problems(16 if self._quick else 96, seed=4)
        os.sched_setaffinity(0, {self._cores[1]})
        with Pool(SandboxConfig(workers=1, cache_entries=0)) as pool:
            pin(self._cores[0])
            judged = {core for pid in descendants(os.getpid()) for core in os.sched_getaffinity(pid)}

            def judge(problem: Problem, code: str) -> Future[Judgement]:
                return pool.submit(submission_for(problem, code, stop_at_failure=True))

            judge(problems[0], "print(3)").result()
            started = time.perf_counter()
            _, counters = self._search(problems, judge=judge)
            seconds = time.perf_counter() - started
        details = {
            "counters": dataclasses.asdict(counters),
            "seconds": round(seconds, 2),
            "kept_share": counters.kept / counters.places,
            "cores_of_the_worker": sorted(judged),
            "tests": len(problems[0].tests),
        }
        by = f"{counters.executions} programs, {counters.idle} waits, {counters.idle_seconds:.2f} of {seconds:.1f} s"
        return Row(name, awaited_share(counters, seconds), "<= 0.05", by, details)

    def _sequential(self) -> Row:
        name = "problems a minute over a sequential search with transformers"
        if self._torch_python is None:
            return Row(name, None, ">= 5", baseline.MISSING, {})
        count, rounds = (16, 1) if self._quick else (192, 3)
        # Longer waves keep less of what they decode and cost less beside it: the default is the faster one on a CPU.
        config = dataclasses.replace(CONFIG, wave_steps=SearchConfig().wave_steps)
        ours = scripted.problems(count, seed=5)
        theirs = ours[: 2 if self._quick else 6]
        with baseline.best(
            self._torch_python, self._policy, theirs, CONFIG, accepted=ACCEPTED, trial=1 if self._quick else 2
        ) as (sequential, details):
            found = alternate({"ours": lambda: len(self._search(ours, config)[0]), "theirs": sequential}, rounds)
        result = speedup(found["ours"], found["theirs"])
        sides = {side: rates(done) for side, done in found.items()}
        return Row(name, result["value"], ">= 5", result["by"], {"ratio": result, **sides, "baseline": details})

    def _paging(self, depth: int) -> Row:
        problems = scripted.problems(16, seed=6)
        policy = scripted.policy(code=min(0.9, 1 / (depth - 1)))
        config = dataclasses.replace(CONFIG, depth=depth, trees=16, slots=16)
        last: dict[bool, tuple[list[Tree], Counters]] = {}

        def searching(paging: bool) -> Callable[[], int]:
            def action() -> int:
                last[paging] = self._search(problems, dataclasses.replace(config, paging=paging), policy=policy)
                return len(problems)

            return action

        found = alternate({"paged": searching(True), "read anew": searching(False)}, 1 if self._quick else 3)
        if not same_trees(last[True][0], last[False][0]):
            raise UserError("paging changed the trees; the comparison would say nothing")
        result = speedup(found["paged"], found["read anew"])
        fed = {key: last[paging][1].fed for key, paging in (("paged", True), ("read anew", False))}
        details = {"ratio": result, "tokens_computed": fed, **{side: rates(done) for side, done in found.items()}}
        by = f"{result['by']}; {fed['read anew'] / fed['paged']:.2f} x the tokens computed without"
        return Row(f"paging over reading whole paths, depth {depth}", result["value"], ">= 1", by, details)


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.search", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="smaller, nothing written")
    parser.add_argument("--torch-python", metavar="PATH", help="an interpreter with torch and transformers")
    options = parser.parse_args()
    about = environment() | {"jax": jax.__version__, "flax": flax.__version__}
    benchmark = Benchmark(options.quick, options.torch_python)
    print(f"{'':62} {'result':>13} {'wanted':>8} {'met':>4}  by")
    rows = []
    for row in benchmark.rows():
        rows.append(row)
        print(row.line(), flush=True)
    if not options.quick:
        about["load_after"] = list(os.getloadavg())
        listed = [dataclasses.asdict(row) | {"met": row.met} for row in rows]
        RESULTS.write_text(json.dumps(about | {"rows": listed}, indent=1) + "\n")


if __name__ == "__main__":
    run_command(main)
