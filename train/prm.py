"""Step 4: the process reward model.

    python -m train.prm --config configs/tiny.yaml --iteration 1

Trained on D_process, good and bad paths alike: point-wise on each step's value (soft labels, or hard ones), or
pair-wise on siblings under one node (arXiv 2412.00154, section 3.4). A value is Q/N of the tree, or with `prm.labels:
continuations` the success of fresh continuations of the step. It starts from the current policy, or from
`prm.checkpoint`, and is read as it is trained: at the last token of every step, by a scalar head or by the softmax of
two answer tokens. Trees of every tenth problem are held out; `train/prm_judge.py` judges a checkpoint on them.

With `prm.weights: policy` the head alone is trained, on the states of the policy as SFT left it, and the checkpoint
holds the head alone. RL scores steps with these states; for the policy that RL makes of it, which the next search uses,
the stage `head` fits another.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from flax import nnx

from o1coder_jax import losses
from o1coder_jax.adapters import AdapterConfig
from o1coder_jax.errors import UserError
from o1coder_jax.prm import fresh_head
from o1coder_jax.records import ProcessRecord
from o1coder_jax.vocabulary import Vocabulary
from train.continuations import Continued, Place
from train.data import BatchConfig, Batches, Example, packed_batches
from train.prm_drawn import DrawnConfig
from train.prm_examples import (
    by_chances,
    by_passes,
    held_out,
    pair_batches,
    pair_examples,
    path_tokens,
    pointwise_examples,
    relabelled,
)
from train.prm_labels import CONTINUATIONS, continued_steps, drawn_steps
from train.prm_scores import figures_of, score_sequences
from train.process import current, distinct, read_process, recent
from train.run import Stage
from train.session import Session, StageName, reporter
from train.step import Objective, OptimizerConfig, Trainer, fit

__all__ = ["CONTINUATIONS", "PRMConfig", "run", "score_sequences", "train"]


@dataclass(frozen=True)
class PRMConfig:
    """The reward model's training.

    Attributes:
      weights: `own`, a decoder that starts as the policy and is trained; or `policy`, a head on the policy's states,
        which a search reads from the policy's own pages. A head alone wants a higher learning rate.
      read: `value_head`, a scalar head at a step's last token; or `answer_tokens`, the softmax of the scores that the
        next token be `answers[0]` (good) or `answers[1]` (bad). A search reads as training does.
      answers: two texts of one token each.
      objective: `pointwise`, or `pairwise` (siblings whose values differ by `margin` at least).
      labels: a step's value: `tree`, Q/N; `passes`, the share of its rollouts that came to a program which passed;
        `chances`, the same with each path weighed by its probability; or `continuations`, the share of fresh ones,
        drawn by the policy that grew the trees and judged on the problem's tests.
      continuations: of each step that is continued, to train on or to measure by; 16 at least for a good measure.
      prefixes: steps of training problems that are continued in a round, in whole problems; 0: all.
      drawn: whole answers that are drawn besides, and whose steps have the share that passed as labels.
      judged: steps of held-out problems that are continued in a round, as the measure of the model; 0: it is measured
        by the values of the trees alone.
      targets: of point-wise training: `soft`, values as they are; or `hard`, 1 where they are `threshold` at least,
        else 0.
      threshold: of hard targets, and of a good step where the model is measured.
      weighting: of point-wise training: `visits` gives a label the weight of its N, or of its continuations.
      updates: per iteration.
      max_age: paths of more than so many rounds before are left out; 0: paths of any age are used.
      margin: of a pair, in units of value.
      batch: rows and length; a pair takes two rows.
      checkpoint: folder of a pretrained model to start from in each round, of the policy's tokenizer; null: the policy.
      adapter: train an adapter on a frozen base, not all weights. The base is the policy's where the policy has an
        adapter as well, so that both share it; otherwise it is the policy as fine-tuning left it.
    """

    weights: Literal["own", "policy"] = "own"
    read: Literal["value_head", "answer_tokens"] = "value_head"
    answers: tuple[str, ...] = ("+", "-")
    objective: Literal["pointwise", "pairwise"] = "pointwise"
    labels: Literal["tree", "passes", "chances", "continuations"] = "tree"
    continuations: int = 16
    prefixes: int = 0
    drawn: DrawnConfig = field(default_factory=DrawnConfig)
    judged: int = 0
    targets: Literal["soft", "hard"] = "soft"
    threshold: float = 0.5
    weighting: Literal["none", "visits"] = "none"
    updates: int = 120
    max_age: int = 0
    margin: float = 0.1
    batch: BatchConfig = field(default_factory=BatchConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    checkpoint: str | None = None
    adapter: AdapterConfig | None = None

    def __post_init__(self) -> None:
        if self.updates < 1:
            raise UserError(f"prm.updates is {self.updates}; it must be at least 1")
        if self.max_age < 0:
            raise UserError(f"prm.max_age is {self.max_age}; it must not be negative")
        if self.weights == "policy" and (self.adapter or self.checkpoint):
            raise UserError(
                "prm.weights is policy, a head alone; leave prm.adapter and prm.checkpoint out, or set it to own"
            )
        if self.weights == "policy" and self.read == "answer_tokens":
            raise UserError(
                "prm.weights is policy, a head alone, and prm.read answer_tokens asks for none; leave one of them out"
            )
        for name in ("margin", "threshold"):
            if not 0 < getattr(self, name) <= 1:
                raise UserError(f"prm.{name} is {getattr(self, name)}; it must lie in (0, 1]")
        if self.continuations < 2:
            raise UserError(f"prm.continuations is {self.continuations}; give at least 2, better 16")
        for name in ("prefixes", "judged"):
            if getattr(self, name) < 0:
                raise UserError(f"prm.{name} is {getattr(self, name)}; it must not be negative")
        if self.drawn and self.labels == "tree":
            raise UserError("prm.drawn gives shares of paths that passed, and prm.labels tree Q/N; set it to passes")
        if len(self.answers) != 2 or len(set(self.answers)) != 2:
            raise UserError(f"prm.answers is {list(self.answers)}; give two texts, for a good and for a bad step")
        if self.objective == "pairwise":
            self._check_pairwise()

    def _check_pairwise(self) -> None:
        if self.batch.rows % 2:
            raise UserError(f"prm.batch.rows is {self.batch.rows}; pair-wise training needs an even number")
        for name, plain in (("targets", "soft"), ("weighting", "none")):
            if getattr(self, name) != plain:
                raise UserError(
                    f"prm.{name} is {getattr(self, name)}, which pair-wise training has no use for; set it to {plain}"
                )


def answer_ids(vocabulary: Vocabulary, answers: Sequence[str]) -> tuple[int, int]:
    """The tokens of the good and the bad answer."""
    ids = [vocabulary.encode(text) for text in answers]
    for text, found in zip(answers, ids, strict=True):
        if len(found) != 1:
            raise UserError(f"prm.answers: {text!r} is {len(found)} tokens in this vocabulary; give texts of one token")
    return ids[0][0], ids[1][0]


def run(session: Session, iteration: int) -> None:
    """Trains the reward model on all of D_process; the result is the checkpoint `prm-NNN`."""
    session.require(StageName(iteration)("sft"), f"train.sft --iteration {iteration}")
    with session.run.stage_scope(StageName(iteration)("prm")) as stage:
        train(session, stage, iteration, policy=f"sft-{iteration:03d}", name="prm")


def train(session: Session, stage: Stage, iteration: int, *, policy: str, name: str) -> None:
    """Trains a reward model, or a head, on all of D_process, from a checkpoint of the policy to `NAME-NNN`."""
    config = session.config.prm
    records = read_process(session, iteration, config.max_age)
    session.judging.costs()  # begins to count anew
    continued = continued_steps(session, stage, iteration, records)
    drawn = drawn_steps(session, stage, iteration, records)
    if stage.result.keys() & {"continued", "drawn"}:
        stage.result |= session.judging.costs()
    training = [*labelled(session, iteration, records, continued), *drawn]
    if config.weights == "policy":
        states = session.load_policy(policy)
        graph, weights = fresh_head(states)
    else:
        base = "prm-base" if config.checkpoint else policy
        start = session.trainable(base, config.adapter, role="prm")
        if config.read == "answer_tokens":
            answers = answer_ids(session.tokenizer, config.answers)
            start = start.with_answers(answers)
        else:
            start = start.with_head(session.mesh)
        graph, weights = start.graph, start.weights
        start = dataclasses.replace(start, weights=None)
    examples, count, objective, batches = lessons(session, iteration, training)
    too_long = sum(path_tokens(record) > config.batch.length for record in training)
    stage.result |= {"examples": count, "too_long": too_long, "skipped": batches is None}
    if batches is None:
        skipped = f"{StageName(iteration)(name)}: skipped"
        print(f"{skipped}, {len(training)} paths ({too_long} too long) teach nothing", flush=True)
    else:
        seed = session.config.seed + iteration
        trainer = Trainer(graph, weights, objective, config.optimizer, session.mesh, updates=config.updates, seed=seed)
        weights = None  # the trainer has its own
        kept = session.kept(stage, "updates", examples)
        with stage.progress(config.updates, "updates") as bar:
            stage.result |= fit(trainer, batches, report=reporter(stage, bar), kept=kept)
        weights = trainer.weights
    own = [record for record in records if held_out(record) and record.iteration == iteration]
    stage.result |= figures_of(graph, weights, session.mesh, own, continued, config.threshold)
    checkpoint = f"{name}-{iteration:03d}"
    if config.weights == "policy":
        head = nnx.filter_state(weights, nnx.Param)
        stage.result["weights"] = session.save_model(checkpoint, head, head_of=states.fingerprint)
    else:
        facts = {"answers": answers} if config.read == "answer_tokens" else {}
        stage.result["weights"] = session.save_model(checkpoint, weights, start, **facts)


def labelled(
    session: Session, iteration: int, records: Sequence[ProcessRecord], continued: Mapping[Place, Continued]
) -> list[ProcessRecord]:
    """The paths of problems that are not held out, with the values that `prm.labels` names."""
    config = session.config.prm
    if config.labels in ("passes", "chances"):  # of whole trees, before paths that several have are left out
        label = by_passes if config.labels == "passes" else by_chances
        whole = label(current(ProcessRecord.from_json(row) for row in session.run.read("process.jsonl")))
        return [one for one in distinct(recent(whole, iteration, config.max_age)) if not held_out(one)]
    training = [record for record in records if not held_out(record)]
    return relabelled(training, continued) if config.labels == "continuations" else training


def lessons(
    session: Session, iteration: int, training: Sequence[ProcessRecord]
) -> tuple[list[Example], int, Objective, Batches | None]:
    """What is learned from: examples, how many (pairs count once), the objective, and batches; None without any."""
    config, seed = session.config.prm, session.config.seed + iteration
    own = session.own_slice(config.batch.rows)
    if config.objective == "pairwise":
        pairs = pair_examples(training, config.margin)
        batches = pair_batches(pairs, config.batch, seed, own) if pairs else None
        return [one for pair in pairs for one in pair], len(pairs), Objective.of(losses.prm_pairwise), batches
    threshold = config.threshold if config.targets == "hard" else None
    by_visits = config.weighting == "visits"
    examples = pointwise_examples(training, config.batch.length, threshold=threshold, by_visits=by_visits)
    batches = packed_batches(examples, config.batch, seed=seed, name="prm", own=own) if examples else None
    return examples, len(examples), Objective.of(losses.prm_pointwise), batches


if __name__ == "__main__":
    from train.command import stage_command

    stage_command(run, "prm", __doc__)
