"""Judges a file of programs.

    python -m sandbox.judge SUBMISSIONS.jsonl -o VERDICTS.jsonl      (`-` for standard input or output)

A submission is one JSON line: {"id", "code", "tests": [{"input", "output"}, ...]} (or "asserts": [TEXT, ...] in place
of "tests") and, where wanted, "fn_name", "setup", "compare" and "limits" ({"cpu_seconds", "wall_seconds", "memory_mb",
"output_mb"}, any of them, and none above the command's own). Verdicts come in the same order, each as soon as it and
those before it are there:
 {"id", "verdict", "compiled", "passed", "total", "pass_rate", "tests": [{"verdict", ...}, ...]}.
A line that is no submission is reported on stderr with its number, gets no verdict, and the rest goes on.

Exit status: 0 when every line was judged; 2 when a line was no submission, or the command could not start; 128 + N when
signal N ended it, with the verdicts that were there written; 141 when whoever reads standard output is gone.
"""

from __future__ import annotations

import contextlib
import sys

from o1coder_jax.errors import run_command
from sandbox import command
from sandbox.pool import Pool
from sandbox.rows import verdict_row
from sandbox.stream import Stream, stopped_by_signals


def main() -> int:
    """The command."""
    assert __doc__ is not None
    parser = command.parser("sandbox.judge", __doc__, "where verdicts go; - (the default) is standard output")
    arguments = parser.parse_args()
    config, source = command.config_of(arguments), arguments.submissions
    sys.set_int_max_str_digits(command.MAX_INTEGER_DIGITS)
    try:
        with command.opened(source) as fd, command.Output(arguments.output or "-", source) as output:
            stream = Stream(source, fd, config.limits, lambda submission: pool.submit(submission))
            with stopped_by_signals(stream.stop), Pool(config) as pool:
                print(f"sandbox isolation: {pool.isolation}", file=sys.stderr)
                with contextlib.closing(stream.results()) as results:
                    for submission, judgement in results:
                        output.write(verdict_row(submission, judgement))
                infra_errors = pool.infra_errors
    except BrokenPipeError:
        return command.end_of_reader()
    if infra_errors and not stream.stopped:
        print(f"{infra_errors} submissions could not be checked (infra_error)", file=sys.stderr)
    return command.exit_status(stream, f"{output.lines} verdicts are written")


if __name__ == "__main__":
    run_command(main)
