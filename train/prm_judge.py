"""Judges a process reward model of a run against fresh continuations of steps that it was not trained on.

    python -m train.prm_judge --run runs/tiny --prm prm-001 --iteration 1

The steps are those of the trees that round ITERATION's search grew for the problems that reward models are not trained
on, every tenth. The policy that grew the trees goes on from each step that is not a path's end, `continuations` times;
the share that passes the problem's own tests is the step's label. A path's end has the verdict of its program. The
run is only read; what is found goes to `output`, by default RUN-prm beside it:

    continuations-NNN.jsonl    what became of each step; used again for another checkpoint of the same run
    PRM.json, PRM.md           all figures, and the tables that are printed
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from o1coder_jax import checkpoint
from o1coder_jax.config import parse
from o1coder_jax.errors import UserError, run_command
from o1coder_jax.policy import Policy
from o1coder_jax.records import Judgement, Problem, ProcessRecord
from sandbox.pool import Pool, submission_for
from train.continuations import Continued, Continuing, prefixes_of, whole_problems
from train.prm_examples import held_out
from train.prm_scores import Graph, figures_of
from train.process import current
from train.run_files import write_json, write_text
from train.run_stages import read_records
from train.session import policy_name
from train.trained import Trained

FIGURES = ("steps", "good", "auc_within", "siblings", "spearman", "calibration_error", "auc", "log_loss")


@dataclass(frozen=True)
class JudgeConfig:
    """What is judged.

    Attributes:
      run: folder of the run.
      prm: checkpoint in it: a reward model, or a value head.
      iteration: the round whose trees the steps are of.
      prefixes: steps that are continued at least, in whole problems; 0: all.
      continuations: of each.
      threshold: a label of at least this is a good step; 0 takes `prm.threshold` of the run.
      seed: of the draws.
      output: folder for what is found; empty: the run's, with -prm behind its name.
    """

    run: str
    prm: str = "prm-001"
    iteration: int = 1
    prefixes: int = 0
    continuations: int = 16
    threshold: float = 0.0
    seed: int = 0
    output: str = ""

    def __post_init__(self) -> None:
        for name, least in (("iteration", 1), ("prefixes", 0), ("continuations", 2), ("seed", 0)):
            if getattr(self, name) < least:
                raise UserError(f"{name} is {getattr(self, name)}; it must be at least {least}")
        if not 0 <= self.threshold <= 1:
            raise UserError(f"threshold is {self.threshold}; it must lie in [0, 1]")


def judge(config: JudgeConfig) -> None:
    """Prints the figures of the checkpoint, and keeps them."""
    folder = Path(config.run)
    output = Path(config.output) if config.output else folder.with_name(f"{folder.name}-prm")
    found, steps = figures(config, Trained.open(folder), output)
    title = f"{config.prm} of {folder.name}, {steps} steps x {config.continuations} continuations"
    text = f"{title}\n\n{tables(found)}"
    write_json(output / f"{config.prm}.json", found)
    write_text(output / f"{config.prm}.md", text)
    print(f"\n{text}\n{output}: {config.prm}.json, {config.prm}.md")


def figures(config: JudgeConfig, trained: Trained, output: Path) -> tuple[dict[str, Any], int]:
    """Draws the continuations, unless they lie in `output`.

    Returns:
      `by_continuations` of `figures_of` for the checkpoint, and how many steps were continued.
    """
    folder = trained.folder
    rows = current(ProcessRecord.from_json(row) for row in read_records(folder, "process.jsonl"))
    records = [one for one in rows if one.iteration == config.iteration and held_out(one)]
    if not records:
        raise UserError(f"{folder} has no paths of held-out problems of round {config.iteration}; do its search first")
    graph, weights = rater(trained, config.prm)
    prefixes = whole_problems(prefixes_of(records), config.prefixes, config.seed)
    policy = trained.policy(policy_name(config.iteration - 1))
    if policy.fingerprint != records[0].policy:
        raise UserError(f"{policy_name(config.iteration - 1)} of {folder} is not what grew its trees; restore it")
    continued = {one.place: one for one in drawn(config, trained, policy, prefixes, output)}
    threshold = config.threshold or trained.config.prm.threshold
    found = figures_of(graph, weights, trained.mesh, records, continued, threshold)["by_continuations"]
    return found, len(prefixes)


def drawn(
    config: JudgeConfig, trained: Trained, policy: Policy, prefixes: Sequence[Any], output: Path
) -> list[Continued]:
    """The continuations, from their file where they are there."""
    with Pool(trained.config.sandbox) as pool:

        def judge_all(programs: Iterable[tuple[Problem, str | None]]) -> list[Judgement | None]:
            futures = [
                None if code is None else pool.submit(submission_for(problem, code, stop_at_failure=True))
                for problem, code in programs
            ]
            return [None if future is None else future.result() for future in futures]

        done = 0

        def tell(new: int) -> None:
            nonlocal done
            done += new
            print(f"{done} of {len(prefixes)} steps continued", flush=True)

        drawing = Continuing(
            policy,
            {problem.id: problem for problem in trained.problems("selfplay")},
            judge_all,
            config.continuations,
            trained.config.generation,
            trained.config.search.resolved().sampling,
            trained.mesh,
            (config.seed, config.iteration),
        )
        return drawing.run(prefixes, output / f"continuations-{config.iteration:03d}.jsonl", tell)


def rater(trained: Trained, name: str) -> tuple[Graph, Any]:
    """What scores steps: a reward model, or a value head with the policy that it was fitted on."""
    if "head_of" in checkpoint.metadata(trained.folder / "checkpoints" / name):
        kind, _, number = name.partition("-")
        policy, _ = trained.rater(name, trained.policy(f"{'policy' if kind == 'head' else 'sft'}-{number}"))
        return policy.graph, policy.weights
    _, model = trained.rater(name, trained.policy(policy_name(0)))
    assert model is not None
    return model.graph, model.weights


def tables(found: dict[str, Any]) -> str:
    """The figures in Markdown."""
    kinds = [(name.replace("_", " "), found[name]) for name in ("non_terminal", "terminal", "pooled")]
    kinds += [(f"depth {depth}", one) for depth, one in found["by_depth"].items()]
    kinds += [(f"action {action}", one) for action, one in found["by_action"].items()]
    head = ["", "steps", "good", "AUC within", "siblings", "Spearman", "ECE", "AUC pooled", "log loss"]
    lines = [head, ["---"] * len(head)]
    lines += [[kind, *(_cell(one.get(name)) for name in FIGURES)] for kind, one in kinds]
    bins = [["score", "steps", "mean score", "mean label"], ["---"] * 4]
    bins += [
        [f"{row['from']:.1f} to {row['to']:.1f}", *(_cell(row[name]) for name in ("count", "score", "label"))]
        for row in found["reliability"]
    ]
    halves = ", ".join(f"{name.replace('_', ' ')} {_cell(value)}" for name, value in found["halves"].items())
    return f"{_table(lines)}\nHalf of the continuations against the other half: {halves}\n\n{_table(bins)}"


def _cell(value: float | None) -> str:
    return "-" if value is None else str(value) if isinstance(value, int) else f"{value:.3f}"


def _table(lines: Sequence[Sequence[str]]) -> str:
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def main() -> None:
    judge(parse(JudgeConfig, prog="python -m train.prm_judge", description=(__doc__ or "").split("\n")[0]))


if __name__ == "__main__":
    run_command(main)
