"""Steps 2 and 6: reasoning data from search.

    python -m train.reason --config configs/tiny.yaml --iteration 1

Grows one tree for each self-play problem, or for those that the ledger gives (`drawing.search`), with the latest
policy, and appends every visited path, good or bad, to `process.jsonl`: D_process <- D_process U D'_process (arXiv
2412.00154, algorithm 1). The trees themselves go to `trees.jsonl`. Trees that have ended survive a kill: the same
command grows only the others. With `search.value_weight` above 0, or a baseline that ranks by it, the process reward
model of the round before takes part, or with `prm.weights: policy` the value head that was fitted on the policy at the
end of that round; in the first round there is none: its weight is 0, and paths are ranked by likelihood.
"""

from __future__ import annotations

import contextlib
import dataclasses

from o1coder_jax.estimates import mean
from o1coder_jax.hosts import barrier, gather
from search.config import SearchConfig
from search.finished import FinishedTrees, provenance_of
from search.harvest import formed_badly, step_counts
from search.models import load_rater
from search.store import StoredTree
from search.waves import Search
from train.ledger import LEDGER, of_tree, rollouts_counted, searched
from train.relabel import judged
from train.session import Session, StageName, policy_name, policy_stage


def run(session: Session, iteration: int) -> None:
    """Searches self-play problems with the policy of the last iteration."""
    names = StageName(iteration)
    session.require(*policy_stage(iteration - 1))
    config, rater = settings_of(session, iteration)
    problems = judged(session, searched(session, iteration))
    with session.run.stage_scope(names("search")) as stage, stage.progress(len(problems), "trees") as bar:
        policy, reward_model = session.load_policy(policy_name(iteration - 1)), None
        if rater:
            policy, reward_model = load_rater(session.run.checkpoint(rater), policy, session.mesh)
        rated_by = reward_model.fingerprint if reward_model is not None else policy.head
        provenance = provenance_of(
            session.config.name,
            iteration,
            config,
            policy=policy.fingerprint,
            tokenizer=policy.tokenizer.fingerprint,
            seed=session.config.seed,
            reward_model=rated_by,
        )
        path = stage.underway("trees.jsonl")
        with contextlib.closing(FinishedTrees(path, problems, provenance, replace=True)) as finished:
            barrier("trees opened")  # whoever had more processes before has left files for all
            kept = finished.elsewhere(stage.underway_elsewhere(path.name)) | finished.kept
            if kept:
                print(f"{names('search')}: {len(kept)} trees were finished before", flush=True)
            search = Search(
                policy,
                problems,
                session.judging.judge,
                config,
                session.mesh,
                seed=session.config.seed,
                iteration=iteration,
                reward_model=reward_model,
                without=kept,
            )
            bar.advance(len(kept))
            found = dict(kept)
            for tree in search:
                finished.add(tree)
                bar.advance()
                found[tree.problem.id] = tree
            barrier("trees grown")
            trees = finished.complete(found, lambda: stage.underway_elsewhere(path.name))
        own = search.counters
        kept_tokens, places, rated = (sum(n) for n in zip(*gather((own.kept, own.places, own.rated)), strict=True))
        ended: dict[str, int] = {}
        count = 0
        for tree in trees:
            stored = StoredTree(tree, provenance)
            stage.append_shared("trees.jsonl", [stored])
            records = stored.records()
            count += stage.append_shared("process.jsonl", records)
            for record in records:
                ended[record.ended] = ended.get(record.ended, 0) + 1
        counted = rollouts_counted(session)
        stage.append_shared(LEDGER, [tally for tree in trees if (tally := of_tree(tree, iteration, counted)).samples])
        formed = step_counts(trees)
        stage.result |= {
            "trees": len(trees),
            "solved": sum(tree.solved for tree in trees),
            "solved_by_search": mean([float(tree.solved) for tree in trees]),
            "solved_problems": [tree.problem.id for tree in trees if tree.solved],
            "process_records": count,
            "ended": ended,
            **formed,
            "tokens_generated": sum(tree.tokens for tree in trees),
            "kept_share": kept_tokens / max(places, 1),
            "waves": search.counters.waves,
            "reward_model": rated_by or None,
            "value_weight": config.value_weight,
            "tokens_rated": rated,
            "truncated_prompts": search.truncated_prompts,
            "executions": sum(tree.tests_run for tree in trees),
            "infra_errors": sum(tree.infra_errors for tree in trees),
        }
        session.judging.costs()  # begins to count anew
        if cut := search.truncated_prompts:
            cap = session.config.search.prompt_tokens
            print(f"{names('search')}: {cut} prompts were cut to search.prompt_tokens {cap}", flush=True)
        if warning := formed_badly(formed):
            print(f"{names('search')}: {warning}", flush=True)
        numbers = {k: v for k, v in stage.result.items() if isinstance(v, int | float)}
        stage.log(iteration, **numbers, sync_seconds=session.sync_seconds())


def settings_of(session: Session, iteration: int) -> tuple[SearchConfig, str]:
    """The settings of a round of search, and the checkpoint of what rates its steps; empty where nothing does."""
    config = session.config.search.resolved()
    rated = config.baseline.rated
    if not (config.value_weight or rated):
        return config, ""
    if iteration == 1:
        instead = "search.baseline.ranking is likelihood" if rated else "search.value_weight is 0"
        print(f"001-search: there is no process reward model yet; {instead} in this round", flush=True)
        baseline = dataclasses.replace(config.baseline, ranking="likelihood") if rated else config.baseline
        return dataclasses.replace(config, value_weight=0.0, baseline=baseline), ""
    before = iteration - 1
    stage = "head" if session.config.prm.weights == "policy" else "prm"
    session.require(StageName(before)(stage), f"train.{stage} --iteration {before}")
    return config, f"{stage}-{before:03d}"


if __name__ == "__main__":
    from train.command import stage_command

    stage_command(run, "search", __doc__)
