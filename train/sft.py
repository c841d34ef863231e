"""Step 3: supervised fine-tuning of the policy on verified paths.

    python -m train.sft --config configs/tiny.yaml --iteration 1

L = -sum log pi(S^1:m o C' | Q) over paths whose program passes every test, those only (arXiv 2412.00154, section
3.3). The tokens are those that the policy sampled. The paper fine-tunes once, before RL; here each round of search is
followed by a fine-tuning on all verified paths so far, unless it found none or `sft.every_iteration` is off.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from o1coder_jax import losses
from o1coder_jax.errors import UserError
from o1coder_jax.records import ProcessRecord
from train.data import BatchConfig, Example, example, fitting, packed_batches
from train.process import read_process
from train.session import Session, StageName, policy_name, reporter
from train.step import Objective, OptimizerConfig, Trainer, fit


@dataclass(frozen=True)
class SFTConfig:
    """Fine-tuning on verified paths.

    Attributes:
      updates: per iteration.
      paths_per_problem: verified paths kept per problem, the latest rounds' first, and of a round the likeliest, so
        that easy problems do not crowd out hard ones.
      max_age: paths of more than so many rounds before are left out; 0: paths of any age are used.
      every_iteration: fine-tune after each round of search; off: after the first only, as in the paper.
      batch, optimizer: see there.
    """

    updates: int = 150
    paths_per_problem: int = 4
    max_age: int = 0
    every_iteration: bool = True
    batch: BatchConfig = field(default_factory=BatchConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)

    def __post_init__(self) -> None:
        for name in ("updates", "paths_per_problem"):
            if getattr(self, name) < 1:
                raise UserError(f"sft.{name} is {getattr(self, name)}; it must be at least 1")
        if self.max_age < 0:
            raise UserError(f"sft.max_age is {self.max_age}; it must not be negative")


def verified_paths(records: Iterable[ProcessRecord], per_problem: int) -> list[ProcessRecord]:
    """D+: at most `per_problem` distinct correct paths of each problem, of later iterations before earlier ones, and of
    one iteration those first that the policy was likeliest to write: what passes by luck is mostly unlikely."""
    by_problem: dict[str, dict[tuple[int, ...], ProcessRecord]] = {}
    for record in records:
        if record.correct:
            tokens = tuple(itertools.chain.from_iterable(step.tokens for step in record.steps))
            by_problem.setdefault(record.problem_id, {})[tokens] = record
    chosen = []
    for problem in sorted(by_problem):
        paths = list(by_problem[problem].values())
        paths.sort(key=lambda record: (-record.iteration, -record.log_probability))
        chosen += paths[:per_problem]
    return chosen


def path_example(record: ProcessRecord) -> Example:
    """Prompt and path as the policy read and wrote them; the prompt carries no loss."""
    return example(record.prompt_tokens, [token for step in record.steps for token in step.tokens])


def run(session: Session, iteration: int) -> None:
    """Trains the policy of the last iteration on D+; the result is the checkpoint `sft-NNN`."""
    config, names = session.config.sft, StageName(iteration)
    session.require(names("search"), f"train.reason --iteration {iteration}")
    with session.run.stage_scope(names("sft")) as stage:
        start = session.trainable(policy_name(iteration - 1), session.config.policy.adapter, role="policy")
        records = read_process(session, iteration, config.max_age)
        found = any(record.correct and record.iteration == iteration for record in records)
        paths = verified_paths(records, config.paths_per_problem)
        examples = fitting([path_example(path) for path in paths], config.batch.length)
        done_once = iteration > 1 and not config.every_iteration
        skipped = done_once or not found or not examples
        stage.result |= {"paths": len(paths), "too_long": len(paths) - len(examples), "skipped": skipped}
        stage.result["policy_updates"] = 0 if skipped else config.updates
        weights: Any = start.weights
        if skipped:
            why = f"none of {len(paths)} verified paths fits a batch"
            why = why if found else "no verified paths in this round"
            print(f"{names('sft')}: skipped, {'sft.every_iteration is off' if done_once else why}", flush=True)
        else:
            trainer = Trainer(
                start.graph,
                weights,
                Objective.of(losses.sft),
                config.optimizer,
                session.mesh,
                updates=config.updates,
                seed=session.config.seed + iteration,
            )
            start, weights = dataclasses.replace(start, weights=None), None  # the trainer has its own
            batches = packed_batches(
                examples,
                config.batch,
                seed=session.config.seed + iteration,
                name="sft",
                own=session.own_slice(config.batch.rows),
            )
            kept = session.kept(stage, "updates", examples)
            with stage.progress(config.updates, "updates") as bar:
                stage.result |= fit(trainer, batches, report=reporter(stage, bar), kept=kept)
            weights = trainer.weights
        stage.result["weights"] = session.save_model(f"sft-{iteration:03d}", weights, start)


if __name__ == "__main__":
    from train.command import stage_command

    stage_command(run, "sft", __doc__)
