"""Step 1: the test case generator.

    python -m train.tcg --config configs/tiny.yaml

SFT on the template, then DPO with shuffled outputs as the rejected answer (arXiv 2412.00154, section 3.1). The
generator starts from the base model, or from `tcg.checkpoint`, and has weights of its own. Its measures are taken at
temperature 1 on held-out problems: validity (the share of generated cases that the reference program passes) and the
kill rate of its valid tests on wrong programs. At the end it writes the tests that RL will use: its inputs, with the
outputs of the reference program.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from o1coder_jax import losses, tcg
from o1coder_jax.adapters import AdapterConfig
from o1coder_jax.errors import UserError
from o1coder_jax.records import Problem, TestCase
from sandbox.pool import Submission
from train.data import (
    BatchConfig,
    Example,
    HostBatch,
    chosen_batches,
    example,
    fitting,
    packed_batches,
    padded_batch,
)
from train.programs import sample_programs
from train.session import Session, policy_name, reporter
from train.step import Objective, OptimizerConfig, Trainer, fit, sequence_scores


@dataclass(frozen=True)
class TCGConfig:
    """The generator's training and use.

    Attributes:
      cases: test cases in one answer.
      examples_per_problem: drawings of cases from a problem's own tests, each without replacement.
      prompt_tokens, answer_tokens: caps.
      sft_updates, dpo_updates: of the two phases.
      dpo_pairs: pairs in a DPO batch; `beta` and `dpo_sft_weight` as in `losses.dpo`.
      judged_problems: held-out problems that the measures are taken on.
      suite: distinct valid tests of a problem, at most, for the kill rate and for RL.
      checkpoint: folder of a pretrained model to start from, with a tokenizer of its own; null: the base policy.
      adapter: train an adapter on the base policy, frozen, not all weights.
    """

    cases: int = 3
    examples_per_problem: int = 2
    prompt_tokens: int = 160
    answer_tokens: int = 128
    sft_updates: int = 300
    dpo_updates: int = 60
    dpo_pairs: int = 8
    beta: float = 0.1
    dpo_sft_weight: float = 0.2
    judged_problems: int = 150
    suite: int = 8
    batch: BatchConfig = field(default_factory=BatchConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    dpo_optimizer: OptimizerConfig = field(default_factory=lambda: OptimizerConfig(learning_rate=1e-4))
    checkpoint: str | None = None
    adapter: AdapterConfig | None = None

    def __post_init__(self) -> None:
        counts = "cases examples_per_problem prompt_tokens answer_tokens sft_updates dpo_updates dpo_pairs suite"
        for name in counts.split():
            if getattr(self, name) < 1:
                raise UserError(f"tcg.{name} is {getattr(self, name)}; it must be at least 1")


def prompt(session: Session, problem: Problem) -> list[int]:
    """Statement and reference program as token ids, the end kept when it is too long."""
    asked, cap = session.generator, session.config.tcg.prompt_tokens
    text = tcg.render_question(problem, problem.solutions[0])
    return asked.prompt.encode(asked.vocabulary, text, cap, keep_end=True)[0]


def draws(problem: Problem, config: TCGConfig, rng: random.Random) -> list[list[TestCase]]:
    """Drawings of distinct test cases from a problem's own tests."""
    count = min(config.cases, len(problem.tests))
    return [rng.sample(problem.tests, count) for _ in range(config.examples_per_problem)] if count else []


def sft_examples(session: Session, problems: Sequence[Problem], rng: random.Random) -> list[Example]:
    """Template examples: statement and program, then cases."""
    encode = session.generator.vocabulary.encode
    return [
        example(prompt(session, problem), encode(tcg.render_cases(cases, problem.form)))
        for problem in problems
        for cases in draws(problem, session.config.tcg, rng)
    ]


def dpo_pairs(session: Session, problems: Sequence[Problem], rng: random.Random) -> list[tuple[Example, Example]]:
    """(matching, shuffled) answers; problems whose outputs cannot be shuffled apart give none."""
    encode = session.generator.vocabulary.encode
    pairs = []
    for problem in problems:
        for cases in draws(problem, session.config.tcg, rng):
            rejected = tcg.mismatched(cases, rng)
            if rejected is not None:
                asked = prompt(session, problem)
                pairs.append(
                    (
                        example(asked, encode(tcg.render_cases(cases, problem.form))),
                        example(asked, encode(tcg.render_cases(rejected, problem.form))),
                    )
                )
    return pairs


def dpo_batch(pairs: Sequence[tuple[Example, Example]], config: TCGConfig) -> HostBatch:
    """Chosen and rejected in neighbouring rows; rows without a pair are padding."""
    rows = 2 * config.dpo_pairs
    batch = padded_batch([one for pair in pairs for one in pair], rows, config.batch.length)
    valid = np.zeros(rows, np.float32)
    valid[: 2 * len(pairs)] = 1.0
    return batch | {"valid": valid}


@dataclass(frozen=True)
class Answers:
    """What the generator wrote for one problem: cases, repeated ones included, and pieces that are no case."""

    cases: list[TestCase]
    malformed: int


def generated(
    session: Session, weights: Any, problems: Sequence[Problem], *, answers: int, salt: int
) -> tuple[list[Answers], int]:
    """Asks for `answers` answers per problem at temperature 1; returns them and the tokens they took."""
    samples = session.generate(
        weights,
        [prompt(session, problem) for problem in problems],
        samples=answers,
        answer_tokens=session.config.tcg.answer_tokens,
        salt=salt,
        graph=session.generator.graph,
        vocabulary=session.generator.vocabulary,
    )
    out = []
    for problem, drawn in zip(problems, samples, strict=True):
        read = [tcg.parse_cases(session.generator.vocabulary.decode(sample.tokens), problem.form) for sample in drawn]
        out.append(Answers([case for cases, _ in read for case in cases], sum(bad for _, bad in read)))
    return out, sum(len(sample.tokens) for drawn in samples for sample in drawn)


def valid_cases(session: Session, problems: Sequence[Problem], answers: Sequence[Answers]) -> list[list[bool]]:
    """Whether the reference program passes each generated case. A case that could not be checked counts as invalid."""
    submissions = [
        Submission(f"tcg:{problem.id}", problem.solutions[0], tuple(a.cases), problem.fn_name, problem.compare)
        for problem, a in zip(problems, answers, strict=True)
    ]
    judgements = session.judging.submit_all([one if one.tests else None for one in submissions]).result()
    out = []
    for submission, judgement in zip(submissions, judgements, strict=True):
        judged = [result.verdict == "accepted" for result in judgement.tests] if judgement is not None else []
        # A judgement that failed as a whole has one result for all tests.
        out.append(judged if len(judged) == len(submission.tests) else [False] * len(submission.tests))
    return out


def validity(answers: Sequence[Answers], valid: Sequence[Sequence[bool]]) -> float | None:
    """Share of all generated pieces, unreadable ones included, that are cases which the reference passes."""
    pieces = sum(len(a.cases) + a.malformed for a in answers)
    return sum(map(sum, valid)) / pieces if pieces else None


def kill_rate(
    session: Session, problems: Sequence[Problem], answers: Sequence[Answers], valid: Sequence[Sequence[bool]]
) -> tuple[float | None, int]:
    """Of wrong programs of the base policy (they fail the hidden tests), the share that valid tests reject.

    A problem's suite is its first distinct valid tests; one without any rejects nothing.

    Returns:
      The share, and the number of wrong programs.
    """
    programs = sample_programs(session, session.load_policy(policy_name(0)), problems, samples=1, salt=7)
    codes = [drawn[0].code for drawn in programs]
    hidden = session.judge_all([(p, code) for p, code in zip(problems, codes, strict=True)], hidden=True)
    wrong, tried = 0, []
    for problem, code, verdict, a, fine in zip(problems, codes, hidden, answers, valid, strict=True):
        if code is None or verdict is None or not verdict.checked or verdict.accepted:
            continue
        wrong += 1
        suite = tcg.distinct([case for case, good in zip(a.cases, fine, strict=True) if good])
        suite = suite[: session.config.tcg.suite]
        if suite:
            tried.append(
                Submission(
                    f"kill:{problem.id}", code, tuple(suite), problem.fn_name, problem.compare, stop_at_failure=True
                )
            )
    verdicts = session.judging.submit_all(tried).result()
    killed = sum(verdict is not None and not verdict.accepted for verdict in verdicts)
    return (killed / wrong if wrong else None), wrong


def reward_tests(session: Session, weights: Any, problems: Sequence[Problem]) -> tuple[list[dict[str, Any]], int]:
    """Tests for RL: the generator's inputs with the outputs of the reference program.

    Returns:
      One row per problem (`problem_id`, `form`, `tests`, `malformed`), and the tokens that were generated.
    """
    config = session.config.tcg
    answers, tokens = generated(session, weights, problems, answers=-(-config.suite // config.cases), salt=8)
    given = [[case.input for case in tcg.distinct(a.cases)][: config.suite] for a in answers]
    work = [(p.solutions[0], inputs, p.fn_name) for p, inputs in zip(problems, given, strict=True)]
    rows = []
    for problem, a, inputs, ran in zip(problems, answers, given, session.judging.outputs_all(work), strict=True):
        tests = [
            TestCase(one, value).to_json()
            for one, (result, value) in zip(inputs, ran, strict=True)
            if result.verdict == "accepted"
        ]
        rows.append({"problem_id": problem.id, "tests": tests, "malformed": a.malformed})
    return rows, tokens


def run(session: Session) -> None:
    """Trains and measures the generator; the results are the checkpoints `tcg-sft` and `tcg`, and `tests.jsonl`."""
    config = session.config.tcg
    session.require("bootstrap", "train.bootstrap")
    with session.run.stage_scope("tcg") as stage:
        rng = random.Random(session.config.seed)
        base = "tcg-base" if config.checkpoint else policy_name(0)
        start = session.trainable(base, config.adapter, role="tcg")
        examples = sft_examples(session, session.parts.training, rng)
        usable = fitting(examples, config.batch.length)
        stage.result |= {"examples": len(usable), "too_long": len(examples) - len(usable)}
        sft = Trainer(
            start.graph,
            start.weights,
            Objective.of(losses.sft),
            config.optimizer,
            session.mesh,
            updates=config.sft_updates,
            seed=session.config.seed,
        )
        with stage.progress(config.sft_updates, "SFT updates") as bar:
            own = session.own_slice(config.batch.rows)
            batches = packed_batches(examples, config.batch, seed=session.config.seed, name="tcg", own=own)
            fit(sft, batches, report=reporter(stage, bar, "sft_"), kept=session.kept(stage, "sft", examples))
        after_sft = sft.weights
        del sft  # and its moments
        session.save_model("tcg-sft", after_sft, start)

        pairs = dpo_pairs(session, session.parts.training, rng)
        pairs = [p for p in pairs if max(len(one["tokens"]) for one in p) <= config.batch.length]
        dpo = Trainer(
            start.graph,
            after_sft,
            Objective.of(losses.dpo, beta=config.beta, sft_weight=config.dpo_sft_weight),
            config.dpo_optimizer,
            session.mesh,
            updates=config.dpo_updates,
            seed=session.config.seed + 1,
        )

        own = session.own_slice(2 * config.dpo_pairs)

        def referred(numbers: Sequence[int]) -> HostBatch:
            batch = {name: rows[own] for name, rows in dpo_batch([pairs[i] for i in numbers], config).items()}
            return batch | {"reference": sequence_scores(start.graph, after_sft, batch, session.mesh)}

        if pairs:
            batches = chosen_batches(len(pairs), config.dpo_pairs, referred, seed=session.config.seed)
            kept = session.kept(stage, "dpo", [one for pair in pairs for one in pair])
            with stage.progress(config.dpo_updates, "DPO updates") as bar:
                fit(dpo, batches, report=reporter(stage, bar, "dpo_"), kept=kept)
        stage.result |= {"pairs": len(pairs), "weights": session.save_model("tcg", dpo.weights, start)}
        after_dpo = dpo.weights
        del dpo

        problems = session.parts.heldout[: config.judged_problems]
        tokens = 0
        for phase, weights in (("sft", after_sft), ("dpo", after_dpo)):
            _, sampler = session.sampler(start.graph, weights)
            answers, used = generated(session, sampler, problems, answers=1, salt=6)
            valid = valid_cases(session, problems, answers)
            stage.result[f"validity_{phase}"] = validity(answers, valid)
            stage.result[f"malformed_{phase}"] = sum(a.malformed for a in answers)
            tokens += used
        answers, used = generated(session, sampler, problems, answers=-(-config.suite // config.cases), salt=9)
        killed, wrong = kill_rate(session, problems, answers, valid_cases(session, problems, answers))
        stage.result |= {"kill_rate": killed, "wrong_programs": wrong}
        rows, more = reward_tests(session, sampler, session.parts.selfplay)
        stage.append_shared("tests.jsonl", rows)
        stage.result |= {
            "problems_with_tests": sum(bool(row["tests"]) for row in rows),
            "tokens_generated": tokens + used + more,
        }
        stage.result |= session.judging.costs()
        stage.log(config.dpo_updates, sync_seconds=session.sync_seconds())


if __name__ == "__main__":
    from train.command import stage_command

    stage_command(run, "tcg", __doc__)
