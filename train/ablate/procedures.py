"""What a cell does with its starting point. Each procedure takes an open session and returns points, the last of which
is what the cell came to; all of it are stages of the cell's run, so that a cell that was stopped goes on.
"""

from __future__ import annotations

import contextlib
import os
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from o1coder_jax.errors import UserError
from o1coder_jax.problems.curriculum.task import task_of
from o1coder_jax.problems.curriculum.values import random_input
from o1coder_jax.records import TestCase
from train import prm_judge, rl
from train.ablate.coins import judged_by_coins
from train.ablate.points import Point, costs_of, measured
from train.ablate.searches import search
from train.prm_judge import FIGURES, JudgeConfig
from train.rivals.budget import Budget, spent
from train.rivals.compare import train as train_rival
from train.run import finished_stages
from train.selfplay import round_stages
from train.session import Session, StageName, policy_name
from train.tcg.answers import reward_tests
from train.tcg.measures import Field
from train.tcg.measures import measure as measure_generator
from train.trained import Trained


@dataclass(frozen=True)
class Task:
    """What a procedure is told.

    Attributes:
      options: of the cell.
      samples: of a policy's last measurement, on the first `sampled_problems` held-out problems (0: on all).
      spent: costs of the cell that this one shall be equal to; `outcomes` are its last points' (for searches).
    """

    options: dict[str, Any]
    samples: int
    sampled_problems: int = 0
    spent: dict[str, float] | None = None
    outcomes: Sequence[dict[str, Any]] = ()

    def option(self, name: str, default: Any, known: Sequence[Any] = ()) -> Any:
        """An option; refuses a value that is not among the known ones."""
        value = self.options.get(name, default)
        if known and value not in known:
            raise UserError(f"options.{name} is {value!r}; choose one of {', '.join(map(str, known))}")
        return value

    def end(self, session: Session, checkpoint: str, costs: dict[str, float]) -> Point:
        """The last point of a cell: the policy that it came to."""
        return measured(session, "end", checkpoint, costs, samples=self.samples, sampled_problems=self.sampled_problems)

    def check(self, *names: str) -> None:
        """Refuses options that the procedure does not have."""
        if unknown := [name for name in self.options if name not in names]:
            raise UserError(f"options: unknown key {unknown[0]}; known here: {', '.join(names) or 'none'}")


def loop(session: Session, task: Task) -> list[Point]:
    """The loop from its starting point to its last round; its best round on validation is what it comes to.

    Options: `judge` (`sandbox`, or `coins` with `share` of programs that pass).
    """
    task.check("judge", "share")
    points: list[Point] = []
    for i in range(1, session.config.iterations + 1):
        with _judge(session, task):
            for name, _, run in round_stages(session.config, i):
                _once(session, StageName(i)(name), run, i)
        points.append(measured(session, f"round {i}", policy_name(i), costs_of(_spent(session, i))))
    best = max(range(len(points)), key=lambda i: (points[i].validation or 0.0, i))
    costs = points[-1].costs
    return [*points, task.end(session, policy_name(best + 1), costs)]


def rival(session: Session, task: Task) -> list[Point]:
    """A rival of the loop at the costs of the cell `equal_to`. Options: `rival`, its name."""
    task.check("rival")
    name = task.option("rival", "rejection", ("continued", "filtered", "rejection", "random", "one_shot"))
    if task.spent is None:
        raise UserError("a rival needs equal_to, the cell whose tokens and updates it may spend")
    budget = Budget(
        int(task.spent["tokens"]),
        int(task.spent["executions"]),
        int(task.spent["updates"]),
        session.config.iterations,
        task.spent["seconds"],
    )
    if session.run.stage("rival") is None:
        with session.run.stage_scope("rival") as stage:
            train_rival(session, stage, name, budget, name)
            stage.result["spent"]["executions"] = session.judging.costs()["executions"]
    result = session.require("rival", "train.ablate")
    seconds = _seconds(session)["rival"]
    points = [
        measured(
            session,
            f"round {number}",
            one["checkpoint"],
            {"tokens": one["tokens"], "executions": 0, "updates": one["updates"], "seconds": 0},
        )
        for number, one in enumerate(result.get("rounds", ()), 1)
    ]
    costs = {**result["spent"], "seconds": seconds}
    return [*points, task.end(session, name, costs)]


def reinforce(session: Session, task: Task) -> list[Point]:
    """RL alone, from the policy that the first fine-tuning made.

    Options: `tests` of its reward (`generated`, `sft` by the generator before DPO, `random` inputs, as many as were
    generated); `judge` and `share` as for the loop.
    """
    task.check("tests", "judge", "share")
    tests = task.option("tests", "generated", ("generated", "sft", "random"))
    if tests != "generated" and session.run.stage("other-tests") is None:
        with session.run.stage_scope("other-tests") as stage:  # later rows of a problem take the place of earlier ones
            stage.append_shared("tests.jsonl", random_tests(session) if tests == "random" else sft_tests(session))
            session.judging.costs()
    with _judge(session, task):
        _once(session, "001-rl", rl.run, 1)
    result = session.require("001-rl", "train.rl --iteration 1")
    budget = Budget(
        result["tokens_generated"], result["executions"], result["policy_updates"], 1, _seconds(session)["001-rl"]
    )
    return [task.end(session, policy_name(1), costs_of(budget))]


def measure(session: Session, task: Task) -> list[Point]:
    """Measures what the starting point has. Options: `checkpoint`, by default the base."""
    task.check("checkpoint")
    name = task.option("checkpoint", policy_name(0))
    return [task.end(session, name, costs_of(Budget(0, 0, 0, 0)))]


def methods(session: Session, task: Task) -> list[Point]:
    """A method of search at several budgets; see `train/ablate/searches.py`."""
    task.check("policy", "prm", "rater", "rollouts", "count")
    return search(
        session,
        policy=task.option("policy", "sft-001"),
        prm=task.option("prm", None),
        rater=task.option("rater", "prm", ("prm", "oracle", "shuffled")),
        rollouts=task.option("rollouts", [2, 4, 8, 16]),
        count=task.option("count", 100),
        equal=task.outcomes,
    )


def reward_model(session: Session, task: Task) -> list[Point]:
    """A reward model of the starting point against fresh continuations; see `train/prm_judge.py`.

    Options: `prm`, the checkpoint; `continuations` of each step. The figures are those of steps that are not terminal.
    """
    task.check("prm", "continuations")
    name = task.option("prm", "prm-001")
    if session.run.stage("judged-prm") is None:
        with session.run.stage_scope("judged-prm") as stage:
            folder = session.run.folder
            config = JudgeConfig(os.fspath(folder), name, continuations=task.option("continuations", 16))
            trained = Trained(folder, session.config, session.tokenizer, session.mesh)
            found, _ = prm_judge.figures(config, trained, folder / "judged")
            stage.result["figures"] = {name: found["non_terminal"].get(name) for name in FIGURES}
    found = session.require("judged-prm", "train.ablate")["figures"]
    return [Point("end", costs_of(Budget(0, 0, 0, 0)), figures=_known(found))]


def generator(session: Session, task: Task) -> list[Point]:
    """The test case generator of the starting point, measured as its stage does it.

    Options: `checkpoint`, which is `tcg`, `tcg-sft` (before DPO) or `random`: random inputs with true outputs instead.
    The costs of `tcg` are those of the base and the whole stage, the others have none.
    """
    task.check("checkpoint")
    name = task.option("checkpoint", "tcg", ("tcg", "tcg-sft", "random"))
    stage_name = f"judged-{name}"
    if session.run.stage(stage_name) is None:
        with session.run.stage_scope(stage_name) as stage:
            judged = Field.of(session)
            if name == "random":
                killed = judged.killed(session, judged.random_suites)
                stage.result |= {"figures": {"kill_rate": killed.rate}, "shares": {"kill_rate": vars(killed)}}
            else:
                graph, weights, _ = session.load_model(name)
                found = measure_generator(session, session.sampler(graph, weights)[1], judged)
                shares = {"validity": vars(found.validity), "kill_rate": vars(found.killed)}
                stage.result |= {"figures": found.figures, "shares": shares}
    result = session.require(stage_name, "train.ablate")
    return [Point("end", costs_of(_learned(session, name)), figures=_known(result["figures"]), shares=result["shares"])]


def _learned(session: Session, generator: str) -> Budget:
    """What the base and the generator's whole stage took; nothing for random inputs, or before the stage is over."""
    if generator != "tcg":
        return Budget(0, 0, 0, 0)
    config, found, seconds = session.config.tcg, session.require("tcg", "train.tcg"), _seconds(session)
    updates = config.sft_updates + (config.dpo_updates if found.get("pairs") else 0)
    return Budget(found["tokens_generated"], found["executions"], updates, 0, seconds["bootstrap"] + seconds["tcg"])


def _known(found: dict[str, Any]) -> dict[str, float]:
    return {name: float(value) for name, value in found.items() if value is not None}


PROCEDURES: dict[str, Callable[[Session, Task], list[Point]]] = {
    "loop": loop,
    "rival": rival,
    "rl": reinforce,
    "measure": measure,
    "search": methods,
    "prm": reward_model,
    "tcg": generator,
}


def random_tests(session: Session) -> list[dict[str, Any]]:
    """For each problem as many random inputs as it has generated tests, with the outputs of the reference program."""
    counts = {row["problem_id"]: len(row["tests"]) for row in session.run.read("tests.jsonl")}
    rng = random.Random(f"{session.config.seed} random inputs")
    problems = [problem for problem in session.parts.selfplay if counts.get(problem.id)]
    inputs = []
    for problem in problems:
        one = task_of(problem)
        values = [random_input(one.kinds[0], rng) for _ in range(counts[problem.id])]
        inputs.append(
            [one.case(value, output).input for value, output in zip(values, one.outputs(values), strict=True)]
        )
    work = [(problem.solutions[0], given, problem.fn_name) for problem, given in zip(problems, inputs, strict=True)]
    rows = []
    for problem, given, ran in zip(problems, inputs, session.judging.outputs_all(work), strict=True):
        cases = [
            TestCase(one, value).to_json()
            for one, (result, value) in zip(given, ran, strict=True)
            if result.verdict == "accepted"
        ]
        rows.append({"problem_id": problem.id, "tests": cases, "malformed": 0})
    return rows


def sft_tests(session: Session) -> list[dict[str, Any]]:
    """Tests for RL by the generator as it was before DPO."""
    graph, weights, _ = session.load_model("tcg-sft")
    _, sampler = session.sampler(graph, weights)
    return reward_tests(session, sampler, session.parts.selfplay)[0]


def _judge(session: Session, task: Task) -> contextlib.AbstractContextManager[None]:
    if task.option("judge", "sandbox", ("sandbox", "coins")) == "sandbox":
        return contextlib.nullcontext()
    return judged_by_coins(session, task.option("share", 0.15))


def _once(session: Session, stage: str, run: Callable[..., None], *arguments: int) -> None:
    if session.run.stage(stage) is None:
        run(session, *arguments)
        session.release()


def _seconds(session: Session) -> dict[str, float]:
    return {stage.name: stage.seconds for stage in finished_stages(session.run.folder)}


def _spent(session: Session, rounds: int) -> Budget:
    return spent(session.run.results(), _seconds(session), rounds)
