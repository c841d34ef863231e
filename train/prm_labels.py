"""What a round adds to the labels of a reward model: fresh continuations of its trees' steps, and whole answers."""

from __future__ import annotations

from collections.abc import Sequence

from o1coder_jax.records import ProcessRecord
from train.continuations import Continued, Continuing, Place, prefixes_of, whole_problems
from train.prm_drawn import drawn_paths, drawn_tokens, roots
from train.prm_examples import held_out, is_held_out
from train.process import distinct, recent
from train.run import Stage
from train.session import Session, policy_name

CONTINUATIONS = "continuations.jsonl"
DRAWN = "drawn.jsonl"


def continued_steps(
    session: Session, stage: Stage, iteration: int, records: Sequence[ProcessRecord]
) -> dict[Place, Continued]:
    """The continuations of this and earlier rounds; draws those of this round's trees that are still to be drawn."""
    config = session.config.prm
    found = {one.place: one for one in map(Continued.from_json, session.run.read(CONTINUATIONS))}
    seed = session.config.seed
    own = [record for record in records if record.iteration == iteration]
    wanted = []
    if config.labels == "continuations":
        wanted += whole_problems(prefixes_of(r for r in own if not held_out(r)), config.prefixes, seed)
    if config.judged:
        wanted += whole_problems(prefixes_of(r for r in own if held_out(r)), config.judged, seed)
    wanted = [prefix for prefix in wanted if prefix.place not in found]
    if not wanted:
        return found
    with stage.progress(len(wanted), "steps continued") as bar:
        drawing = drawer(session, iteration, config.continuations)
        new = drawing.run(wanted, stage.underway(CONTINUATIONS), bar.advance)
    stage.append_shared(CONTINUATIONS, new)
    stage.result["continued"] = len(new)
    _count(stage, sum(one.tokens for one in new))
    return found | {one.place: one for one in new}


def drawn_steps(
    session: Session, stage: Stage, iteration: int, records: Sequence[ProcessRecord]
) -> list[ProcessRecord]:
    """The paths of answers that this and earlier rounds drew, each once; draws those of this round if none are there.

    Args:
      records: whose problems, in this round, are the self-play ones that answers are drawn for.
    """
    config = session.config.prm
    found = [ProcessRecord.from_json(row) for row in session.run.read(DRAWN)]
    if config.drawn and not any(one.iteration == iteration for one in found):
        searched = {record.problem_id for record in records if record.iteration == iteration}
        parts = session.parts
        selfplay = [one for one in parts.selfplay if one.id in searched]
        before = 0
        for name, problems, count in (
            ("selfplay", selfplay, config.drawn.selfplay),
            ("training", parts.training, config.drawn.training),
        ):
            problems = [one for one in problems if not is_held_out(one.id)] if count else []
            prompts = zip([one.id for one in problems], session.prompts(problems), strict=True)
            prefixes = roots(prompts, iteration, before)
            before += len(prefixes)
            if not prefixes:
                continue
            with stage.progress(len(prefixes), f"{name} problems answered") as bar:
                path = stage.underway(f"{name}-{DRAWN}")
                new = drawn_paths(drawer(session, iteration, count), prefixes, path, session.config.name, bar.advance)
            stage.append_shared(DRAWN, new)
            stage.result["drawn"] = stage.result.get("drawn", 0) + count * len(prefixes)
            _count(stage, drawn_tokens(new))
            found += new
    return distinct(recent(found, iteration, config.max_age))


def _count(stage: Stage, tokens: int) -> None:
    stage.result["tokens_generated"] = stage.result.get("tokens_generated", 0) + tokens


def drawer(session: Session, iteration: int, count: int) -> Continuing:
    """Draws with the policy that grew the round's trees, as it was drawn from there."""
    return Continuing(
        session.load_policy(policy_name(iteration - 1)),
        session.problem,
        session.judge_all,
        count,
        session.config.generation,
        session.config.search.resolved().sampling,
        session.mesh,
        (session.config.seed, iteration),
    )
