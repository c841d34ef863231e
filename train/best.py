"""The checkpoint `best`: the policy of the round that did best on validation, among those that stand.

A round that is forgotten (`--again` of an earlier stage) or not asked for any more (fewer `iterations`) does not stand.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from o1coder_jax import checkpoint
from o1coder_jax.errors import UserError
from o1coder_jax.hosts import gather
from train.session import Session, StageName, policy_name, policy_stage

BEST = "best"


def best_round(session: Session) -> int | None:
    """The round that no other does better than on validation; of equals the last, which has learned from more.

    Returns:
      Its number, 0 for the base; None before the first evaluation.
    """
    results = session.run.results()
    rounds = range(session.config.iterations + 1)
    found = {i: results[name]["validation_greedy"] for i in rounds if (name := StageName(i)("evaluate")) in results}
    return max(found, key=lambda i: (found[i] or 0.0, i), default=None)


def keep_best(session: Session) -> None:
    """Makes `best` the policy of `best_round`, unless it is already; removes it before the first evaluation."""
    best, path = gather(best_round(session))[0], session.run.checkpoint(BEST)
    if best is None:
        session.once(lambda: shutil.rmtree(path, ignore_errors=True))
        return
    weights = session.require(*policy_stage(best)).get("weights")
    if not all(gather(_facts(path) == {"iteration": best, "fingerprint": weights})):
        model = session.store.load(policy_name(best))
        session.save_model(BEST, model.weights, model, iteration=best)
        del model
        session.release()


def _facts(path: Path) -> dict[str, Any]:
    """Whose policy a checkpoint says that it is; nothing where there is none, or its writing was broken off."""
    try:
        facts = checkpoint.metadata(path)
    except UserError:
        return {}
    return {name: facts.get(name) for name in ("iteration", "fingerprint")}
