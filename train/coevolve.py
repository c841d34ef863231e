"""Step 1 again, before each round after the first: the generator meets the programs that the policy writes by now.

    python -m train.coevolve --config configs/tiny.yaml --config configs/coevolve.yaml --name coevolve --iteration 2

Only with `tcg.coevolve`. The better the policy, the subtler its mistakes: of several answers of the generator to a
problem, the one whose valid tests reject most of the policy's wrong programs is preferred (`train/tcg/preferences.py`).
The result is the checkpoint `tcg-NNN`, and new rows of `tests.jsonl`, which take the place of the earlier ones: RL is
judged by them, and with `labels.tests: all` the searches, whose earlier trees `labels.relabel` judges again. Where
`validity` and `kill_rate` have both fallen, the generator is not kept: the checkpoint is that of before, and so are the
tests.
"""

from __future__ import annotations

import random
from collections.abc import Mapping

from o1coder_jax.errors import UserError
from train.session import Session, StageName, policy_name, policy_stage
from train.tcg.answers import reward_tests
from train.tcg.measures import Field, measure
from train.tcg.preferences import coevolution_pairs
from train.tcg.stage import fitting_pairs, preferring, taught_problems

JUDGED_BY = ("validity", "kill_rate")  # a generator that falls in both is not kept


def generator_name(iteration: int) -> str:
    """The generator's checkpoint in a round."""
    return "tcg" if iteration == 1 else f"tcg-{iteration:03d}"


def got_worse(before: Mapping[str, float | None], after: Mapping[str, float | None]) -> bool:
    """Whether all of `JUDGED_BY` have fallen; a figure that is not known has not."""
    pairs = [(before[name], after[name]) for name in JUDGED_BY]
    return all(old is not None and new is not None and new < old for old, new in pairs)


def run(session: Session, iteration: int) -> None:
    """Prefers tests that reject the wrong programs of the policy of the round before, and writes RL's tests anew."""
    config, names = session.config.tcg, StageName(iteration)
    if not config.coevolve:
        raise UserError("tcg.coevolve is 0: the generator stays as step 1 made it; give a number of problems")
    if iteration < 2:
        raise UserError("--iteration is 1, whose generator is that of train.tcg; rounds from 2 on make another")
    if iteration > 2:
        session.require(StageName(iteration - 1)("coevolve"), f"train.coevolve --iteration {iteration - 1}")
    session.require(*policy_stage(iteration - 1))
    with session.run.stage_scope(names("coevolve")) as stage:
        policy = policy_name(iteration - 1)
        rng = random.Random(f"{session.config.seed} coevolve {iteration}")
        start = session.trainable(generator_name(iteration - 1), config.adapter, role="tcg")
        _, sampler = session.sampler(start.graph, start.weights)
        field = Field.of(session, policy)
        before = measure(session, sampler, field)

        problems = taught_problems(session)
        chosen = rng.sample(problems, min(config.coevolve, len(problems)))
        found, tokens = coevolution_pairs(session, sampler, chosen, policy)
        pairs = fitting_pairs(found, config.batch.length)
        weights, after = start.weights, before
        if pairs:
            weights = preferring(session, stage, start, start.weights, pairs)
            _, sampler = session.sampler(start.graph, weights)
            after = measure(session, sampler, field)
            tokens += after.tokens
        worse = got_worse(before.figures, after.figures)
        old = worse or not pairs
        stage.result["kept"] = "old" if old else "new"
        stage.result["weights"] = session.save_model(
            generator_name(iteration), start.weights if old else weights, start
        )
        rows, last = ([], 0) if old else reward_tests(session, sampler, session.parts.selfplay)
        stage.append_shared("tests.jsonl", rows)
        stage.result |= {f"{name}_before": value for name, value in before.figures.items()} | after.figures
        stage.result |= {
            "pairs": len(pairs),
            "kill_rate_random": field.killed(session, field.random_suites).rate,
            "wrong_programs": sum(map(len, field.wrong)),
            "problems_with_tests": None if old else sum(bool(row["tests"]) for row in rows),
            "tokens_generated": field.tokens + before.tokens + tokens + last,
        }
        stage.result |= session.judging.costs()
        if worse:
            told = [f"{name} {before.figures[name]:.3f} -> {after.figures[name]:.3f}" for name in JUDGED_BY]
            print(f"{names('coevolve')}: the generator and its tests stay as they were, {', '.join(told)}", flush=True)
        stage.log(config.dpo_updates, sync_seconds=session.sync_seconds())


if __name__ == "__main__":
    from train.command import stage_command

    stage_command(run, "coevolve", __doc__)
