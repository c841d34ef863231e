"""Step 5: reinforcement learning on outcome and process rewards together.

    python -m train.rl --config configs/tiny.yaml --iteration 1

For each problem the policy writes a group of whole paths; every step is scored by the PRM (r^j), the program is run on
tests whose inputs the TCG wrote and whose outputs the reference program gave (R is 1 when all pass, else 0), and
phi(R, r^1:m) is the path's reward (arXiv 2412.00154, section 3.5). The update is the clipped policy gradient
with the group's mean as baseline (GRPO): groups whose rewards are all equal are dropped, nothing is divided by a
deviation or a length. Paths that could not be checked are masked. t of a(t) counts updates across iterations.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import jax
import numpy as np
from flax import nnx

from o1coder_jax import losses
from o1coder_jax.errors import UserError
from o1coder_jax.losses import ClipConfig, group_advantages
from o1coder_jax.policy import Policy
from o1coder_jax.records import Problem, TestCase
from o1coder_jax.rewards import PhiConfig, phi
from o1coder_jax.stopping import stop_places
from o1coder_jax.stored import Model
from sandbox.pool import Submission
from search.models import load_head
from train.data import Example, example, padded_batch, round_up
from train.meter import Meter
from train.prm import score_sequences
from train.programs import Program, sample_programs
from train.session import Session, StageName, policy_name
from train.step import Objective, OptimizerConfig, Trainer, token_scores

LENGTH_BUCKET = 64


@dataclass(frozen=True)
class RLConfig:
    """Reinforcement learning.

    Attributes:
      updates: rounds of sampling and learning per iteration.
      problems, samples: of a round: so many groups of so many paths.
      minibatch: paths of a gradient step; each path is used once per epoch.
      epochs: passes over a round's paths.
      phi, clip, optimizer: see there.
    """

    updates: int = 6
    problems: int = 48
    samples: int = 8
    minibatch: int = 96
    epochs: int = 1
    phi: PhiConfig = field(default_factory=PhiConfig)
    clip: ClipConfig = field(default_factory=ClipConfig)
    optimizer: OptimizerConfig = field(
        default_factory=lambda: OptimizerConfig(learning_rate=1e-4, warmup=0, schedule="constant")
    )

    def __post_init__(self) -> None:
        for name in ("updates", "problems", "minibatch", "epochs"):
            if getattr(self, name) < 1:
                raise UserError(f"rl.{name} is {getattr(self, name)}; it must be at least 1")
        if self.samples < 2:
            raise UserError(f"rl.samples is {self.samples}; a group needs 2 at least, its mean is the baseline")


@dataclass(frozen=True)
class Round:
    """Sampled groups with their rewards.

    Attributes:
      paths: the samples, group by group.
      prompts: their prompts' token ids.
      reward: phi of each, (groups, samples).
      outcome: R of each; `process`: the discounted mean of its r^j.
      usable: False where R could not be checked.
    """

    paths: list[Program]
    prompts: list[list[int]]
    reward: np.ndarray
    outcome: np.ndarray
    process: np.ndarray
    usable: np.ndarray


def sample_round(
    session: Session,
    policy: Policy,
    judge: tuple[nnx.GraphDef[Any], Any],
    problems: Sequence[Problem],
    tests: dict[str, tuple[TestCase, ...]],
    *,
    weight: float,
    salt: int,
) -> Round:
    """Draws a group of paths for each problem and computes phi of each."""
    config = session.config.rl
    drawn = sample_programs(session, policy, problems, samples=config.samples, salt=salt)
    prompts = [prompt for prompt in session.prompts(problems) for _ in range(config.samples)]
    paths = list(itertools.chain.from_iterable(drawn))
    owners = [problem for problem in problems for _ in range(config.samples)]
    pending = session.judging.submit_all(
        [
            None
            if path.code is None
            else Submission(
                f"rl:{owner.id}", path.code, tests[owner.id], owner.fn_name, owner.compare, stop_at_failure=True
            )
            for owner, path in zip(owners, paths, strict=True)
        ]
    )
    scores = score_sequences(
        *judge, [[*prompt, *path.sample.tokens] for prompt, path in zip(prompts, paths, strict=True)], session.mesh
    )
    stops = policy.stops()
    verdicts = pending.result()
    outcome = np.array([float(v is not None and v.accepted) for v in verdicts])
    usable = np.array([v is None or v.checked for v in verdicts])
    rewards, process = [], []
    for prompt, path, score, passed in zip(prompts, paths, scores, outcome, strict=True):
        rated = [score[len(prompt) + end] for end in stop_places(stops, path.sample.tokens)]
        rewards.append(phi(passed, rated, weight=weight, gamma=config.phi.gamma))
        process.append(phi(0.0, rated, weight=0.0, gamma=config.phi.gamma))
    shape = (len(problems), config.samples)
    return Round(
        paths,
        prompts,
        np.array(rewards).reshape(shape),
        outcome.reshape(shape),
        np.array(process).reshape(shape),
        usable.reshape(shape),
    )


def round_examples(sampled: Round) -> tuple[list[Example], dict[str, float]]:
    """Examples of the groups that carry a gradient, with each path's advantage on all its tokens."""
    advantages, alive = group_advantages(sampled.reward, sampled.usable)
    width = advantages.shape[1]
    examples = []
    for index, path in enumerate(sampled.paths):
        group, member = divmod(index, width)
        if alive[group] and sampled.usable[group, member]:
            count = len(path.sample.tokens)
            examples.append(
                example(
                    sampled.prompts[index],
                    path.sample.tokens,
                    advantage=[advantages[group, member]] * count,
                    old=path.sample.log_probability,
                )
            )
    usable = sampled.usable
    return examples, {
        "reward": float(sampled.reward[usable].mean()) if usable.any() else 0.0,
        "outcome": float(sampled.outcome[usable].mean()) if usable.any() else 0.0,
        "process": float(sampled.process[usable].mean()) if usable.any() else 0.0,
        "advantage_deviation": float(advantages.std()),
        "groups_used": float(alive.mean()),
        "masked": float((~usable).sum()),
    }


def minibatches(
    session: Session, examples: list[Example], reference: Model, rng: random.Random
) -> Iterator[dict[str, np.ndarray]]:
    """This process's rows of shuffled padded batches with each token's log-probability under the reference policy."""
    config = session.config.rl
    length = round_up(max(len(e["tokens"]) for e in examples), LENGTH_BUCKET)
    own = session.own_slice(config.minibatch)
    for _ in range(config.epochs):
        rng.shuffle(examples)
        for start in range(0, len(examples), config.minibatch):
            whole = padded_batch(examples[start : start + config.minibatch], config.minibatch, length)
            batch = {name: rows[own] for name, rows in whole.items()}
            scores = token_scores(reference.graph, reference.weights, batch, session.mesh)
            yield batch | {"reference": scores}


def scorer(session: Session, iteration: int) -> tuple[nnx.GraphDef[Any], Any]:
    """What gives steps their process rewards: the reward model, or a head on the policy's frozen states."""
    if session.config.prm.weights == "own":
        return session.load_model(f"prm-{iteration:03d}", value_head=True)[:2]
    policy = session.load_policy(f"sft-{iteration:03d}")
    rated = load_head(session.run.checkpoint(f"prm-{iteration:03d}"), policy, session.mesh)
    return rated.graph, rated.weights


def run(session: Session, iteration: int) -> None:
    """Improves the policy after SFT; the result is the checkpoint `policy-NNN`."""
    config, names = session.config.rl, StageName(iteration)
    session.require(names("prm"), f"train.prm --iteration {iteration}")
    session.require("tcg", "train.tcg")
    with session.run.stage_scope(names("rl")) as stage, stage.progress(config.updates, "rounds") as bar:
        tests = {
            row["problem_id"]: tuple(TestCase(t["input"], t["output"]) for t in row["tests"])
            for row in session.run.read("tests.jsonl")
        }
        problems = [problem for problem in session.parts.selfplay if tests.get(problem.id)]
        if not problems:
            print(f"{names('rl')}: skipped, the test case generator wrote no test that can be used", flush=True)
        start = session.trainable(f"sft-{iteration:03d}", session.config.policy.adapter, role="policy")
        judge = scorer(session, iteration)
        rng = random.Random(f"{session.config.seed} rl {iteration}")
        steps = config.updates * config.epochs * -(-config.problems * config.samples // config.minibatch)
        objective = Objective.of(losses.policy_gradient, clip=config.clip)
        trainer = Trainer(
            start.graph,
            start.weights,
            objective,
            config.optimizer,
            session.mesh,
            updates=steps,
            seed=session.config.seed + iteration,
        )
        meter, tokens = Meter(trainer), 0
        for update in range(config.updates if problems else 0):
            t = (iteration - 1) * config.updates + update
            policy = Policy(*session.sampler(trainer.graph, trainer.weights), session.tokenizer, "")
            chosen = rng.sample(problems, min(config.problems, len(problems)))
            weight = config.phi.weight(t)
            sampled = sample_round(session, policy, judge, chosen, tests, weight=weight, salt=1000 * iteration + update)
            del policy  # and with it a copy of the weights, before the update
            tokens += sum(len(path.sample.tokens) for path in sampled.paths)
            examples, metrics = round_examples(sampled)
            metrics |= {"outcome_weight": weight, "sync_seconds": session.sync_seconds()}
            measured: dict[str, float | None] = {}
            if examples:
                meter.begin()
                learned = []
                for batch in minibatches(session, examples, start, rng):
                    meter.count(batch)
                    learned.append(trainer.step(batch))
                metrics |= {k: float(np.mean([float(m[k]) for m in jax.device_get(learned)])) for k in learned[0]}
                measured = meter.read()
            stage.log(t, **metrics, **measured)
            bar.advance(1, f"R {metrics['outcome']:.3f}")
        stage.result |= {
            "problems": len(problems),
            "tokens_generated": tokens,
            "skipped": not problems,
            "policy_updates": trainer.update,
            "skipped_updates": int(trainer.state.skipped),
            "weights": session.save_model(policy_name(iteration), trainer.weights, start),
        }
        stage.result |= session.judging.costs()


if __name__ == "__main__":
    from train.command import stage_command

    stage_command(run, "rl", __doc__)
