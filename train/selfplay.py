"""The whole loop, from problems to a better policy. Read this file first.

    python -m train.selfplay --config configs/tiny.yaml

The six steps of O1-CODER (arXiv 2412.00154, algorithm 1), each a module of its own that reads and writes files in the
run folder `runs/NAME` and can be run alone. A stage that is finished is not done again: after a crash or Ctrl-C the
same command goes on from the last finished one.
"""

from __future__ import annotations

from collections.abc import Callable

from o1coder_jax.config import Flag, parse_with_flags
from o1coder_jax.errors import run_command
from train import bootstrap, coevolve, evaluate, head, prm, reason, relabel, rl, sft, tcg
from train.best import keep_best
from train.config import Config
from train.rivals import compare as rivals
from train.run import finished_stages
from train.session import Session, StageName
from train.stopping import reason_to_stop
from train.summary import print_table, summarise


def loop(session: Session) -> None:
    """Runs every stage that is not finished yet."""
    step(session, "bootstrap", "base policy", bootstrap.run)
    step(session, "000-evaluate", "the base, measured", evaluate.run, 0)
    step(session, "tcg", "step 1 of 6: train the test case generator", tcg.run)
    for i in range(1, session.config.iterations + 1):
        name = StageName(i)
        if why := reason_to_stop(session.config.stopping, finished_stages(session.run.folder), i):
            print(f"\nthe loop ends after round {i - 1}: {why}", flush=True)
            break
        for stage, title, run in round_stages(session.config, i):
            step(session, name(stage), title, run, i)
        step(session, name("evaluate"), "held-out problems", evaluate.run, i)
        keep_best(session)
        summary = summarise(session)
        session.run.write_summary(summary)
        print_table(summary)
    if session.config.rivals.run:
        rivals.run(session)


def round_stages(config: Config, iteration: int) -> list[tuple[str, str, Callable[[Session, int], None]]]:
    """The stages of a round but its evaluation: name, title, what runs it."""
    searching = "step 2 of 6: reasoning data from search" if iteration == 1 else "step 6 of 6: new reasoning data"
    again, new_labels = (
        "step 1 again: the generator against the policy as it is",
        "new labels, where tests have changed",
    )
    last = "the value head, on the policy of the next search"
    return [
        *([("coevolve", again, coevolve.run)] if iteration > 1 and config.tcg.coevolve else []),
        ("search", searching, reason.run),
        *([("relabel", new_labels, relabel.run)] if config.labels.relabel else []),
        ("sft", "step 3 of 6: fine-tune the policy on verified paths", sft.run),
        ("prm", "step 4 of 6: train the process reward model", prm.run),
        ("rl", "step 5 of 6: improve the policy by RL", rl.run),
        *([("head", last, head.run)] if config.prm.weights == "policy" else []),
    ]


def step(session: Session, stage: str, title: str, run: Callable[..., None], *arguments: int) -> None:
    """Runs a stage unless it is finished."""
    if session.run.stage(stage) is None:
        print(f"\n{stage}: {title}", flush=True)
        run(session, *arguments)
        session.release()


def main() -> None:
    flags = {"fresh": Flag(bool, False, "throw away what the run folder holds of an earlier run")}
    config, options = parse_with_flags(
        Config, None, flags, prog="python -m train.selfplay", description="The whole loop."
    )
    with Session.open(config, fresh=options["fresh"]) as session:
        loop(session)
        print(f"\n{session.run.folder}/summary.json holds all figures; python -m train.show {session.run.folder}")


if __name__ == "__main__":
    run_command(main)
