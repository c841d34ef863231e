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


def run_command(main: Callable[[], int | None]) -> None:
    """Runs a command's `main` and leaves the process with its status.

    A `UserError` becomes one line on stderr and status 2; a full disk or an unwritable folder
    likewise; Ctrl-C becomes one line and status 130. Anything else is a defect and keeps its traceback.
    """
    try:
        status = main() or 0
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        status = USER_ERROR_EXIT_STATUS
    except OSError as error:
        where = f" ({error.filename})" if error.filename else ""
        print(f"error: {error.strerror or error}{where}: free space or choose another folder", file=sys.stderr)
        status = USER_ERROR_EXIT_STATUS
    except KeyboardInterrupt:
        print("stopped; the same command goes on from the last finished stage", file=sys.stderr)
        status = INTERRUPTED_EXIT_STATUS
    sys.exit(status)
