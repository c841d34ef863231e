"""The command line that all stages share."""

from __future__ import annotations

import inspect
from collections.abc import Callable

from o1coder_jax.config import Flag, parse_with_flags
from o1coder_jax.errors import UserError, run_command
from train.best import keep_best
from train.config import Config
from train.session import Session, StageName


def stage_command(run: Callable[..., None], stage: str, description: str | None) -> None:
    """Runs one stage in the run folder of a config.

    A stage that is finished already is left alone unless `--again` makes it, and all after it, unfinished first.
    """
    repeated = "iteration" in inspect.signature(run).parameters

    def main() -> None:
        flags = {"again": Flag(bool, False, "do a finished stage again, and forget all stages after it")}
        if repeated:
            flags["iteration"] = Flag(int, 1, "which round of the loop, from 1")
        title = (description or "").split("\n")[0]
        config, options = parse_with_flags(
            Config, None, flags, prog=f"python -m train.{_module(stage)}", description=title
        )
        name = StageName(options["iteration"])(stage) if repeated else stage
        if repeated and options["iteration"] < (0 if stage == "evaluate" else 1):
            raise UserError(f"--iteration is {options['iteration']}; rounds count from 1")
        with Session.open(config) as session:
            done = session.run.stage(name) is not None
            if done and not options["again"]:
                print(f"{name} of {session.run.folder} is finished; --again does it once more")
                return
            if done and (later := session.run.rewind(name)):
                print(f"{name} is done again; forgotten are {', '.join(later)}", flush=True)
            keep_best(session)
            run(session, *([options["iteration"]] if repeated else []))
            for key, value in (session.run.stage(name) or {}).items():
                if not isinstance(value, list | dict):
                    print(f"{key}: {value}")

    run_command(main)


def _module(stage: str) -> str:
    return "reason" if stage == "search" else stage
