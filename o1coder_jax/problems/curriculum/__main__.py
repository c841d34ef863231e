"""Shows the curriculum: examples with the teacher's answers, sizes, groups, lengths.

python -m o1coder_jax.problems.curriculum --seed 0 --show 3
python -m o1coder_jax.problems.curriculum --count 50000      # different problems, about 15 s
"""

from __future__ import annotations

import argparse
import collections
import random
from collections.abc import Sequence

from o1coder_jax.errors import UserError, run_command
from o1coder_jax.problems.curriculum.assembly import build_with_groups
from o1coder_jax.problems.curriculum.config import PART_NAMES, CurriculumConfig, Parts
from o1coder_jax.problems.curriculum.counting import count_distinct
from o1coder_jax.problems.curriculum.parting import Parting
from o1coder_jax.problems.curriculum.teacher import Teacher, reach, teacher_accuracy
from o1coder_jax.records import Problem, write_jsonl


def main() -> None:
    """Builds the default curriculum and prints what it is like."""
    arguments = _parse()
    if arguments.count:
        print(f"different problems, at least: {count_distinct(arguments.count)}")
        return
    config = CurriculumConfig()
    parts, parting = build_with_groups(config, arguments.seed)
    teacher = Teacher(config, arguments.seed)
    for problem in parts.training[: arguments.show]:
        _print_example(problem, teacher)
    _print_sizes(parts, parting)
    _print_teacher(parts, teacher)
    if arguments.output:
        count = write_jsonl(arguments.output, parts.all)
        print(f"wrote {count} problems to {arguments.output}")


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m o1coder_jax.problems.curriculum", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--seed", type=int, default=0, help="draws problems, parts, tests and teacher")
    parser.add_argument("--show", type=int, default=1, help="examples to print")
    parser.add_argument("--count", type=int, default=0, help="only count different problems, up to this many")
    parser.add_argument("--output", metavar="FILE", help="write the problems of all parts as JSON lines")
    arguments = parser.parse_args()
    for name in ("show", "count"):
        if getattr(arguments, name) < 0:
            raise UserError(f"--{name} is {getattr(arguments, name)}; give a number from 0 on")
    return arguments


def _print_example(problem: Problem, teacher: Teacher) -> None:
    habits = ", ".join(teacher.misconceptions(problem)) or "none"
    print(f"== {problem.id}, {problem.form} form\n{problem.statement}")
    print(f"-- right answer\n{teacher.correct(problem)}")
    print(f"-- the teacher's likeliest answer (habits: {habits})\n{teacher.most_likely(problem)}")
    print(f"-- tests: {len(problem.tests)} own, {len(problem.hidden)} hidden, the first two")
    for case in problem.tests[:2]:
        print(f"   {case.input!r} -> {case.output!r}")
    print()


def _print_sizes(parts: Parts, parting: Parting) -> None:
    sizes = ", ".join(f"{name} {len(getattr(parts, name))}" for name in PART_NAMES)
    groups = parting.group_sizes()
    used = collections.Counter(clause["operation"] for problem in parts.all for clause in problem.meta["clauses"])
    rarest, count = used.most_common()[-1]
    print(f"problems: {sizes}")
    print(f"templates: {sum(groups)} in {len(groups)} groups, largest {groups[:5]}; refused: {parting.refused}")
    print(f"operations: {len(used)}, the rarest is {rarest} in {count} problems")


def _print_teacher(parts: Parts, teacher: Teacher) -> None:
    chance = reach(parts.heldout, teacher)
    rng = random.Random(0)
    answers = [teacher.sample(problem, rng) for problem in parts.training]
    print(f"teacher: {len(teacher.habits)} habits, solves {teacher_accuracy(parts.heldout, teacher):.3f} of heldout")
    print(f"reached within 32 samples: {chance.mean:.3f}; less likely than not: {chance.rare:.3f} of the problems")
    print(f"statement: {_lengths([problem.statement for problem in parts.training])}")
    print(f"answer: {_lengths(answers)}")


def _lengths(texts: Sequence[str]) -> str:
    characters = sum(map(len, texts)) / len(texts)
    words = sum(len(text.split()) for text in texts) / len(texts)
    return f"{characters:.0f} characters, {words:.0f} words on average"


if __name__ == "__main__":
    run_command(main)
