"""Step 4: the process reward model.

    python -m train.prm --config configs/tiny.yaml --iteration 1

Trained on D_process, good and bad paths alike: point-wise on each step's value Q/N (soft labels), or pair-wise on
siblings under one node (arXiv 2412.00154, section 3.4). It starts from the current policy, or from `prm.checkpoint`,
with a scalar head, and is read as it is trained: at the last token of every step. Trees of every tenth problem are held
out.

With `prm.weights: policy` the head alone is trained, on the states of the policy as SFT left it, and the checkpoint
holds the head alone. RL scores steps with these states; for the policy that RL makes of it, which the next search uses,
the stage `head` fits another.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import jax
import numpy as np
from flax import nnx
from jax.sharding import Mesh

from o1coder_jax import losses
from o1coder_jax.adapters import AdapterConfig
from o1coder_jax.errors import UserError
from o1coder_jax.mesh import host_copy, row_shards, shard_rows
from o1coder_jax.prm import fresh_head, label_metrics, score_tokens
from o1coder_jax.records import ProcessRecord, content_hash, sibling_pairs
from o1coder_jax.transformer import Transformer
from train.data import (
    ALL,
    BatchConfig,
    Batches,
    Example,
    HostBatch,
    chosen_batches,
    packed_batches,
    padded_batch,
    round_up,
)
from train.process import read_process
from train.run import Stage
from train.session import Session, StageName, reporter
from train.step import Objective, OptimizerConfig, Trainer, fit

HELD_OUT_ONE_IN = 10
LENGTH_BUCKET = 64


@dataclass(frozen=True)
class PRMConfig:
    """The reward model's training.

    Attributes:
      weights: `own`, a decoder that starts as the policy and is trained; or `policy`, a head on the policy's states,
        which a search reads from the policy's own pages. A head alone wants a higher learning rate.
      objective: `pointwise` (soft labels) or `pairwise` (siblings whose values differ by `margin` at least).
      updates: per iteration.
      max_age: paths of more than so many rounds before are left out; 0: paths of any age are used.
      margin: of a pair, in units of value.
      batch: rows and length; a pair takes two rows.
      checkpoint: folder of a pretrained model to start from in each round, of the policy's tokenizer; null: the policy.
      adapter: train an adapter on a frozen base, not all weights. The base is the policy's where the policy has an
        adapter as well, so that both share it; otherwise it is the policy as fine-tuning left it.
    """

    weights: Literal["own", "policy"] = "own"
    objective: Literal["pointwise", "pairwise"] = "pointwise"
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
        if not 0 < self.margin <= 1:
            raise UserError(f"prm.margin is {self.margin}; it must lie in (0, 1]")
        if self.objective == "pairwise" and self.batch.rows % 2:
            raise UserError(f"prm.batch.rows is {self.batch.rows}; pair-wise training needs an even number")


def held_out(record: ProcessRecord) -> bool:
    """Whether a record's problem is kept from training, by the problem's id alone."""
    return int(content_hash(record.problem_id), 16) % HELD_OUT_ONE_IN == 0


def path_tokens(record: ProcessRecord) -> int:
    """Length of a path with its prompt, in tokens."""
    return len(record.prompt_tokens) + sum(len(step.tokens) for step in record.steps)


def pointwise_examples(records: Iterable[ProcessRecord], longest: int | None = None) -> list[Example]:
    """Paths with the value of each visited step at its last token. A node that many paths share is labelled once.

    Paths of more than `longest` tokens are left out; what they share with others is labelled in those.
    """
    labelled: set[tuple[int, int, int]] = set()
    examples = []
    for record in records:
        if longest is not None and path_tokens(record) > longest:
            continue
        tokens, label, weight = list(record.prompt_tokens), [], []
        label += [0.0] * len(tokens)
        weight += [0.0] * len(tokens)
        for step in record.steps:
            node = (record.iteration, record.tree, step.node)
            fresh = step.value is not None and node not in labelled
            labelled.add(node)
            tokens += step.tokens
            label += [0.0] * (len(step.tokens) - 1) + [step.value or 0.0]
            weight += [0.0] * (len(step.tokens) - 1) + [float(fresh)]
        if any(weight):
            examples.append(
                {
                    "tokens": np.array(tokens, np.int32),
                    "label": np.array(label, np.float32),
                    "weight": np.array(weight, np.float32),
                }
            )
    return examples


def pair_examples(records: Iterable[ProcessRecord], margin: float) -> list[tuple[Example, Example]]:
    """Pairs (winner, loser) of siblings whose values differ by the margin at least, read at their last tokens."""
    return [
        (_last_token(prefix, pair.winner.tokens), _last_token(prefix, pair.loser.tokens))
        for pair in sibling_pairs(records, margin)
        for prefix in [pair.prompt_tokens + pair.path_tokens]
    ]


def _last_token(prefix: Sequence[int], step: Sequence[int]) -> Example:
    weight = np.zeros(len(prefix) + len(step), np.float32)
    weight[-1] = 1.0
    return {"tokens": np.array([*prefix, *step], np.int32), "weight": weight}


def pair_batches(pairs: Sequence[tuple[Example, Example]], batch: BatchConfig, seed: int, own: slice = ALL) -> Batches:
    """Endless shuffled batches of pairs, winner and loser in neighbouring rows; this process's rows of them."""
    usable = [pair for pair in pairs if max(len(one["tokens"]) for one in pair) <= batch.length]
    if not usable:
        raise UserError(f"none of {len(pairs)} sibling pairs fits into prm.batch.length {batch.length}")

    def make(numbers: Sequence[int]) -> HostBatch:
        rows = [one for number in numbers for one in usable[number]]
        return padded_batch(rows, batch.rows, batch.length) | {"valid": np.ones(batch.rows, np.float32)}

    return chosen_batches(len(usable), batch.rows // 2, make, seed=seed, own=own)


def score_sequences(
    graph: nnx.GraphDef[Transformer], weights: Any, sequences: Sequence[Sequence[int]], mesh: Mesh, *, rows: int = 64
) -> list[np.ndarray]:
    """r after every token of each sequence, in order."""
    rows = round_up(rows, row_shards(mesh))
    order = sorted(range(len(sequences)), key=lambda i: len(sequences[i]))
    out: list[np.ndarray] = [np.zeros(0)] * len(sequences)
    for start in range(0, len(order), rows):
        chosen = order[start : start + rows]
        length = round_up(max(len(sequences[i]) for i in chosen), LENGTH_BUCKET)
        batch = padded_batch([{"tokens": np.array(sequences[i], np.int32)} for i in chosen], rows, length)
        with jax.set_mesh(mesh):
            scores = host_copy(score_tokens(graph, weights, *shard_rows(mesh, (batch["tokens"], batch["segments"]))))
        for row, index in enumerate(chosen):
            out[index] = scores[row, : len(sequences[index])]
    return out


def held_out_metrics(
    graph: nnx.GraphDef[Transformer], weights: Any, examples: Sequence[Example], mesh: Mesh
) -> dict[str, float | None]:
    """AUC, log loss and accuracy of the scores at labelled steps."""
    if not examples:
        return {"auc": None, "log_loss": None, "accuracy": None}
    scores = score_sequences(graph, weights, [e["tokens"].tolist() for e in examples], mesh)
    at = [e["weight"] > 0 for e in examples]
    return label_metrics(
        np.concatenate([s[where] for s, where in zip(scores, at, strict=True)]),
        np.concatenate([e["label"][where] for e, where in zip(examples, at, strict=True)]),
    )


def run(session: Session, iteration: int) -> None:
    """Trains the reward model on all of D_process; the result is the checkpoint `prm-NNN`."""
    session.require(StageName(iteration)("sft"), f"train.sft --iteration {iteration}")
    with session.run.stage_scope(StageName(iteration)("prm")) as stage:
        train(session, stage, iteration, policy=f"sft-{iteration:03d}", name="prm")


def train(session: Session, stage: Stage, iteration: int, *, policy: str, name: str) -> None:
    """Trains a reward model, or a head, on all of D_process, from a checkpoint of the policy to `NAME-NNN`."""
    config = session.config.prm
    records = read_process(session, iteration, config.max_age)
    training = [record for record in records if not held_out(record)]
    if config.weights == "policy":
        states = session.load_policy(policy)
        graph, weights = fresh_head(states)
    else:
        base = "prm-base" if config.checkpoint else policy
        start = session.trainable(base, config.adapter, role="prm").with_head(session.mesh)
        graph, weights = start.graph, start.weights
    seed = session.config.seed + iteration
    own = session.own_slice(config.batch.rows)
    if config.objective == "pointwise":
        examples = pointwise_examples(training, config.batch.length)
        count, objective = len(examples), Objective.of(losses.prm_pointwise)
        batches = packed_batches(examples, config.batch, seed=seed, name="prm", own=own) if examples else None
    else:
        pairs = pair_examples(training, config.margin)
        examples = [one for pair in pairs for one in pair]
        count, objective = len(pairs), Objective.of(losses.prm_pairwise)
        batches = pair_batches(pairs, config.batch, seed, own) if pairs else None
    too_long = sum(path_tokens(record) > config.batch.length for record in training)
    stage.result |= {"examples": count, "too_long": too_long, "skipped": batches is None}
    if batches is None:
        skipped = f"{StageName(iteration)(name)}: skipped"
        print(f"{skipped}, {len(training)} paths ({too_long} too long) teach nothing", flush=True)
    else:
        trainer = Trainer(graph, weights, objective, config.optimizer, session.mesh, updates=config.updates, seed=seed)
        kept = session.kept(stage, "updates", examples)
        with stage.progress(config.updates, "updates") as bar:
            stage.result |= fit(trainer, batches, report=reporter(stage, bar), kept=kept)
        weights = trainer.weights
    judged = [record for record in records if held_out(record) and record.iteration == iteration]
    stage.result |= held_out_metrics(graph, weights, pointwise_examples(judged), session.mesh)
    checkpoint = f"{name}-{iteration:03d}"
    if config.weights == "policy":
        head = nnx.filter_state(weights, nnx.Param)
        stage.result["weights"] = session.save_model(checkpoint, head, head_of=states.fingerprint)
    else:
        stage.result["weights"] = session.save_model(checkpoint, weights, start)


if __name__ == "__main__":
    from train.command import stage_command

    stage_command(run, "prm", __doc__)
