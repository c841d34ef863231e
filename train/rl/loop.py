"""Step 5: reinforcement learning on outcome and process rewards together.

    python -m train.rl --config configs/tiny.yaml --iteration 1
    python -m train.selfplay --config configs/tiny.yaml --config configs/ppo.yaml --name ppo

The first is the stage alone. The second is another algorithm, a run of its own with all stages before: a run keeps the
settings that it was made with.

For each problem the policy writes a group of whole paths; every step is scored by the PRM (r^j), the program is run on
tests whose inputs the TCG wrote and whose outputs the reference program gave (R is 1 when all pass, else 0), and
phi(R, r^1:m) is the path's reward (arXiv 2412.00154, section 3.5). `rl.algorithm` says what is made of it: the clipped
policy gradient with the group's mean as baseline (GRPO) or with a critic's advantages (PPO), or pairs (iterative DPO).
Paths that could not be checked are masked. t of a(t) counts rounds of sampling across iterations. See docs/training.md.
"""

from __future__ import annotations

import functools
import random
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from flax import nnx

from o1coder_jax import losses
from o1coder_jax.policy import Policy
from o1coder_jax.policy_losses import policy_gradient
from o1coder_jax.records import Problem, ProcessRecord, TestCase
from o1coder_jax.stored import Model
from search.models import load_head
from train.data import Example
from train.ledger import LEDGER, Ledger, of_groups
from train.meter import Meter
from train.prm import score_sequences
from train.process import current
from train.rl import dpo, grpo, ppo
from train.rl.config import RLConfig
from train.rl.critic import Critic
from train.rl.lessons import Lesson, Scorers, Shape, minibatches, per_token, probabilities
from train.rl.rounds import Drawn, Group, Rater, Tests, figures, grown_groups, marks, sampled_groups
from train.run import Stage
from train.session import Session, StageName, policy_name
from train.step import Objective, Trainer


def run(session: Session, iteration: int) -> None:
    """Improves the policy after SFT; the result is the checkpoint `policy-NNN` (and PPO's critic, `critic-NNN`)."""
    config, names = session.config.rl, StageName(iteration)
    session.require(names("prm"), f"train.prm --iteration {iteration}")
    session.require("tcg", "train.tcg")
    with session.run.stage_scope(names("rl")) as stage, stage.progress(config.updates, "rounds") as bar:
        tests = read_tests(session)
        problems = [problem for problem in session.parts.selfplay if tests.get(problem.id)]
        rounds = config.updates if problems or config.stored_pairs else 0
        if not rounds:
            print(f"{names('rl')}: skipped, the test case generator wrote no test that can be used", flush=True)
        start = session.trainable(f"sft-{iteration:03d}", session.config.policy.adapter, role="policy")
        rate = rater(session, iteration)
        rng = random.Random(f"{session.config.seed} rl {iteration}")
        trainer = Trainer(
            start.graph,
            start.weights,
            objective_of(config),
            config.optimizer,
            session.mesh,
            updates=planned_updates(config),
            seed=session.config.seed + iteration,
            dropout=False,
        )
        teach, critic = teacher(session, iteration, trainer, start)
        meter, tokens, ledger = Meter(trainer), 0, Ledger.of(session, iteration)
        shape, before = Shape(config.minibatch, trainer.row_parts), rounds_before(session, iteration)
        stage.result["rounds"] = 0
        for update in range(rounds):
            t = before + update
            chosen = [] if config.stored_pairs else ledger.draw(problems, config.problems, rng)
            if not (chosen or config.stored_pairs):
                print(f"{names('rl')}: ends, the policy solves every problem too often to learn from it", flush=True)
                break
            weight = config.phi.weight(t)
            drawn = draw(session, trainer, rate, chosen, tests, weight, salt=1000 * iteration + update)
            tokens += drawn.tokens
            if drawn.groups:
                likely = [[path.log_probability for path in group] for group in drawn.groups]
                found = of_groups(chosen, marks(drawn.groups), likely, iteration)
                stage.append_shared(LEDGER, ledger.add(found))
            lesson = teach(drawn.groups, rng)
            metrics = figures(drawn) | lesson.figures
            metrics |= {"outcome_weight": weight, "sync_seconds": session.sync_seconds()}
            measured: dict[str, float | None] = {}
            if lesson.units:
                learned, measured = learn(session, trainer, meter, lesson, rng, shape)
                metrics |= learned
            stage.log(t, **metrics, **measured)
            stage.result["rounds"] += 1
            bar.advance(1, f"R {metrics['outcome']:.3f}")
        finish(session, stage, iteration, trainer, start, critic)
        stage.result |= {"problems": len(problems), "tokens_generated": tokens, "skipped": not rounds}
        stage.result |= ledger.counts(problems)
        stage.result |= session.judging.costs()


def rounds_before(session: Session, iteration: int) -> int:
    """How many rounds of RL the iterations before this one did: fewer than planned where it ended early."""
    done = session.run.results()
    earlier = [done[name] for i in range(1, iteration) if (name := StageName(i)("rl")) in done]
    # A stage of before there was this count is taken to have done all, or none.
    return sum(one.get("rounds", 0 if one["skipped"] else session.config.rl.updates) for one in earlier)


def read_tests(session: Session) -> Tests:
    """The generator's tests by problem."""
    rows = session.run.read("tests.jsonl")
    return {row["problem_id"]: tuple(TestCase(t["input"], t["output"]) for t in row["tests"]) for row in rows}


def rater(session: Session, iteration: int) -> Rater:
    """What gives steps their process rewards: the reward model, or a head on the policy's frozen states."""
    if session.config.prm.weights == "own":
        graph, weights = session.load_model(f"prm-{iteration:03d}", value_head=True)[:2]
    else:
        policy = session.load_policy(f"sft-{iteration:03d}")
        rated = load_head(session.run.checkpoint(f"prm-{iteration:03d}"), policy, session.mesh)
        graph, weights = rated.graph, rated.weights
    return lambda sequences: score_sequences(graph, weights, sequences, session.mesh)


def objective_of(config: RLConfig) -> Objective:
    """What the policy is trained on."""
    if config.algorithm == "dpo":
        return Objective.of(losses.dpo, beta=config.dpo.beta, sft_weight=config.dpo.sft_weight)
    return Objective.of(policy_gradient, clip=config.loss_clip, cispo=config.loss.cispo)


def planned_updates(config: RLConfig) -> int:
    """Gradient steps of an iteration, for the schedule of the learning rate; groups that are dropped make fewer, unless
    `rl.minibatches` holds them."""
    rows = config.problems * (2 if config.algorithm == "dpo" else config.samples)
    return config.updates * config.epochs * max(-(-rows // config.minibatch), config.minibatches)


def teacher(
    session: Session, iteration: int, trainer: Trainer, start: Model
) -> tuple[Callable[[list[Group], random.Random], Lesson], Critic | None]:
    """What makes a lesson of a round's groups, and the critic that it has."""
    config = session.config.rl

    def scores(policy: Callable[[], tuple[Any, Any]], examples: Sequence[Example]) -> list[np.ndarray]:
        return per_token(probabilities, *policy(), examples, session.mesh, rows=config.minibatch)

    def now() -> tuple[nnx.GraphDef[Any], Any]:
        return trainer.graph, trainer.weights

    policy = functools.partial(scores, now)
    scorers = Scorers(policy, functools.partial(scores, lambda: (start.graph, start.weights)))
    if config.algorithm == "grpo":
        return lambda groups, rng: grpo.lesson(groups, scorers, config), None
    if config.algorithm == "ppo":
        critic = Critic(session, iteration, now)
        return lambda groups, rng: ppo.lesson(groups, scorers, config, critic), critic
    own = Scorers(policy, None)
    if not config.stored_pairs:
        return lambda groups, rng: dpo.lesson(dpo.sampled_pairs(groups, config.dpo.margin), own), None
    records = current(ProcessRecord.from_json(row) for row in session.run.read("process.jsonl"))
    stored = dpo.StoredPairs([record for record in records if record.iteration == iteration], config.dpo)
    return lambda groups, rng: dpo.lesson(stored.draw(config.problems, rng), own), None


def draw(
    session: Session,
    trainer: Trainer,
    rate: Rater,
    problems: Sequence[Problem],
    tests: dict[str, tuple[TestCase, ...]],
    weight: float,
    *,
    salt: int,
) -> Drawn:
    """The paths of a round; DPO on pairs of the search draws none."""
    config = session.config.rl
    if config.stored_pairs:
        return Drawn([])
    weights = session.sampler(trainer.graph, trainer.weights)  # a copy, gone before the update
    policy = Policy(*weights, session.tokenizer, "", session.asking.policy)
    groups = grown_groups if config.advantages == "tree" else sampled_groups
    return groups(session, policy, rate, problems, tests, weight, salt)


def learn(
    session: Session, trainer: Trainer, meter: Meter, lesson: Lesson, rng: random.Random, shape: Shape
) -> tuple[dict[str, float], dict[str, float | None]]:
    """The updates of a round: means of their metrics, and the meter's figures."""
    config = session.config.rl
    meter.begin()
    learned = []
    parts = minibatches(lesson.units, shape, rng, epochs=config.epochs, least=config.minibatches, own=session.own_slice)
    for batch in parts:
        meter.count(batch)
        learned.append(trainer.step(batch))
    read = jax.device_get(learned)
    return {name: float(np.mean([one[name] for one in read])) for name in read[0]}, meter.read()


def finish(
    session: Session, stage: Stage, iteration: int, trainer: Trainer, start: Model, critic: Critic | None
) -> None:
    """Writes the checkpoints."""
    if critic is not None:
        stage.result["critic"] = critic.save(f"critic-{iteration:03d}")
    stage.result |= {
        "algorithm": session.config.rl.algorithm,
        "policy_updates": trainer.update,
        "skipped_updates": int(trainer.state.skipped),
        "weights": session.save_model(policy_name(iteration), trainer.weights, start),
    }
