"""The base policy: one trained here, or the pretrained checkpoint that `policy.checkpoint` names.

    python -m train.bootstrap --config configs/tiny.yaml

Draws the problems, fits a tokenizer, and trains a small decoder from scratch on worked examples of the
training part, written by the curriculum's unreliable teacher. The rest of the loop does not know the difference
between this and a downloaded model: it starts from the checkpoint `policy-000`.
"""

from __future__ import annotations

import dataclasses
import random
from dataclasses import dataclass, field
from pathlib import Path

from flax import nnx

from o1coder_jax import losses
from o1coder_jax.errors import UserError
from o1coder_jax.mesh import shard_parameters
from o1coder_jax.problems import CurriculumConfig, Parts, Rejected
from o1coder_jax.problems.curriculum import Teacher, build
from o1coder_jax.records import Problem, TestCase, write_jsonl
from o1coder_jax.steps import render_prompt
from o1coder_jax.tokenizer import Tokenizer
from o1coder_jax.vocabulary import ByteLevelVocabulary, Vocabulary
from train import pretrained
from train.data import BatchConfig, Example, example, fitting, packed_batches
from train.gold import checked_parts
from train.session import PARTS, Session, policy_name, reporter
from train.step import Objective, OptimizerConfig, Trainer, fit
from train.tcg.config import TCGConfig
from train.tcg.examples import answer_parts


@dataclass(frozen=True)
class BootstrapConfig:
    """Training of the base.

    Attributes:
      updates: optimiser steps.
      samples: answers of the teacher per training problem.
      tokenizer_texts: examples that the vocabulary is fitted on.
      curriculum: the problems it learns from when the run's own source is a file; sizes other than `training`
        are then unused.
      batch, optimizer: see there.
    """

    updates: int = 1000
    samples: int = 8
    tokenizer_texts: int = 2000
    curriculum: CurriculumConfig = field(default_factory=CurriculumConfig)
    batch: BatchConfig = field(default_factory=BatchConfig)
    optimizer: OptimizerConfig = field(default_factory=lambda: OptimizerConfig(learning_rate=3e-3, warmup=40))

    def __post_init__(self) -> None:
        for name in ("updates", "samples", "tokenizer_texts"):
            if getattr(self, name) < 1:
                raise UserError(f"bootstrap.{name} is {getattr(self, name)}; it must be at least 1")


def write_parts(session: Session) -> None:
    """Builds the run's problems, with what was set aside and why, as files of the run folder."""
    with session.run.stage_scope("problems") as stage:
        stage.result |= session.once(lambda: _written_parts(session)) or {}


def _written_parts(session: Session) -> dict[str, int]:
    config = session.config
    rejected: list[Rejected] = []
    if config.problems.source == "curriculum":
        parts = build(config.problems.curriculum, config.seed)
    else:
        parts, rejected = checked_parts(config.problems, config.seed, session.pool)
    session.part_path(PARTS[0]).parent.mkdir(exist_ok=True)
    counts = {part: write_jsonl(session.part_path(part), getattr(parts, part)) for part in PARTS}
    write_jsonl(session.run.folder / "problems" / "set_aside.jsonl", rejected)
    for row in rejected:
        print(f"set aside {row.id}: {row.reason}", flush=True)
    return {**counts, "set_aside": len(rejected)}


def teaching_parts(session: Session) -> Parts:
    """The curriculum that the base learns from: the run's own, or one beside a file source."""
    if session.config.problems.source == "curriculum":
        return session.parts
    taught = dataclasses.replace(session.config.bootstrap.curriculum, selfplay=0, validation=0, heldout=0)
    return build(taught, session.config.seed)


def teacher_of(session: Session) -> Teacher:
    config = session.config
    own = config.problems.source == "curriculum"
    return Teacher(config.problems.curriculum if own else config.bootstrap.curriculum, config.seed)


def lessons(session: Session, problems: list[Problem], tokenizer: Vocabulary) -> list[Example]:
    """The teacher's answers as training examples."""
    teacher, rng = teacher_of(session), random.Random(f"{session.config.seed} lessons")
    out = []
    for problem in problems:
        prompt = tokenizer.encode(render_prompt(problem.statement))
        for _ in range(session.config.bootstrap.samples):
            out.append(example(prompt, tokenizer.encode(teacher.sample(problem, rng))))
    return out


def fit_tokenizer(session: Session, problems: list[Problem]) -> Vocabulary:
    """A vocabulary for statements, worked answers and test cases, or the one that the settings name."""
    if file := session.config.tokenizer.file:
        return ByteLevelVocabulary.load(Path(file))
    teacher, rng = teacher_of(session), random.Random(f"{session.config.seed} tokenizer")
    texts: list[str] = []
    while len(texts) < session.config.bootstrap.tokenizer_texts:
        problem = rng.choice(problems)
        texts.append(render_prompt(problem.statement) + teacher.sample(problem, rng))
        if problem.tests and len(texts) % (2 if session.config.tcg.split_values else 4) == 0:
            texts.append(case_text(session.config.tcg, problem, rng.sample(problem.tests, 1)))
    return Tokenizer.train(texts, session.config.tokenizer)


def case_text(config: TCGConfig, problem: Problem, cases: list[TestCase]) -> str:
    """Test cases as the vocabulary is to know them: without their values where these are cut by themselves.

    What of `tcg` decides this is named in `EARLY` of `train/ablate/config.py`.
    """
    parts = answer_parts(problem, cases, config)
    return "".join(text for text, field in parts if not (field and config.split_values))


def run(session: Session) -> None:
    """Makes problems, tokenizer and base policy; with `policy.checkpoint` nothing is trained."""
    if session.run.stage("problems") is None:
        write_parts(session)
    config = session.config.bootstrap
    with session.run.stage_scope("bootstrap") as stage:
        pretrained.prepare(session)
        if session.config.policy.checkpoint:
            result, line = pretrained.start(session, policy_name(0))
            stage.result |= result
            print(line, flush=True)
            return
        problems = teaching_parts(session).training
        if not problems:
            raise UserError("the bootstrap has no training problems; raise problems.curriculum.training")
        session.once(lambda: fit_tokenizer(session, problems).save(session.tokenizer_path))
        tokenizer = session.tokenizer
        examples = lessons(session, problems, tokenizer)
        usable = fitting(examples, config.batch.length)
        stage.result |= {
            "examples": len(usable),
            "too_long": len(examples) - len(usable),
            "vocab_size": tokenizer.vocab_size,
            "mean_answer_tokens": sum(float(e["weight"].sum()) for e in examples) / len(examples),
            "mean_tokens": sum(len(e["tokens"]) for e in examples) / len(examples),
            "longest_prompt": max(int((e["weight"] == 0).sum()) for e in examples),
            "longest_answer": max(int(e["weight"].sum()) for e in examples),
        }
        graph, weights = nnx.split(session.new_model())
        trainer = Trainer(
            graph,
            shard_parameters(session.mesh, weights),
            Objective.of(losses.sft),
            config.optimizer,
            session.mesh,
            updates=config.updates,
        )
        own = session.own_slice(config.batch.rows)
        batches = packed_batches(examples, config.batch, seed=session.config.seed, name="bootstrap", own=own)
        kept = session.kept(stage, "updates", examples)
        with stage.progress(config.updates, "updates") as bar:
            stage.result |= fit(trainer, batches, report=reporter(stage, bar), kept=kept)
        stage.result["weights"] = session.save_model(policy_name(0), trainer.weights)


if __name__ == "__main__":
    from train.command import stage_command

    stage_command(run, "bootstrap", __doc__)
