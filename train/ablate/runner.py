"""Runs the cells of an ablation that have no result yet, each in a process of its own, some of them at once."""

from __future__ import annotations

import collections
import dataclasses
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

from o1coder_jax.config import to_yaml
from o1coder_jax.errors import UserError
from train.ablate.config import STARTS, AblateConfig, Cell, cell_key, start_key
from train.ablate.folders import fork, is_done, remove
from train.ablate.work import Job
from train.config import Config
from train.run_files import Lock, read_json, write_json, write_text

GRACE_SECONDS = 20.0  # between asking a process to end and ending it


@dataclasses.dataclass(frozen=True)
class Planned:
    """A cell for one seed.

    Attributes:
      config: of its run, without a name; `start`: of its starting point.
      key: identifies what it comes to.
      path: of its result.
    """

    name: str
    seed: int
    cell: Cell
    config: Config
    start: Config
    key: str
    path: Path

    def result(self) -> dict[str, Any] | None:
        """The result, if there is one of this key."""
        found = read_json(self.path) if self.path.exists() else None
        return found if found is not None and found["key"] == self.key else None


def plan(ablation: AblateConfig, seeds: int) -> list[Planned]:
    """All cells, seed by seed, each after the one whose costs it may spend; wrong settings are a `UserError`."""
    planned: list[Planned] = []
    cells = ablation.all_cells()
    configs = {name: ablation.run_config(cell, f"cells.{name}") for name, cell in cells.items()}
    starts = {name: ablation.start_config(cell, configs[name], f"cells.{name}") for name, cell in cells.items()}
    for seed in range(ablation.first_seed, ablation.first_seed + seeds):
        keys: dict[str, str] = {"": ""}
        for name, cell in cells.items():
            config, start = (dataclasses.replace(one[name], seed=seed) for one in (configs, starts))
            keys[name] = cell_key(
                cell,
                config,
                start,
                samples=ablation.samples,
                sampled_problems=ablation.sampled_problems,
                equal_to=keys[cell.equal_to],
            )
            path = Path(ablation.results) / name / f"seed-{seed}.json"
            planned.append(Planned(name, seed, cell, config, start, keys[name], path))
    return planned


class Runner:
    """Runs what is missing. Use it as a context manager: it holds the folder of runs.

    Args:
      jobs: cells at once, each on its own share of the cores; `UserError` when there are fewer cores.
    """

    def __init__(self, ablation: AblateConfig, planned: list[Planned], jobs: int = 1):
        self.ablation, self.planned = ablation, {(one.name, one.seed): one for one in planned}
        self.runs = Path(ablation.runs)
        self.jobs = self.runs / "jobs"
        self.jobs.mkdir(parents=True, exist_ok=True)
        self._at_once = jobs
        self._cores: queue.Queue[list[int]] = queue.Queue()
        for share in _shares(sorted(os.sched_getaffinity(0)), jobs):
            self._cores.put(share)
        self._workers = ThreadPoolExecutor(jobs)
        self._done: dict[tuple[str, int], Future[str]] = {}
        self._making: dict[str, threading.Lock] = collections.defaultdict(threading.Lock)
        self._processes: set[subprocess.Popen[bytes]] = set()
        self._stopping = False

    def __enter__(self) -> Runner:
        self._lock = Lock(self.runs)
        self._before = signal.signal(signal.SIGTERM, signal.default_int_handler)  # ends as Ctrl-C does
        return self

    def __exit__(self, *unused: object) -> None:
        self._stopping = True
        self._workers.shutdown(wait=False, cancel_futures=True)  # none begins another cell
        for process in list(self._processes):
            _end(process)
        self._workers.shutdown()
        signal.signal(signal.SIGTERM, self._before)
        self._lock.close()

    def run_all(self, cells: Sequence[Planned]) -> Iterator[str]:
        """Runs cells, of as many seeds at a time as there are jobs; gives for each a line that says how it went."""
        cells = _side_by_side(cells, self._at_once)
        for one in cells:
            self._done[one.name, one.seed] = self._workers.submit(self._run, one)
        for one in cells:
            yield self._done[one.name, one.seed].result()

    def _run(self, one: Planned) -> str:
        what = f"{one.name}, seed {one.seed}"
        if one.result() is not None:
            return f"{what}: done before"
        equal = self._result_of(one.cell.equal_to, one.seed) if one.cell.equal_to else None
        if one.cell.equal_to and equal is None:
            return f"{what}: left out, {one.cell.equal_to} has no result for this seed"
        cores = self._cores.get()
        try:
            return f"{what}: {self._made(one, equal, cores)}"
        finally:
            self._cores.put(cores)

    def _result_of(self, name: str, seed: int) -> dict[str, Any] | None:
        """A cell's result, waited for if it is under way: it was begun before."""
        if (underway := self._done.get((name, seed))) is not None:
            underway.result()
        return self.planned[name, seed].result()

    def _made(self, one: Planned, equal: dict[str, Any] | None, cores: list[int]) -> str:
        """Makes a cell's result on these cores; returns how it went."""
        began = time.monotonic()
        start = self._start(one.start, one.cell.start, cores)
        name = f"{one.name}-{one.seed}-{one.key}"
        fork(start, self.runs / name)
        ablation = self.ablation
        task: dict[str, Any] = {
            "options": one.cell.options,
            "samples": ablation.samples,
            "sampled_problems": ablation.sampled_problems,
        }
        if equal is not None:
            points = equal["points"]
            task |= {"spent": points[-1]["costs"], "outcomes": [point["outcomes"] for point in points]}
        facts = {"cell": one.name, "seed": one.seed, "key": one.key, "title": one.cell.title}
        job = Job("", one.cell.start, cores, os.fspath(one.path), facts, one.cell.procedure, task)
        ended = self._work(name, one.config, job, max(one.cell.limit_seconds, ablation.limit_seconds))
        if ended:
            return ended
        remove(self.runs / name)
        return f"{time.monotonic() - began:.0f} s"

    def _start(self, config: Config, stage: str, cores: list[int]) -> Path:
        """The run folder of a starting point, made from the one before it if it is not there yet."""
        name = f"start-{stage}-{start_key(config, stage)}"
        folder = self.runs / name
        with self._making[name]:  # cells at once may share it
            if is_done(folder, stage):
                return folder
            place = STARTS.index(stage)
            if place:
                fork(self._start(config, STARTS[place - 1], cores), folder)
            # Left unfinished, it is bound to another cell's settings, also of what comes later and does not matter.
            (folder / "config.yaml").unlink(missing_ok=True)
            print(f"  {name}", flush=True)
            if ended := self._work(name, config, Job("", stage, cores), self.ablation.start_limit_seconds):
                raise UserError(f"starting point {name}: {ended}")
            return folder

    def _work(self, name: str, config: Config, job: Job, limit_seconds: int) -> str:
        """Does a job in a process of its own; returns what went wrong, or nothing."""
        config_path, job_path = self.jobs / f"{name}.yaml", self.jobs / f"{name}.json"
        write_text(config_path, to_yaml(dataclasses.replace(config, name=name)))
        write_json(job_path, dataclasses.asdict(dataclasses.replace(job, config=os.fspath(config_path))))
        command = [sys.executable, "-m", "train.ablate.work", os.fspath(job_path)]
        with (self.jobs / f"{name}.log").open("w") as log:
            process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, start_new_session=True)
            self._processes.add(process)
            try:
                status = process.wait(timeout=0 if self._stopping else limit_seconds)
            except subprocess.TimeoutExpired:
                _end(process)
                return f"stopped after {limit_seconds} s; what it finished is kept, the same command goes on"
            finally:
                self._processes.discard(process)
        if status:
            lines = Path(log.name).read_text(encoding="utf-8", errors="replace").splitlines()
            return f"failed ({lines[-1] if lines else f'status {status}'}); see {log.name}"
        return ""


def _side_by_side(cells: Sequence[Planned], jobs: int) -> list[Planned]:
    """Cells of `jobs` seeds in turn: those that run at once make starting points of their own, and need not wait for
    each other's."""
    places = {name: place for place, name in enumerate(dict.fromkeys(one.name for one in cells))}
    return sorted(cells, key=lambda one: (one.seed // jobs, places[one.name], one.seed))


def _shares(cores: list[int], jobs: int) -> list[list[int]]:
    """The cores dealt out to as many jobs."""
    if not 1 <= jobs <= len(cores):
        raise UserError(f"--jobs is {jobs}; give 1 to {len(cores)}, as many as this process has cores")
    return [cores[i::jobs] for i in range(jobs)]


def _end(process: subprocess.Popen[bytes]) -> None:
    """Ends a process and its sandbox."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(process.pid, number)
            process.wait(timeout=GRACE_SECONDS)
            return
        except subprocess.TimeoutExpired:
            continue
        except ProcessLookupError:
            return
