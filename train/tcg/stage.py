"""The stage: SFT on the template, DPO on pairs, the measures after each, and the tests for RL."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

from o1coder_jax import losses
from o1coder_jax.problems.curriculum import build_further
from o1coder_jax.records import Problem, write_jsonl
from o1coder_jax.stored import Model
from train.data import HostBatch, chosen_batches, fitting, packed_batches, round_up
from train.run import Stage
from train.session import Session, policy_name, reporter
from train.step import Objective, Trainer, fit, sequence_scores
from train.tcg.answers import reward_tests
from train.tcg.examples import Pair, dpo_batch, sft_examples, shuffled_pairs
from train.tcg.measures import Field, measure
from train.tcg.preferences import coevolution_pairs, compared_pairs, corrected_pairs

LENGTH_MULTIPLE = 32  # of the rows of DPO's batches


def run(session: Session) -> None:
    """Trains and measures the generator; the results are the checkpoints `tcg-sft` and `tcg`, and `tests.jsonl`."""
    config = session.config.tcg
    session.require("bootstrap", "train.bootstrap")
    with session.run.stage_scope("tcg") as stage:
        rng = random.Random(session.config.seed)
        problems = taught_problems(session)
        base = "tcg-base" if config.checkpoint else policy_name(0)
        start = session.trainable(base, config.adapter, role="tcg")
        after_sft = fine_tuned(session, stage, start, problems, rng)
        session.save_model("tcg-sft", after_sft, start)
        field = Field.of(session)
        _, sampler = session.sampler(start.graph, after_sft)
        found = measure(session, sampler, field)
        stage.result |= (told := {f"{name}_sft": value for name, value in found.figures.items()})
        stage.log(config.sft_updates, **told)

        pairs, more = preference_pairs(session, stage, sampler, problems, rng) if config.dpo_updates else ([], 0)
        after_dpo, then, tokens = after_sft, found, field.tokens + found.tokens + more
        if pairs:
            after_dpo = preferring(session, stage, start, after_sft, pairs)
            _, sampler = session.sampler(start.graph, after_dpo)
            then = measure(session, sampler, field)
            tokens += then.tokens
        stage.result["pairs"] = len(pairs)
        stage.result["weights"] = session.save_model("tcg", after_dpo, start)
        stage.result |= {f"{name}_dpo": value for name, value in then.figures.items()}
        stage.result |= {
            "kill_rate": then.figures["kill_rate"],
            "kill_rate_random": field.killed(session, field.random_suites).rate,
            "wrong_programs": sum(map(len, field.wrong)),
        }
        rows, last = reward_tests(session, sampler, session.parts.selfplay)
        stage.append_shared("tests.jsonl", rows)
        stage.result |= {
            "problems_with_tests": sum(bool(row["tests"]) for row in rows),
            "tokens_generated": tokens + last,
        }
        stage.result |= session.judging.costs()
        stage.log(config.dpo_updates, sync_seconds=session.sync_seconds())


def taught_problems(session: Session) -> list[Problem]:
    """The training part, and the further problems that the settings ask for, which are written beside it."""
    config = session.config
    if not config.tcg.further_problems:
        return session.parts.training
    further = build_further(config.problems.curriculum, config.seed, config.tcg.further_problems)
    session.once(lambda: write_jsonl(session.part_path("tcg"), further))
    return [*session.parts.training, *further]


def fine_tuned(session: Session, stage: Stage, start: Model, problems: Sequence[Problem], rng: random.Random) -> Any:
    """Weights after SFT."""
    config, seed = session.config.tcg, session.config.seed
    examples, dropped = sft_examples(session, problems, rng)
    usable = fitting(examples, config.batch.length)
    stage.result |= {"examples": len(usable), "dropped_tests": dropped, "too_long": len(examples) - len(usable)}
    trainer = Trainer(
        start.graph,
        start.weights,
        Objective.of(losses.sft),
        config.optimizer,
        session.mesh,
        updates=config.sft_updates,
        seed=seed,
    )
    with stage.progress(config.sft_updates, "SFT updates") as bar:
        own = session.own_slice(config.batch.rows)
        batches = packed_batches(examples, config.batch, seed=seed, name="tcg", own=own)
        fit(trainer, batches, report=reporter(stage, bar, "sft_"), kept=session.kept(stage, "sft", examples))
    return trainer.weights


def preference_pairs(
    session: Session, stage: Stage, sampler: Any, problems: Sequence[Problem], rng: random.Random
) -> tuple[list[Pair], int]:
    """Pairs from every source that the settings name, those that fit; and the tokens generated for them."""
    config, tokens = session.config.tcg, 0
    found: dict[str, list[Pair]] = {}
    for name, count, make in (
        ("corrected", config.corrected_problems, corrected_pairs),
        ("compared", config.compared_problems, compared_pairs),
        ("coevolution", config.coevolution_problems, coevolution_pairs),
    ):
        if count:
            chosen = rng.sample(problems, min(count, len(problems)))
            found[name], used = make(session, sampler, chosen)
            tokens += used
    if config.shuffled:
        enough = min((len(pairs) for pairs in found.values() if pairs), default=len(problems))
        chosen = rng.sample(problems, min(enough, len(problems)))
        found["shuffled"], stage.result["shuffled_skipped"] = shuffled_pairs(session, chosen, rng)
    fit_in = {name: fitting_pairs(pairs, config.batch.length) for name, pairs in found.items()}
    stage.result |= {f"pairs_{name}": len(pairs) for name, pairs in fit_in.items()}
    return balanced(list(fit_in.values()), rng), tokens


def fitting_pairs(pairs: Sequence[Pair], length: int) -> list[Pair]:
    """Those of which neither side is longer than a row."""
    return [pair for pair in pairs if max(len(one["tokens"]) for one in pair) <= length]


def balanced(sources: Sequence[Sequence[Pair]], rng: random.Random) -> list[Pair]:
    """As many pairs of each source as the one with fewest has, so that none drowns in another; empty ones aside."""
    filled = [pairs for pairs in sources if pairs]
    count = min(map(len, filled), default=0)
    return [pair for pairs in filled for pair in rng.sample(pairs, count)]


def preferring(session: Session, stage: Stage, start: Model, after_sft: Any, pairs: Sequence[Pair]) -> Any:
    """Weights after DPO against those after SFT."""
    config, seed = session.config.tcg, session.config.seed
    trainer = Trainer(
        start.graph,
        after_sft,
        Objective.of(losses.dpo, beta=config.beta, sft_weight=config.dpo_sft_weight),
        config.dpo_optimizer,
        session.mesh,
        updates=config.dpo_updates,
        seed=seed + 1,
        dropout=False,  # as the reference
    )
    own = session.own_slice(2 * config.dpo_pairs)
    longest = max(len(one["tokens"]) for pair in pairs for one in pair)
    length = min(round_up(longest, LENGTH_MULTIPLE), config.batch.length)

    def referred(numbers: Sequence[int]) -> HostBatch:
        batch = {name: rows[own] for name, rows in dpo_batch([pairs[i] for i in numbers], config, length).items()}
        return batch | {"reference": sequence_scores(start.graph, after_sft, batch, session.mesh)}

    batches = chosen_batches(len(pairs), config.dpo_pairs, referred, seed=seed)
    kept = session.kept(stage, "dpo", [one for pair in pairs for one in pair])
    with stage.progress(config.dpo_updates, "DPO updates") as bar:
        fit(trainer, batches, report=reporter(stage, bar, "dpo_"), kept=kept)
    return trainer.weights
