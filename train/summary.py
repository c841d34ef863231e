"""What a run came to: `summary.json`, and the table that is printed after each iteration."""

from __future__ import annotations

from typing import Any

from o1coder_jax.problems.curriculum import teacher_accuracy
from train import tables
from train.best import best_round
from train.bootstrap import teacher_of
from train.environment import describe
from train.run import finished_stages
from train.session import Session, StageName
from train.stopping import reason_to_stop
from train.tcg.measures import REPORTED, REPORTED_AGAIN

EVALUATED = (
    "pass_at_1_greedy",
    "pass_at_1_sampled",
    "by_operations",
    "reward_test_gap",
    "validation_greedy",
    "aspr",
    "hard",
)


def summarise(session: Session) -> dict[str, Any]:
    """Everything that the finished stages measured, in one tree of JSON values."""
    results = session.run.results()
    config = session.config
    rounds = [i for i in range(1, config.iterations + 1) if StageName(i)("evaluate") in results]
    evaluations = [results["000-evaluate"], *(results[StageName(i)("evaluate")] for i in rounds)]
    best = best_round(session) or 0
    tcg = results.get("tcg", {})
    curriculum = config.problems.source == "curriculum"
    rivals = results.get(StageName(rounds[-1])("rivals")) if rounds else None
    return {
        "name": config.name,
        "seed": config.seed,
        "base": _evaluated(evaluations[0]),
        "iterations": [_iteration(results, i) for i in rounds],
        "best_iteration": best,
        "stopped": _stopped(session, rounds),
        "teacher_greedy": teacher_accuracy(session.parts.heldout, teacher_of(session)) if curriculum else None,
        "cure_rate": results[StageName(best)("evaluate")]["cure_rate"],
        "tcg": {name: tcg.get(name) for name in REPORTED},
        "prm": _prm(results, rounds[-1]) if rounds else None,
        "problems": results["problems"],
        "tokens_generated": sum(result.get("tokens_generated", 0) for result in results.values()),
        "executions": sum(result.get("executions", 0) for result in results.values()),
        "infra_errors": sum(result.get("infra_errors", 0) for result in results.values()),
        "cache_hit_rate": _cache_hit_rate(results),
        "seconds": _seconds(session),
        "isolation": session.pool.isolation,
        "versions": describe(),
        **({"rivals": rivals} if rivals else {}),
    }


def _stopped(session: Session, rounds: list[int]) -> str | None:
    """Why there are fewer rounds than `iterations`; None if there are not."""
    if not rounds or rounds[-1] >= session.config.iterations:
        return None
    return reason_to_stop(session.config.stopping, finished_stages(session.run.folder), rounds[-1] + 1) or None


def _cache_hit_rate(results: dict[str, dict[str, Any]]) -> float | None:
    """The share of tests that the sandbox remembered; lower in a run that was killed, whose sandbox forgot."""
    lookups = sum(result.get("cache_lookups", 0) for result in results.values())
    return sum(result.get("cache_hits", 0) for result in results.values()) / lookups if lookups else None


def _evaluated(result: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in result.items() if name in EVALUATED or name.startswith("pass_at_")}


def _prm(results: dict[str, dict[str, Any]], iteration: int) -> dict[str, Any]:
    prm = results[StageName(iteration)("prm")]
    found = {name: prm[name] for name in ("auc", "log_loss", "accuracy")}
    judged = {name: prm[name]["non_terminal"] for name in ("by_tree", "by_continuations") if name in prm}
    return found | {f"{name}_non_terminal": figures for name, figures in judged.items()}


def _iteration(results: dict[str, dict[str, Any]], iteration: int) -> dict[str, Any]:
    names = StageName(iteration)
    search, again = results[names("search")], results.get(names("coevolve"))
    learned = {"tcg": {name: again.get(name) for name in REPORTED_AGAIN}} if again else {}
    return _evaluated(results[names("evaluate")]) | {
        "iteration": iteration,
        "solved_by_search": search["solved_by_search"],
        "problems": search["trees"],
        "process_records": search["process_records"],
        "well_formed": search["well_formed"],
        "sft_paths": results[names("sft")]["paths"],
        "prm": _prm(results, iteration),
        **learned,
    }


def _seconds(session: Session) -> dict[str, float]:
    stages = {stage.name: stage.seconds for stage in finished_stages(session.run.folder)}
    return stages | {"total": round(sum(stages.values()), 3)}


def print_table(summary: dict[str, Any]) -> None:
    """One row for the base and one for each iteration."""
    lines = []
    for name, row in [("base", summary["base"]), *((str(r["iteration"]), r) for r in summary["iterations"])]:
        at_k = [v for k, v in row.items() if k.startswith("pass_at_") and not k.startswith("pass_at_1_")]
        cells = (
            row["pass_at_1_greedy"],
            row["pass_at_1_sampled"],
            at_k[-1] if at_k else None,
            row["validation_greedy"],
            row["aspr"]["rate"],
            row["reward_test_gap"],
            row.get("solved_by_search"),
            (row.get("prm") or {}).get("auc"),
        )
        lines.append([name, *("-" if cell is None else f"{cell:.3f}" for cell in cells)])
    head = ["", "greedy", "sampled", "pass@k", "validation", "ASPR", "gap", "search", "PRM AUC"]
    tables.print_table(f"{summary['name']}: held-out problems", head, lines)
