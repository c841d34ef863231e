"""The loop against its rivals, in a run that has done at least one round: see `train.rivals.compare`."""

from __future__ import annotations

from o1coder_jax.config import parse
from o1coder_jax.errors import UserError, run_command
from train.config import Config
from train.rivals import compare
from train.session import Session


def main() -> None:
    config = parse(Config, prog="python -m train.rivals", description=(__doc__ or "").split("\n")[0])
    if not config.rivals.run:
        raise UserError("rivals.run is empty; name some, as --rivals.run '[continued, rejection]'")
    with Session.open(config) as session:
        compare.run(session)


if __name__ == "__main__":
    run_command(main)
