"""The checkpoint `best` is the best standing round's policy, whatever was forgotten, and all who name one agree."""

from __future__ import annotations

import json
import types
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from o1coder_jax import checkpoint
from tests.train.world import command, copy_run, opened, results, summary_of
from train.best import BEST, best_round, keep_best
from train.export import checkpoint_name
from train.session import StageName, policy_name


def kept(run: Path) -> str:
    """The policy whose weights `best` holds."""
    wanted = checkpoint.metadata(run / "checkpoints" / BEST)["fingerprint"]
    prints = {
        name: checkpoint.metadata(run / "checkpoints" / name)["fingerprint"] for name in map(policy_name, (0, 1, 2))
    }
    assert len(set(prints.values())) == 3
    return next(name for name, one in prints.items() if one == wanted)


def fare(run: Path, *rates: float) -> None:
    """Sets how the rounds did on validation, as if they had been measured so."""
    for i, rate in enumerate(rates):
        path = run / "stages" / f"{StageName(i)('evaluate')}.json"
        stage = json.loads(path.read_text())
        stage["result"]["validation_greedy"] = rate
        path.write_text(json.dumps(stage))


@pytest.mark.parametrize(
    ("rates", "best"),
    [({}, None), ({0: None}, 0), ({0: 0.5, 1: 0.4}, 0), ({0: 0.5, 1: 0.5, 2: 0.1}, 1), ({0: 0.1, 2: 0.3, 3: 0.9}, 2)],
)
def test_best_round_is_the_last_that_none_surpasses(rates: dict[int, float | None], best: int | None):
    """A round beyond `iterations`, here 2, does not stand."""
    done = {f"{i:03d}-evaluate": {"validation_greedy": rate} for i, rate in rates.items()}
    session: Any = types.SimpleNamespace(
        run=types.SimpleNamespace(results=lambda: done), config=types.SimpleNamespace(iterations=2)
    )
    assert best_round(session) == best


def test_best_holds_the_weights_of_the_best_round(wee: Path):
    name = policy_name(summary_of(wee)["best_iteration"])
    assert kept(wee) == name and checkpoint_name(wee, "policy") == BEST
    both = [checkpoint.restore(wee / "checkpoints" / one) for one in (BEST, name)]
    jax.tree.map(np.testing.assert_array_equal, *both)


def test_best_follows_what_stands(wee: Path, runs: Path):
    with opened(wee, runs, upto="002-evaluate") as session:
        run = session.run.folder
        fare(run, 0.1, 0.5, 0.9)
        keep_best(session)
        assert kept(run) == "policy-002"
        session.run.rewind("002-rl")
        keep_best(session)
        assert kept(run) == "policy-001"
        session.run.rewind("000-evaluate")
        keep_best(session)
        assert not (run / "checkpoints" / BEST).exists()


def test_best_that_was_broken_off_is_written_again(wee: Path, runs: Path):
    with opened(wee, runs, upto="002-evaluate") as session:
        run = session.run.folder
        fare(run, 0.1, 0.9, 0.5)
        keep_best(session)
        (run / "checkpoints" / BEST / "_METADATA").unlink()
        keep_best(session)
        assert kept(run) == "policy-001"


def test_stage_that_is_done_again_takes_the_best_back(wee: Path, settings: Path, runs: Path):
    copy = copy_run(wee, runs, upto="002-evaluate")
    fare(copy, 0.1, 0.0, 0.9)
    command(settings, "--runs", str(runs))
    assert kept(copy) == "policy-002" == policy_name(summary_of(copy)["best_iteration"])
    done = command(settings, "--runs", str(runs), "--iteration", "2", "--again", module="sft")
    assert done.status == 0 and list(results(copy))[-1] == "002-sft"
    assert kept(copy) == "policy-000"


def test_rounds_that_are_not_asked_for_any_more_are_not_the_best(wee: Path, settings: Path, runs: Path):
    copy = copy_run(wee, runs, upto="002-evaluate")
    fare(copy, 0.1, 0.5, 0.9)
    for iterations in (1, 2):
        assert command(settings, "--runs", str(runs), "--iterations", str(iterations)).status == 0
        assert kept(copy) == policy_name(iterations) and summary_of(copy)["best_iteration"] == iterations
