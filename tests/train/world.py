"""A loop so small that it runs in seconds, and ways to run and to look at it.

The base learns ten one-operation problems of the curriculum by heart, and the run gets the same ten as TACO rows: so
the tiny policy really solves some, and no stage is without work.
"""

from __future__ import annotations

import contextlib
import dataclasses
import io
import json
import os
import runpy
import shutil
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import yaml

from o1coder_jax.config import to_dict
from o1coder_jax.problems.curriculum import CurriculumConfig, TeacherConfig, build
from o1coder_jax.records import Problem, ProcessRecord, StepRecord, Verdict
from train.config import Config, load_config
from train.ledger import LEDGER, Tally
from train.run import finished_stages
from train.session import Session

ROOT = Path(__file__).resolve().parent.parent.parent
TACO = ROOT / "configs" / "taco.yaml"
TAUGHT = CurriculumConfig(
    training=10,
    selfplay=0,
    validation=0,
    heldout=0,
    min_operations=1,
    max_operations=1,
    stdin_share=0.8,
    teacher=TeacherConfig(random_correct=0.6),  # so that a group of paths has right and wrong ones
)
PATIENCE_SECONDS = 900.0  # for a process that takes a few seconds on an idle machine
STAGES = ("search", "sft", "prm", "rl", "evaluate")

# Beyond configs/taco.yaml. Few shapes and no optimisation by the compiler: compiling is most of the time.
ENVIRONMENT = {
    "JAX_PLATFORMS": "cpu",
    "JAX_DISABLE_MOST_OPTIMIZATIONS": "1",
    "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    "TF_CPP_MIN_LOG_LEVEL": "2",
}
_FAST = {"learning_rate": 0.003}
_BATCH = {"rows": 4, "length": 128}
SETTINGS: dict[str, Any] = {
    "name": "wee",
    "iterations": 2,
    "problems": {"source": "taco", "selfplay_share": 0.4, "heldout_share": 0.2, "validation_share": 0.1},
    "mesh": {"cpu_devices": 1},
    "model": {"width": 64, "layers": 1, "heads": 2, "head_size": 32, "mlp_width": 128},
    "tokenizer": {"vocab_size": 500},
    "generation": {"rows": 16, "answer_tokens": 64},
    "sandbox": {"workers": 1},
    "bootstrap": {
        "updates": 200,
        "samples": 4,
        "tokenizer_texts": 300,
        "batch": _BATCH,
        "optimizer": {"learning_rate": 0.01},
        "curriculum": to_dict(TAUGHT),
    },
    "tcg": {
        "sft_updates": 120,
        "examples_per_problem": 4,
        "dpo_updates": 8,
        "dpo_pairs": 4,
        "dpo_optimizer": {"learning_rate": 0.001},
        "suite": 8,
        "prompt_tokens": 160,
        "answer_tokens": 64,
        "batch": _BATCH,
        "optimizer": {"learning_rate": 0.01},
    },
    "search": {"trees": 4, "rollouts": 3, "depth": 5, "samples": 2, "prompt_tokens": 96, "code_tokens": 64},
    "sft": {"updates": 10, "batch": _BATCH, "optimizer": {"learning_rate": 0.0005}},  # it shall not know all by heart
    "prm": {"updates": 10, "batch": _BATCH, "optimizer": _FAST},
    "rl": {
        "updates": 2,
        "problems": 4,
        "samples": 4,
        "minibatch": 16,
        "phi": {"outcome_weight": 0.9, "horizon": 2},  # so that process rewards count from the first update
    },
    "evaluate": {"samples": 4, "aspr_samples": 4, "hard_samples": 4},
}


def rows() -> list[dict[str, Any]]:
    """The ten problems as TACO rows, one whose tests are missing, and one that repeats a statement."""
    taught = []
    for problem in build(TAUGHT, 0).training:
        tests: dict[str, Any] = {
            "inputs": [test.input for test in problem.tests],
            "outputs": [test.output for test in problem.tests],
        }
        if problem.fn_name:
            tests["fn_name"] = problem.fn_name
        taught.append(
            {
                "question": problem.statement,
                "input_output": json.dumps(tests),
                "solutions": json.dumps(problem.solutions),
                "difficulty": "EASY",
            }
        )
    untested = {"question": "Print 1.", "input_output": "", "solutions": ["print(1)"]}
    return [*taught, untested, dict(taught[0])]


def write_files(folder: Path) -> Path:
    """Writes the problem file and the settings; returns the path of the settings."""
    (folder / "rows.json").write_text(json.dumps(rows()))
    settings = {**SETTINGS, "runs": str(folder / "runs")}
    settings["problems"] = {**SETTINGS["problems"], "path": str(folder / "rows.json")}
    (folder / "wee.yaml").write_text(yaml.safe_dump(settings))
    return folder / "wee.yaml"


# Running commands.


@dataclasses.dataclass(frozen=True)
class Done:
    """How a command ended, and what it said."""

    status: int
    out: str
    err: str


def start(settings: Path, *arguments: str, module: str = "selfplay") -> subprocess.Popen[str]:
    """`python -m train.MODULE` as a process of its own, in a process group of its own."""
    return subprocess.Popen(
        [sys.executable, "-m", f"train.{module}", "--config", str(TACO), "--config", str(settings), *arguments],
        cwd=ROOT,
        env={**os.environ, **ENVIRONMENT},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def finish(process: subprocess.Popen[str]) -> Done:
    """Waits for a process; one that hangs is ended."""
    try:
        out, err = process.communicate(timeout=PATIENCE_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        raise
    return Done(process.returncode, out, err)


def wait_until(process: subprocess.Popen[str], condition: Callable[[], bool]) -> None:
    """Waits for something that a process will do, and fails when it ends without having done it."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not condition():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline, "nothing happened"
        time.sleep(0.02)


def command(settings: Path, *arguments: str, module: str = "selfplay", taco: bool = True) -> Done:
    """The same in this process, which has imported and compiled most of it already."""
    base = ["--config", str(TACO)] if taco else []
    return bare_command(module, *base, "--config", str(settings), *arguments)


def bare_command(module: str, *arguments: str, package: str = "train") -> Done:
    """`python -m PACKAGE.MODULE ARGUMENTS` in this process."""
    out, err, argv = io.StringIO(), io.StringIO(), sys.argv
    sys.argv = [f"{package}.{module}", *arguments]
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err), warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*found in sys.modules.*")  # the tests import it, too
            runpy.run_module(f"{package}.{module}", run_name="__main__")
    except SystemExit as end:
        return Done(end.code if isinstance(end.code, int) else 0, out.getvalue(), err.getvalue())
    finally:
        sys.argv = argv
    raise AssertionError("a command leaves with a status")


# Looking at a run, and going on from a copy of one.


def config_of(run: Path) -> Config:
    """The configuration of a run folder."""
    return load_config(run / "config.yaml")


def copy_run(run: Path, runs: Path, *, upto: str, name: str | None = None) -> Path:
    """Copies a run folder with the stages up to one of them, as if nothing after it had been finished.

    The copy holds no configuration, so that whoever opens it may change some.
    """
    copy = runs / (name or run.name)
    shutil.copytree(run, copy, ignore=shutil.ignore_patterns("tensorboard", ".lock"))
    stages = {path.stem: json.loads(path.read_text()) for path in (copy / "stages").glob("*.json")}
    for stage, facts in stages.items():
        if facts["order"] > stages[upto]["order"]:
            (copy / "stages" / f"{stage}.json").unlink()
    (copy / "config.yaml").unlink()
    return copy


@contextlib.contextmanager
def opened(run: Path, runs: Path, *, upto: str, **changes: dict[str, Any]) -> Iterator[Session]:
    """A session on a copy of a run with the stages up to one of them; `changes` are sections and their new values."""
    config = config_of(run)
    for section, values in changes.items():
        config = dataclasses.replace(config, **{section: dataclasses.replace(getattr(config, section), **values)})
    copy_run(run, runs, upto=upto)
    with (
        contextlib.redirect_stdout(io.StringIO()),
        Session.open(dataclasses.replace(config, runs=str(runs))) as session,
    ):
        yield session


def summary_of(run: Path) -> dict[str, Any]:
    """A run's summary without what may differ from run to run: times, versions, what the sandbox had not forgotten."""
    summary = json.loads((run / "summary.json").read_text())
    return {key: value for key, value in summary.items() if key not in ("seconds", "versions", "cache_hit_rate")}


def results(run: Path) -> dict[str, dict[str, Any]]:
    """The results of a run's finished stages."""
    return {stage.name: stage.result for stage in finished_stages(run)}


def read_lines(path: Path) -> list[Any]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def retire(session: Session, problems: Sequence[Problem]) -> None:
    """Tells the ledger that these are solved every time."""
    with session.run.stage_scope("solved") as stage:
        stage.append(LEDGER, [Tally(problem.id, 1, "search", 99, 99) for problem in problems])


# Records.


def record(
    problem_id: str,
    steps: list[tuple[list[int], float | None]],
    *,
    prompt: tuple[int, ...] = (3, 4, 5),
    verdict: Verdict | None = Verdict.ACCEPTED,
    iteration: int = 1,
    tree: int = 0,
    nodes: list[int] | None = None,
    log_probability: float = -1.0,
) -> ProcessRecord:
    """A path of (tokens, value) steps, each of this log-probability; `nodes` are their numbers in the tree, 1, 2, ...
    when not given."""
    numbers = nodes or list(range(1, len(steps) + 1))
    parents = [0, *numbers[:-1]]
    return ProcessRecord(
        problem_id=problem_id,
        prompt_tokens=prompt,
        steps=tuple(
            StepRecord("", tuple(tokens), 3, value, 0 if value is None else 1, log_probability, node, parent)
            for (tokens, value), node, parent in zip(steps, numbers, parents, strict=True)
        ),
        code="print(1)" if verdict is not None else None,
        verdict=verdict,
        reward=None,
        ended="code" if verdict is not None else "depth",
        run="r",
        iteration=iteration,
        tree=tree,
        policy="p",
        tokenizer="t",
        tests="x",
    )
