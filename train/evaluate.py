"""Measures a policy on problems that steer nothing.

    python -m train.evaluate --config configs/tiny.yaml --iteration 1

A program counts as right when it passes the hidden tests of its problem. Validation decides which policy is kept;
held-out problems are read once per iteration.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from o1coder_jax.errors import UserError
from o1coder_jax.estimates import mean, pass_at_k
from o1coder_jax.policy import Policy
from o1coder_jax.records import Judgement, Problem, ProcessRecord
from o1coder_jax.steps import END, STEP_END, parse_step, split_path
from o1coder_jax.stopping import stop_places
from train.best import keep_best
from train.programs import Program, sample_programs
from train.session import Session, StageName, policy_name, policy_stage

GREEDY, SAMPLED, ASPR, HARD = 1, 2, 3, 4  # salts of the draws


@dataclass(frozen=True)
class EvaluateConfig:
    """What is measured.

    Attributes:
      samples: per problem, for sampled pass@1 and pass@k with k up to it; `sampled_problems`: held-out problems that
        are sampled, the first so many; 0: all.
      aspr_samples: fresh code steps per path; `aspr_problems`: problems that ASPR is measured on.
      hard_samples: a self-play problem that so many samples of the base do not solve is hard; 0 skips this.
      hard_problems: self-play problems that are looked at for hard ones, the first so many.
    """

    samples: int = 8
    sampled_problems: int = 0
    aspr_samples: int = 8
    aspr_problems: int = 200
    hard_samples: int = 32
    hard_problems: int = 300

    def __post_init__(self) -> None:
        for name in ("samples", "aspr_samples"):
            if getattr(self, name) < 1:
                raise UserError(f"evaluate.{name} is {getattr(self, name)}; it must be at least 1")
        for name in ("sampled_problems", "aspr_problems", "hard_samples", "hard_problems"):
            if getattr(self, name) < 0:
                raise UserError(f"evaluate.{name} is {getattr(self, name)}; it must not be negative")


def solved(judgement: Judgement | None) -> float | None:
    """1 or 0; None when it could not be checked. No program is not solved."""
    if judgement is None:
        return 0.0
    return float(judgement.accepted) if judgement.checked else None


def known(values: Sequence[float | None]) -> list[float]:
    return [value for value in values if value is not None]


@dataclass(frozen=True)
class Marks:
    """How each problem's samples fared: per problem and sample 1, 0 or None (could not be checked).

    `own` is empty where the own tests were not asked.
    """

    problems: Sequence[Problem]
    programs: list[list[Program]]
    hidden: list[list[float | None]]
    own: list[list[float | None]]

    def pass_at(self, k: int, problems: Sequence[int] | None = None) -> float | None:
        """Mean pass@k over the problems (all when None) with at least k checked samples."""
        chosen = range(len(self.hidden)) if problems is None else problems
        marks = [known(self.hidden[i]) for i in chosen]
        return mean([pass_at_k(len(m), int(sum(m)), k) for m in marks if len(m) >= k])

    @property
    def gap(self) -> float | None:
        """Pass rate on the own tests minus that on the hidden ones: what passes only because it was looked at."""
        own, hidden = (known(list(itertools.chain.from_iterable(rows))) for rows in (self.own, self.hidden))
        return sum(own) / len(own) - sum(hidden) / len(hidden) if own and hidden else None


def mark(
    session: Session, policy: Policy, problems: Sequence[Problem], *, samples: int, greedy: bool, own: bool = True
) -> Marks:
    """Samples programs and judges each on hidden tests, with `own` on the problems' own, too."""
    programs = sample_programs(
        session,
        policy,
        problems,
        samples=samples,
        salt=GREEDY if greedy else SAMPLED,
        temperature=0.0 if greedy else 1.0,
    )
    pairs = [(problem, one.code) for problem, drawn in zip(problems, programs, strict=True) for one in drawn]

    def rows(hidden: bool) -> list[list[float | None]]:
        flat = [solved(judgement) for judgement in session.judge_all(pairs, hidden=hidden)]
        return [flat[i : i + samples] for i in range(0, len(flat), samples)]

    return Marks(problems, programs, rows(hidden=True), rows(hidden=False) if own else [])


def by_difficulty(problems: Sequence[Problem]) -> dict[str, list[int]]:
    """Indices of the problems of each difficulty (for the curriculum: its number of operations)."""
    groups: dict[str, list[int]] = {}
    for index, problem in enumerate(problems):
        groups.setdefault(problem.difficulty or "unknown", []).append(index)
    return dict(sorted(groups.items()))


def aspr(session: Session, policy: Policy, prefixes: Sequence[tuple[Problem, list[int]]]) -> dict[str, Any]:
    """Average success rate of the last step (arXiv 2412.00154, section 4): fresh code steps after given prefixes.

    Args:
      prefixes: a problem, and the token ids of its prompt and of all steps but the last; several per problem.

    Returns:
      `rate`: mean over a problem's paths, then over problems; `problems`: how many there were.
    """
    drawn = session.generate(
        policy.weights, [ids for _, ids in prefixes], samples=session.config.evaluate.aspr_samples, salt=ASPR
    )
    pairs = []
    for (problem, _), samples in zip(prefixes, drawn, strict=True):
        for sample in samples:
            step = parse_step(session.tokenizer.decode(sample.tokens))
            pairs.append((problem, step.code if sample.ended else None))
    marks = [solved(judgement) for judgement in session.judge_all(pairs, hidden=True)]
    width = session.config.evaluate.aspr_samples
    rates: dict[str, list[float]] = {}
    for place, (problem, _) in enumerate(prefixes):
        rate = mean(known(marks[place * width : (place + 1) * width]))
        if rate is not None:
            rates.setdefault(problem.id, []).append(rate)
    return {"rate": mean([sum(r) / len(r) for r in rates.values()]), "problems": len(rates)}


def accepted_prefixes(session: Session, marks: Marks) -> list[tuple[Problem, list[int]]]:
    """The parents of accepted terminals among the samples, each once."""
    stops = session.tokenizer.stops((STEP_END, END))
    out: dict[tuple[str, tuple[int, ...]], tuple[Problem, list[int]]] = {}
    prompts = session.prompts(marks.problems)
    for problem, prompt, drawn, fared in zip(marks.problems, prompts, marks.programs, marks.hidden, strict=True):
        for program, passed in zip(drawn, fared, strict=True):
            if passed:
                tokens = program.sample.tokens
                cut = max((place + 1 for place in stop_places(stops, tokens[:-1])), default=0)
                out[problem.id, tokens[:cut]] = (problem, [*prompt, *tokens[:cut]])
    return list(out.values())


def reference_prefixes(session: Session, problems: Sequence[Problem]) -> list[tuple[Problem, list[int]]]:
    """Right steps up to the last, written by the curriculum; none for problems from a file."""
    if session.config.problems.source != "curriculum":
        return []
    from train.bootstrap import teacher_of

    teacher = teacher_of(session)
    prompts = session.prompts(problems)
    return [
        (problem, [*prompt, *session.tokenizer.encode("".join(split_path(teacher.correct(problem))[:-1]))])
        for problem, prompt in zip(problems, prompts, strict=True)
    ]


def hard_problems(session: Session, policy: Policy) -> list[str]:
    """Self-play problems of which none of `hard_samples` samples of the base passes the hidden tests."""
    config = session.config.evaluate
    left, drawn = session.parts.selfplay[: config.hard_problems], 0
    while left and drawn < config.hard_samples:
        count = min(8, config.hard_samples - drawn)
        programs = sample_programs(session, policy, left, samples=count, salt=100 * HARD + drawn)
        pairs = [(problem, one.code) for problem, some in zip(left, programs, strict=True) for one in some]
        marks = [solved(judgement) for judgement in session.judge_all(pairs, hidden=True)]
        left = [problem for i, problem in enumerate(left) if not any(marks[i * count : (i + 1) * count])]
        drawn += count
    return [problem.id for problem in left]


def hard_solved(session: Session, policy: Policy, hard: Sequence[str]) -> dict[str, Any]:
    """How the loop fares on hard problems: by verified paths that pass the hidden tests, and by greedy answers."""
    problems = [session.problem[name] for name in hard]
    greedy = mark(session, policy, problems, samples=1, greedy=True, own=False) if problems else None
    by_policy = {p.id for p, m in zip(problems, greedy.hidden, strict=True) if m[0]} if greedy else set()
    names = set(hard)
    found: dict[tuple[str, str], Problem] = {}
    for row in session.run.read("process.jsonl"):
        if row["problem_id"] in names and row["verdict"] == "accepted":
            record = ProcessRecord.from_json(row)
            assert record.code is not None
            found[record.problem_id, record.code] = session.problem[record.problem_id]
    verdicts = session.judge_all([(problem, code) for (_, code), problem in found.items()], hidden=True)
    by_search = {name for (name, _), v in zip(found, verdicts, strict=True) if v is not None and v.accepted}
    return {
        "problems": len(hard),
        "solved": len(by_policy | by_search),
        "solved_greedy": len(by_policy),
        "solved_by_search": len(by_search),
        "share": len(by_policy | by_search) / len(hard) if hard else None,
    }


def cure_rates(session: Session, greedy: Marks) -> dict[str, Any]:
    """For each misconception of the teacher, the share of held-out problems that carry it and are solved now."""
    if session.config.problems.source != "curriculum":
        return {}
    from train.bootstrap import teacher_of

    teacher = teacher_of(session)
    fates: dict[str, list[float]] = {}
    for problem, marks in zip(greedy.problems, greedy.hidden, strict=True):
        for name in teacher.misconceptions(problem):
            fates.setdefault(name, []).extend(known(marks))
    return {name: {"rate": mean(marks), "problems": len(marks)} for name, marks in sorted(fates.items())}


def run(session: Session, iteration: int) -> None:
    """Evaluates the policy of an iteration; 0 is the base."""
    config, names = session.config.evaluate, StageName(iteration)
    session.require(*policy_stage(iteration))
    base = session.require("000-evaluate", "train.evaluate --iteration 0") if iteration and config.hard_samples else {}
    with session.run.stage_scope(names("evaluate")) as stage:
        policy = session.load_policy(policy_name(iteration))
        heldout, validation = session.parts.heldout, session.parts.validation
        greedy = mark(session, policy, heldout, samples=1, greedy=True, own=False)
        some = heldout[: config.sampled_problems or len(heldout)]
        sampled = mark(session, policy, some, samples=config.samples, greedy=False)
        chosen = mark(session, policy, validation, samples=1, greedy=True, own=False)
        few = some[: config.aspr_problems]
        ids = {problem.id for problem in few}
        own = [prefix for prefix in accepted_prefixes(session, sampled) if prefix[0].id in ids]
        stage.result |= {
            "pass_at_1_greedy": greedy.pass_at(1),
            "pass_at_1_sampled": sampled.pass_at(1),
            f"pass_at_{config.samples}": sampled.pass_at(config.samples),
            "by_operations": {
                name: {
                    "problems": len(places),
                    "pass_at_1_greedy": greedy.pass_at(1, places),
                    "pass_at_1_sampled": sampled.pass_at(1, drawn),
                    f"pass_at_{config.samples}": sampled.pass_at(config.samples, drawn),
                }
                for name, places in by_difficulty(heldout).items()
                for drawn in [[place for place in places if place < len(some)]]
            },
            "reward_test_gap": sampled.gap,
            "validation_greedy": chosen.pass_at(1),
            "aspr": {
                **aspr(session, policy, own),
                "of": len(few),
                "reference": aspr(session, policy, reference_prefixes(session, few)),
            },
            "cure_rate": cure_rates(session, greedy),
        }
        if config.hard_samples:
            if iteration == 0:
                stage.result["hard"] = hard_problems(session, policy)
            else:
                stage.result["hard"] = hard_solved(session, policy, base["hard"])
        stage.result |= session.judging.costs()
        numbers = {k: v for k, v in stage.result.items() if isinstance(v, int | float)}
        stage.log(iteration, **numbers, sync_seconds=session.sync_seconds())
    keep_best(session)


if __name__ == "__main__":
    from train.command import stage_command

    stage_command(run, "evaluate", __doc__)
