"""A small model's training step and generation beside transformers with torch, and its SFT step beside Tunix's trainer.

    python -m benchmarks.models --torch-python PATH --tunix-python PATH   (about 8 minutes; results/models.json)
    python -m benchmarks.models --quick                                   (ours alone, writes nothing)

The interpreters have torch and transformers, and google-tunix, which are no dependencies of this project; a comparison
whose interpreter is not given is left out, and says so. Every side is a process tied to the same cores, first one,
then two. The baseline is its best over threads, `OMP_WAIT_POLICY`, the allocator's settings, attention, caches and
gradient accumulation; ours is the better of one device and two, and of `optimizer.microbatches`. Each choice is made by
a trial of its own; then the sides take turns, and the median over pairs of rounds counts.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import json
import os
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks import model_ours
from benchmarks.asked import Asked
from benchmarks.measure import Round, environment, rates, speedup
from o1coder_jax.allocation import KEPT_BYTES, LARGEST_BLOCK_BYTES
from o1coder_jax.errors import UserError, run_command

HERE = Path(__file__).parent
RESULTS = HERE / "results" / "models.json"
SIZES = {"vocabulary": 512, "rows": 16, "length": 256, "prompts": 128, "prompt": 48, "new": 64}
COUNTS = {"train": 6, "generate": 3}  # steps, or batches, of a round
WANTED = ">= 1"
# The memory of a step that has ended is kept for the next, as ours is (o1coder_jax/allocation.py), or given back.
KEPT = {
    "MALLOC_ARENA_MAX": "1",
    "MALLOC_MMAP_THRESHOLD_": str(LARGEST_BLOCK_BYTES),
    "MALLOC_TRIM_THRESHOLD_": str(KEPT_BYTES),
}
ALLOCATORS: dict[str, dict[str, str]] = {"": {}, ", freed memory kept": KEPT}
AGREEMENT = 1e-3  # of logits (about 1) and of the loss; with two threads torch's own logits vary by 2e-4


class Side(Asked):
    """A process that trains and generates when it is told to."""

    def __init__(self, command: Sequence[str], variables: dict[str, str]):
        super().__init__(command, variables)
        difference, self.versions = self.first.split(maxsplit=1)
        if not float(difference) < AGREEMENT:
            raise UserError(f"{command[0]}: its model is another: the logits differ by {difference}")

    def run(self, what: str, kind: str, count: int) -> tuple[Round, float]:
        """How long it took, and the first batch's loss."""
        start = time.perf_counter()
        tokens, cpu, loss = self.ask(f"{what} {kind} {count}").split()
        return Round(int(tokens), time.perf_counter() - start, float(cpu)), float(loss)


@dataclass(frozen=True)
class Start:
    """How a side is started, and under which name its variables are told."""

    name: str
    command: tuple[str, ...]
    variables: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Rival:
    """All ways to run a side: every start with every kind."""

    name: str
    starts: tuple[Start, ...]
    kinds: dict[str, tuple[str, ...]]  # by what is done

    def start(self, start: Start, folder: Path) -> Side:
        return Side([part.replace("FOLDER", str(folder)) for part in start.command], start.variables)


def ours(cores: int) -> Rival:
    command = (sys.executable, "-m", "benchmarks.model_ours", "FOLDER")
    starts = tuple(Start(f"{devices} devices", (*command, str(devices))) for devices in range(1, cores + 1))
    return Rival("ours", starts, {"train": ("1", "4", "8"), "generate": ("-",)})


def torch(python: str, cores: int) -> Rival:
    command = (python, str(HERE / "model_torch.py"), "FOLDER")
    starts = tuple(
        Start(f"OMP_WAIT_POLICY={wait}{name}", command, {"OMP_WAIT_POLICY": wait, "OMP_NUM_THREADS": "2"} | memory)
        for wait in ("active", "passive")
        for name, memory in ALLOCATORS.items()
    )
    threads = ("1", "2")[:cores]  # two on one core wait for each other, spinning: a fiftieth of the speed of one
    train = itertools.product(("sdpa-fused", "sdpa-foreach", "eager-fused"), ("1", "4", "8"), threads)
    caches = itertools.product(("sdpa-dynamic", "sdpa-static", "eager-static"), threads)
    kinds = {"train": tuple("-".join(kind) for kind in train), "generate": tuple("-".join(kind) for kind in caches)}
    return Rival("torch", starts, kinds)


def tunix(python: str) -> Rival:
    command = (python, str(HERE / "model_tunix.py"), "FOLDER")
    starts = tuple(Start(f"default{n}", command, {"JAX_PLATFORMS": "cpu"} | memory) for n, memory in ALLOCATORS.items())
    return Rival("tunix", starts, {"train": ("1", "4")})


@contextlib.contextmanager
def tied(cores: int) -> Iterator[None]:
    """Everything started meanwhile runs on the last so many cores."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, sorted(before)[-cores:])
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def trial(rival: Rival, what: str, folder: Path) -> tuple[Start, str, dict[str, float], float, str]:
    """The fastest start and kind, tokens a second of each, the first loss, and the versions."""
    found: dict[tuple[int, str], float] = {}
    losses, versions = [], ""
    for number, start in enumerate(rival.starts):
        side = rival.start(start, folder)
        for kind in rival.kinds[what]:
            losses.append(side.run(what, kind, 1)[1])
            done = [side.run(what, kind, 1)[0] for _ in range(2)]
            found[number, kind] = max(one.count / one.wall_seconds for one in done)
        versions = side.versions
        side.close()
    number, kind = max(found, key=lambda key: found[key])
    rate = {f"{rival.starts[n].name}, {k}": float(f"{value:.4g}") for (n, k), value in found.items()}
    return rival.starts[number], kind, rate, losses[0], versions


def compare(what: str, mine: Rival, other: Rival | None, folder: Path, *, cores: int, rounds: int) -> dict[str, Any]:
    """Both sides at their best, in turns."""
    rivals = [mine] if other is None else [mine, other]
    best = {rival.name: trial(rival, what, folder) for rival in rivals}
    losses = [best[rival.name][3] for rival in rivals]
    if other and losses[1] and abs(losses[0] - losses[1]) > AGREEMENT:
        raise UserError(f"{other.name}: its loss of the first batch is {losses[1]}, ours {losses[0]}")
    sides = {rival.name: rival.start(best[rival.name][0], folder) for rival in rivals}
    found: dict[str, list[Round]] = {name: [] for name in sides}
    load = []
    for number in range(rounds + 1):  # the first warms up
        for name, side in sides.items():
            done, _ = side.run(what, best[name][1], COUNTS[what] if number else 1)
            found[name] += [done] if number else []
        load.append(os.getloadavg()[0])
    for side in sides.values():
        side.close()
    row: dict[str, Any] = {"what": what, "cores": cores, "wanted": WANTED, "load": [round(one, 1) for one in load]}
    row |= {name: rates(done) | {"kind": f"{best[name][0].name}, {best[name][1]}"} for name, done in found.items()}
    row |= {"trials": {name: one[2] for name, one in best.items()}, "versions": {n: one[4] for n, one in best.items()}}
    if other:
        row |= {"against": other.name, "ratio": speedup(found["ours"], found[other.name], cores=cores)}
    return row


def line(row: dict[str, Any]) -> str:
    median = row["ours"]["per_wall_second"]["median"]
    text = f"{row['what']:9} {row['cores']} core(s)  ours {median:>8,.0f} tokens/s ({row['ours']['kind']})"
    if "against" in row:
        theirs, ratio = row[row["against"]], row["ratio"]
        text += f"  {row['against']} {theirs['per_wall_second']['median']:>8,.0f} ({theirs['kind']})"
        text += f"  {ratio['value']:.2f} x by {ratio['by']}, wanted {row['wanted']}"
    return text


def measure(torch_python: str | None, tunix_python: str | None, cores: Sequence[int], rounds: int) -> dict[str, Any]:
    """All comparisons."""
    rows = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        model_ours.write(folder, **SIZES)
        for count in cores:
            pairs: list[tuple[str, Rival | None]] = [
                (what, torch(torch_python, count) if torch_python else None) for what in ("train", "generate")
            ]
            pairs += [("train", tunix(tunix_python))] if tunix_python else []
            for what, other in pairs:
                with tied(count):
                    rows.append(compare(what, ours(count), other, folder, cores=count, rounds=rounds))
                print(line(rows[-1]), flush=True)
    return {"environment": environment(), "sizes": SIZES, "rows": rows}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.models", description="Small models on a CPU.")
    parser.add_argument("--torch-python", help="an interpreter with torch and transformers")
    parser.add_argument("--tunix-python", help="an interpreter with google-tunix")
    parser.add_argument("--quick", action="store_true", help="ours alone on one core; writes nothing")
    given = parser.parse_args()
    for flag, python in (("--torch-python", given.torch_python), ("--tunix-python", given.tunix_python)):
        if python is None:
            print(f"left out: no {flag}", flush=True)
        elif not os.access(python, os.X_OK):
            raise UserError(f"{flag} {python} is not a program; give the path of a Python interpreter")
    if given.quick:
        measure(None, None, [1], rounds=1)
        return
    available = len(os.sched_getaffinity(0))
    found = measure(given.torch_python, given.tunix_python, range(1, min(available, 2) + 1), rounds=5)
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    run_command(main)
