"""The loop against its rivals, from the same base and at equal tokens: stages of the run, and the table at its end.

    python -m train.rivals --config configs/tiny.yaml --rivals.run '[continued, rejection]'

Each rival is a stage `NNN-rival-NAME` with the checkpoint `NAME-NNN`, NNN being the rounds that the loop has done. The
stage `NNN-rivals` measures all of them. Nothing of the loop is changed. How each problem fared stands in `fared.jsonl`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from o1coder_jax.errors import UserError
from o1coder_jax.significance import difference
from train.best import BEST, keep_best
from train.fared import Fared, fared
from train.rivals.budget import Budget, rounds_done, spent
from train.rivals.config import Rival
from train.rivals.rejection import rejection
from train.rivals.teaching import continued, filtered
from train.run import Stage, finished_stages
from train.run_files import read_json
from train.session import Session, StageName, policy_name
from train.tables import print_table

FARED = "fared.jsonl"  # in a run folder
LOOP = "loop"
PASS_AT = (1, 8, 64)


def run(session: Session) -> None:
    """Trains and measures what is not yet; adds the comparison to the summary and prints it."""
    rounds = rounds_done(session)
    names = StageName(rounds)
    if not rounds:
        session.require(StageName(1)("evaluate"), "train.selfplay")
    seconds = {stage.name: stage.seconds for stage in finished_stages(session.run.folder)}
    budget = spent(session.run.results(), seconds, rounds)
    measured = session.run.stage(names("rivals"))
    if measured is not None and not {*session.config.rivals.run} <= {*measured["policies"]}:
        done = list(session.run.results())
        if later := done[done.index(names("rivals")) + 1 :]:
            raise UserError(
                f"{names('rivals')} lacks a rival that is named now; to measure again would forget {', '.join(later)}; "
                "finish the round that was begun, or ask for all rounds that are done (iterations), or for the rivals "
                "that were measured (rivals.run)"
            )
        session.run.rewind(names("rivals"))
    for rival in session.config.rivals.run:
        stage_name = names(f"rival-{rival}")
        if session.run.stage(stage_name) is None:
            print(f"\n{stage_name}: {budget.tokens} tokens, {budget.updates} updates", flush=True)
            with session.run.stage_scope(stage_name) as stage:
                train(session, stage, rival, budget, f"{rival}-{rounds:03d}")
                stage.result["spent"]["executions"] = session.judging.costs()["executions"]
            session.release()
    if session.run.stage(names("rivals")) is None:
        print(f"\n{names('rivals')}: the loop and its rivals, measured", flush=True)
        keep_best(session)
        with session.run.stage_scope(names("rivals")) as stage:
            stage.result |= measure(session, stage, budget, rounds)
        session.release()
    result = session.run.stage(names("rivals")) or {}
    path = session.run.folder / "summary.json"
    if path.exists():
        session.run.write_summary(read_json(path) | {"rivals": result})
    if session.first:
        print_tables(session.config.name, result)


def train(session: Session, stage: Stage, rival: Rival, budget: Budget, name: str) -> None:
    """Makes a rival's policy, the checkpoint of this name."""
    if rival == "continued":
        continued(session, stage, budget, name)
    elif rival == "filtered":
        filtered(session, stage, budget, name)
    else:
        rounds = 1 if rival == "one_shot" else budget.rounds
        shared = Budget(budget.tokens, budget.executions, budget.updates, rounds)
        rejection(session, stage, shared, name, keep_right=rival != "random")


def measure(session: Session, stage: Stage, budget: Budget, rounds: int) -> dict[str, Any]:
    """Figures of the base, the rivals and the loop (its best round on validation), and differences to the loop."""
    config = session.config.rivals
    seconds = {one.name: one.seconds for one in finished_stages(session.run.folder)}
    names = StageName(rounds)
    costs: dict[str, Budget] = {"base": Budget(0, 0, 0, 0)}
    for rival in config.run:
        name = names(f"rival-{rival}")
        costs[rival] = Budget(**session.require(name, "train.rivals")["spent"], rounds=rounds, seconds=seconds[name])
    costs[LOOP] = budget
    checkpoints = {"base": policy_name(0), LOOP: BEST} | {rival: f"{rival}-{rounds:03d}" for rival in config.run}
    found: dict[str, Fared] = {}
    with stage.progress(len(costs), "policies") as bar:
        for name in costs:
            policy = session.load_policy(checkpoints[name])
            found[name] = fared(session, policy, session.parts.heldout, samples=config.samples, sampled=config.problems)
            stage.append_shared(FARED, [{"policy": name, **found[name].to_json()}])
            bar.advance()
    rows = {name: row(found[name], costs[name], config.samples) for name in costs}
    against = {
        name: differences(found[LOOP], found[name], config.samples, session.config.seed, config.resamples)
        for name in costs
        if name != LOOP
    }
    session.judging.costs()  # begins to count anew
    return {
        "policies": rows,
        "loop_against": against,
        "sampled_problems": min(config.problems, len(found[LOOP].greedy)),
    }


def measures(samples: int) -> list[str]:
    """What so many samples allow to estimate."""
    return ["greedy", *(f"pass@{k}" for k in PASS_AT if k <= samples)]


def row(one: Fared, cost: Budget, samples: int) -> dict[str, Any]:
    """The figures of a policy."""
    rates = {measure: one.rate(measure) for measure in measures(samples)}
    spending = {"tokens": cost.tokens, "executions": cost.executions, "updates": cost.updates, "seconds": cost.seconds}
    return {**spending, **rates, "gap": one.gap, "cured": list(one.cured), "cure_rate": one.cure_rate}


def differences(loop: Fared, other: Fared, samples: int, seed: int, resamples: int) -> dict[str, dict[str, Any]]:
    """The loop minus another policy by measure, paired by problem; those that one of them could not check are left
    out."""
    found = {}
    for measure in measures(samples):
        values = loop.marks(measure) - other.marks(measure)
        values = values[~np.isnan(values)]
        if len(values):
            one = difference([values], seed=seed, resamples=resamples)
            found[measure] = {"mean": one.mean, "interval": list(one.interval), "p": one.p, "problems": len(values)}
    return found


def print_tables(name: str, result: dict[str, Any]) -> None:
    """The policies, the differences, and what became of each misconception."""
    rows: dict[str, dict[str, Any]] = result["policies"]
    rates = [key for key in next(iter(rows.values())) if key == "greedy" or key.startswith("pass@")]
    head = ["", "tokens", "executions", "updates", "seconds", *rates, "gap", "cured"]
    title = f"{name}: held-out problems, samples on the first {result['sampled_problems']}"
    lines = [
        [
            policy,
            *(f"{row[key]:.0f}" for key in ("tokens", "executions", "updates", "seconds")),
            *(_text(row[key]) for key in (*rates, "gap")),
            "{}/{}".format(*row["cured"]),
        ]
        for policy, row in rows.items()
    ]
    print_table(title, head, lines)
    lines = [
        [f"loop - {other}", *(_difference(by.get(measure)) for measure in rates)]
        for other, by in result["loop_against"].items()
    ]
    print_table("differences [95 %, problems resampled]", ["", *rates], lines)
    for other, by in result["loop_against"].items():
        print(f"the loop against {other}: {verdict(by)}", flush=True)
    habits = list(rows["base"]["cure_rate"])
    if habits:
        lines = [
            [
                habit,
                str(rows["base"]["cure_rate"][habit]["problems"]),
                *(_text(_rate(row, habit)) for row in rows.values()),
            ]
            for habit in habits
        ]
        print_table("problems that carry a misconception, share solved", ["", "problems", *rows], lines)


def verdict(by: dict[str, dict[str, Any]]) -> str:
    """Whether more is solved by the first answer, greedy or sampled, and whether more can be solved at all.

    The policy is sharpened where the first answer is better alone, extended where the most answers are better, too, and
    narrowed where they are worse.
    """
    most = next(reversed(by), "")
    found = {name: _compared(by[name]["interval"]) for name in dict.fromkeys(("greedy", "pass@1", most)) if name in by}
    words = [f"{name} {found[name]}" for name in found]
    if most not in ("", "greedy", "pass@1") and "better" in (found.get("greedy"), found.get("pass@1")):
        words.append({"better": "extended", "worse": "sharpened, and narrowed"}.get(found[most], "sharpened"))
    return ", ".join(words)


def _compared(interval: Sequence[float]) -> str:
    low, high = interval
    return "better" if low > 0 else "worse" if high < 0 else "no clear difference"


def _rate(row: dict[str, Any], habit: str) -> float | None:
    found = row["cure_rate"].get(habit)
    return None if found is None else found["rate"]


def _difference(found: dict[str, Any] | None) -> str:
    if found is None:
        return "-"
    low, high = found["interval"]
    return f"{found['mean']:+.3f} [{low:+.3f}, {high:+.3f}]"


def _text(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"
