"""The one exception for mistakes that a user can mend."""

from __future__ import annotations

import sys
from collections.abc import Callable

USER_ERROR_EXIT_STATUS = 2
INTERRUPTED_EXIT_STATUS = 130


class UserError(Exception):
    """Bad input, said in one line: what is wrong, where, and how to mend it.

    Commands print it to stderr without a traceback and leave with status 2.
    """

    def __init__(self, message: str):
        super().__init__(" ".join(message.split()))


def told(error: BaseException) -> tuple[str, int] | None:
    """The line that tells a user of an error, and the exit status; None for a defect, which keeps its traceback."""
    if isinstance(error, UserError):
        return f"error: {error}", USER_ERROR_EXIT_STATUS
    if isinstance(error, OSError):
        where = f" ({error.filename})" if error.filename else ""
        return f"error: {error.strerror or error}{where}: free space or choose another folder", USER_ERROR_EXIT_STATUS
    if isinstance(error, KeyboardInterrupt):
        return "stopped; the same command goes on from the last finished stage", INTERRUPTED_EXIT_STATUS
    return None


def run_command(main: Callable[[], int | None]) -> None:
    """Runs a command's `main` and leaves the process with its status.

    A `UserError` becomes one line on stderr and status 2; a full disk or an unwritable folder
    likewise; Ctrl-C becomes one line and status 130. Anything else is a defect and keeps its traceback.
    """
    try:
        status = main() or 0
    except BaseException as error:
        known = told(error)
        if known is None:
            raise
        line, status = known
        print(line, file=sys.stderr)
    sys.exit(status)
