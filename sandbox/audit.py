"""Judges a file of programs once, and lists where O1-CODER's published comparison would have said otherwise.

    python -m sandbox.audit SUBMISSIONS.jsonl [-o DIFFERENCES.jsonl]      (`-` for standard input or output)

Submissions are those of `python -m sandbox.judge`, and so are the flags. Each program is run once; what it gave is
compared as its submission asks, and beside that as `sandbox/published.py` describes. Where only one of the two takes
the answer, a line says so: {"id", "test" (from 0), "ours" (our verdict), "published" (true or false), "reason",
"expected", "actual"}, the last two cut short. Without -o such lines are printed as text. A summary is printed at the
end (on stderr with `-o -`). Asserts have no answer to compare, so such submissions are reported and left out.
A test that does not end by itself passes neither; time limits and the like are ours.

Exit status: as of `python -m sandbox.judge`.
"""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import json
import sys
from typing import Any

from o1coder_jax.errors import run_command
from o1coder_jax.records import Verdict
from sandbox import command
from sandbox.compare import normal
from sandbox.differences import accepts, why_only_ours, why_only_published
from sandbox.pool import Given, Pool
from sandbox.stream import Stream, stopped_by_signals
from sandbox.submission import Submission

_SHOWN_CHARACTERS = 200
_KINDS = {
    (True, True): "both accept",
    (True, False): "only ours accepts",
    (False, True): "only the published one accepts",
    (False, False): "neither accepts",
}
_UNCHECKED = "could not be checked"


@dataclasses.dataclass(frozen=True)
class Difference:
    """A test on which the two comparisons differ."""

    id: str
    test: int
    ours: str
    published: bool
    reason: str
    expected: str
    actual: str

    def line(self) -> str:
        """The difference for people."""
        who = _KINDS[(not self.published, self.published)]
        name = json.dumps(self.id)[1:-1]  # one line, whatever it holds
        return f"{name}, test {self.test}: {who} ({self.reason}): expected {self.expected}, got {self.actual}"


class Audit:
    """Counts agreements and differences.

    Attributes:
      tests, programs: how many of each kind there are; a program is taken when all its tests are.
      reasons: for each kind of difference, how often each reason was given.
    """

    def __init__(self) -> None:
        self.tests: collections.Counter[str] = collections.Counter()
        self.programs: collections.Counter[str] = collections.Counter()
        self.reasons: dict[str, collections.Counter[str]] = collections.defaultdict(collections.Counter)

    def add(self, submission: Submission, given: Given) -> list[Difference]:
        """The differences on one submission."""
        judgement, values = given
        differences, passed = [], 0
        results = zip(judgement.tests, values, strict=True) if judgement.compiled else ()
        for index, (result, value) in enumerate(results):
            if result.verdict is Verdict.INFRA_ERROR:
                self.tests[_UNCHECKED] += 1
                continue
            ours = result.verdict is Verdict.ACCEPTED
            theirs = value is not None and self._takes(submission, index, value[0])
            passed += theirs
            self.tests[_KINDS[(ours, theirs)]] += 1
            if value is not None and ours != theirs:
                differences.append(self._difference(submission, index, str(result.verdict), value[0]))
        if not judgement.compiled:
            self.tests[_KINDS[(False, False)] if judgement.checked else _UNCHECKED] += submission.total
        kind = _KINDS[(judgement.accepted, passed == submission.total)]
        self.programs[kind if judgement.checked else _UNCHECKED] += 1
        return differences

    def _takes(self, submission: Submission, index: int, actual: Any) -> bool:
        expected = normal(submission.tests[index].output)
        if expected is None and submission.fn_name is None:  # left to the checker
            return False
        return accepts(expected, actual, call_form=submission.fn_name is not None)

    def _difference(self, submission: Submission, index: int, ours: str, actual: Any) -> Difference:
        expected, call_form = normal(submission.tests[index].output), submission.fn_name is not None
        published = ours != Verdict.ACCEPTED
        why = why_only_published if published else why_only_ours
        reason = why(submission.compare, expected, actual, call_form=call_form)
        self.reasons[_KINDS[(not published, published)]][reason] += 1
        return Difference(submission.id, index, ours, published, reason, _short(expected), _short(actual))

    def summary(self) -> str:
        """A table of the kinds, with the reasons behind the differences."""
        lines = [f"{'':32}{'tests':>10}{'programs':>10}"]
        for kind in (*_KINDS.values(), _UNCHECKED):
            reasons = ", ".join(f"{reason} {count}" for reason, count in self.reasons[kind].most_common())
            lines.append(f"{kind:32}{self.tests[kind]:>10,}{self.programs[kind]:>10,}  {reasons}".rstrip())
        lines.append(f"{'all':32}{self.tests.total():>10,}{self.programs.total():>10,}")
        return "\n".join(lines)


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= _SHOWN_CHARACTERS else text[:_SHOWN_CHARACTERS] + "..."


def main() -> int:
    """The command."""
    assert __doc__ is not None
    arguments = command.parser("sandbox.audit", __doc__, "where differences go as JSON lines").parse_args()
    config, source = command.config_of(arguments, cache_entries=0), arguments.submissions
    sys.set_int_max_str_digits(command.MAX_INTEGER_DIGITS)
    audit = Audit()
    try:
        with contextlib.ExitStack() as stack:
            fd = stack.enter_context(command.opened(source))
            output = stack.enter_context(command.Output(arguments.output, source)) if arguments.output else None
            stream = Stream(source, fd, config.limits, lambda submission: pool.submit_given(submission))
            stack.enter_context(stopped_by_signals(stream.stop))
            pool = stack.enter_context(Pool(config))
            print(f"sandbox isolation: {pool.isolation}", file=sys.stderr)
            for submission, given in stack.enter_context(contextlib.closing(stream.results())):
                for difference in audit.add(submission, given):
                    if output is None:
                        print(difference.line(), flush=True)
                    else:
                        output.write(dataclasses.asdict(difference))
        print(audit.summary(), file=sys.stderr if arguments.output == "-" else sys.stdout, flush=True)
    except BrokenPipeError:
        return command.end_of_reader()
    return command.exit_status(stream, f"{audit.programs.total()} programs are audited")


if __name__ == "__main__":
    run_command(main)
