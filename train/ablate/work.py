"""One job of an ablation, in a process of its own: a starting point, or a cell for one seed.

    python -m train.ablate.work JOB.json

The runner writes the job and starts this; a user has no need to.
"""

from __future__ import annotations

import dataclasses
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from o1coder_jax.errors import run_command
from train import bootstrap, prm, reason, sft, tcg
from train.ablate.config import STARTS
from train.ablate.procedures import PROCEDURES, Task
from train.config import load_config
from train.environment import describe
from train.run import finished_stages
from train.run_files import read_json, write_long_json
from train.run_opening import ENVIRONMENT
from train.session import Session


@dataclasses.dataclass(frozen=True)
class Job:
    """What a process is to do.

    Attributes:
      config: path of the run's configuration.
      start: the stage up to which the loop is to be done.
      cores: on which.
      result: where a cell's result goes; empty: only the starting point is made.
      facts: what the result says beside its points.
      procedure, task: of a cell, the fields of a `Task`.
    """

    config: str
    start: str
    cores: list[int]
    result: str = ""
    facts: dict[str, Any] = dataclasses.field(default_factory=dict)
    procedure: str = ""
    task: dict[str, Any] = dataclasses.field(default_factory=dict)


def do(job: Job) -> None:
    """Does a job, or goes on with one that was stopped."""
    with Session.open(load_config(job.config)) as session:
        session.run.add_facts(cores=len(job.cores))
        begin(session, job.start)
        if not job.result:
            return
        points = PROCEDURES[job.procedure](session, Task(**job.task))
        stages = finished_stages(session.run.folder)
        before = read_json(session.run.folder / ENVIRONMENT)["earlier"]
        write_long_json(
            Path(job.result),
            {
                **job.facts,
                "cores": len(job.cores),  # now; `earlier_cores` made stages before, or an attempt that was stopped
                "earlier_cores": sorted({one["cores"] for one in before if "cores" in one}),
                "commit": describe()["commit"],
                "start": {one.name: one.result["weights"] for one in stages if one.result.get("weights")},
                "difficulty": [problem.difficulty for problem in session.parts.heldout],
                "points": [dataclasses.asdict(point) for point in points],
            },
        )


def begin(session: Session, start: str) -> None:
    """Runs the stages up to the starting point that are not finished."""
    stages: dict[str, tuple[Callable[..., None], tuple[int, ...]]] = {
        "bootstrap": (bootstrap.run, ()),
        "tcg": (tcg.run, ()),
        "001-search": (reason.run, (1,)),
        "001-sft": (sft.run, (1,)),
        "001-prm": (prm.run, (1,)),
    }
    for stage in STARTS[: STARTS.index(start) + 1]:
        if session.run.stage(stage) is None:
            run, arguments = stages[stage]
            run(session, *arguments)
            session.release()


def main() -> None:
    job = Job(**read_json(Path(sys.argv[1])))
    os.sched_setaffinity(0, job.cores)  # before JAX and the sandbox start their threads and processes
    do(job)


if __name__ == "__main__":
    run_command(main)
