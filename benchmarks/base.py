"""Has the base learned its teacher, and would more of the same lessons help?

    python -m benchmarks.base --config configs/tiny.yaml

Takes the base of a run (made by `train.bootstrap`), trains a copy on with the teacher's lessons for as many updates
as the loop makes (SFT and RL), and compares held-out greedy pass@1: teacher's most likely answer, base, base
trained on. A loop is only worth something beside a base that has nothing left to learn from its teacher. The
figures are added to `benchmarks/results/base.json`, by seed.
"""

from __future__ import annotations

import json
from pathlib import Path

from o1coder_jax import losses
from o1coder_jax.config import parse
from o1coder_jax.errors import run_command
from o1coder_jax.policy import Policy
from o1coder_jax.problems.curriculum import teacher_accuracy
from train.bootstrap import lessons, teacher_of
from train.config import Config
from train.data import fitting, packed_batches
from train.evaluate import mark
from train.session import Session, policy_name
from train.step import Objective, Trainer, fit

RESULTS = Path(__file__).parent / "results" / "base.json"


def loop_updates(config: Config) -> int:
    """Optimiser steps of the policy in the whole loop."""
    minibatches = -(-config.rl.problems * config.rl.samples // config.rl.minibatch)
    return config.iterations * (config.sft.updates + config.rl.updates * config.rl.epochs * minibatches)


def main() -> None:
    config = parse(Config, prog="python -m benchmarks.base", description="Base against teacher.")
    with Session.open(config) as session:
        session.require("bootstrap", "train.bootstrap")
        base, heldout = session.load_policy(policy_name(0)), session.parts.heldout
        examples = fitting(lessons(session, session.parts.training, session.tokenizer), config.bootstrap.batch.length)
        updates = loop_updates(config)
        trainer = Trainer(
            base.graph, base.weights, Objective.of(losses.sft), config.sft.optimizer, session.mesh, updates=updates
        )
        batches = packed_batches(examples, config.bootstrap.batch, seed=config.seed + 1, name="bootstrap")
        fit(trainer, batches, report=lambda update, metrics: print(update, f"{metrics['loss']:.4f}"), every=100)
        further = Policy(base.graph, trainer.weights, session.tokenizer, "")
        row = {
            "teacher_greedy": teacher_accuracy(heldout, teacher_of(session)),
            "base_greedy": mark(session, base, heldout, samples=1, greedy=True).pass_at(1),
            "continued_greedy": mark(session, further, heldout, samples=1, greedy=True).pass_at(1),
            "continued_updates": updates,
        }
    RESULTS.parent.mkdir(exist_ok=True)
    rows = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    rows[f"seed {config.seed}"] = row
    RESULTS.write_text(json.dumps(rows, indent=1) + "\n")
    print(json.dumps(row))


if __name__ == "__main__":
    run_command(main)
