"""Building the four parts: draw templates, part them by behaviour, and turn their instances into problems."""

from __future__ import annotations

import collections
import dataclasses
import random

from o1coder_jax.errors import UserError
from o1coder_jax.problems.curriculum import wording
from o1coder_jax.problems.curriculum.behaviour import Behaviour, codes_of, examine, instances, kinds_of
from o1coder_jax.problems.curriculum.cases import make_cases
from o1coder_jax.problems.curriculum.config import PART_NAMES, CurriculumConfig, Parts
from o1coder_jax.problems.curriculum.parting import Parting, Template, draw_template
from o1coder_jax.problems.curriculum.task import SOURCE, Task
from o1coder_jax.problems.curriculum.values import Value
from o1coder_jax.records import Form, Problem, TestCase

PATIENCE = 4000
"""Draws without a new problem after which a length counts as used up."""

LEARNT = ("training", "selfplay")
"""Parts where a template may give several problems; elsewhere one each, so that measured figures vary less."""

TOKENS = {"mode": "tokens"}
"""Sound for our outputs: no value that is printed holds a blank, and lists are printed on one line."""


def build(config: CurriculumConfig, seed: int) -> Parts:
    """Problems for a run, the same for the same arguments.

    Raises `UserError` when there are fewer different problems than asked for.
    """
    problems, _ = build_with_groups(config, seed)
    return problems


def build_with_groups(config: CurriculumConfig, seed: int) -> tuple[Parts, Parting]:
    """`build`, and the groups of templates that it formed."""
    assembly = _assembled(config, seed)
    return Parts(**{name: assembly.finish(name) for name in PART_NAMES}), assembly.parting


def build_further(config: CurriculumConfig, seed: int, count: int) -> list[Problem]:
    """`count` problems beyond those of `build`, for training: what they compute is in no other part.

    Raises `UserError` when there are fewer.
    """
    assembly = _assembled(config, seed)
    lengths = config.lengths("training")
    missing, shares = {"training": 0}, len(lengths)
    for index, length in enumerate(lengths):
        missing["training"] += count * (index + 1) // shares - count * index // shares
        assembly.fill(length, missing)
    if missing["training"]:
        raise UserError(
            f"curriculum: {missing['training']} of {count} further problems cannot be made with "
            f"{config.min_operations} to {config.max_operations} operations; ask for fewer, or raise instances"
        )
    return assembly.finish("training", config.training)


def _assembled(config: CurriculumConfig, seed: int) -> _Assembly:
    """The problems of all four parts, unfinished."""
    assembly = _Assembly(config, seed)
    lengths = {name: config.lengths(name) for name in PART_NAMES}
    missing = dict.fromkeys(PART_NAMES, 0)
    for length in sorted({length for some in lengths.values() for length in some}):
        wanted = dict.fromkeys(PART_NAMES, 0)
        for name in PART_NAMES:
            if length in lengths[name]:
                size, shares, index = config.size(name), len(lengths[name]), lengths[name].index(length)
                wanted[name] = missing[name] + size * (index + 1) // shares - size * index // shares
        assembly.fill(length, wanted)
        missing |= {name: wanted[name] for name in PART_NAMES if length in lengths[name]}
    if any(missing.values()):
        total = sum(config.size(name) for name in PART_NAMES)
        apart = f" (self-play: {lengths['selfplay']})" if config.selfplay_operations else ""
        apart += f" (held out: {lengths['heldout']})" if config.heldout_operations else ""
        raise UserError(
            f"curriculum: {sum(missing.values())} of {total} problems cannot be made with {config.min_operations} to "
            f"{config.max_operations} operations{apart}; ask for fewer, raise max_operations or raise instances"
        )
    return assembly


class _Assembly:
    """The state of a build: what was drawn, where it was put, and the problems made so far."""

    def __init__(self, config: CurriculumConfig, seed: int):
        self.parting = Parting()
        self._config = config
        self._seed = seed
        self._rng = random.Random(f"curriculum/{seed}/templates")
        self._tried: set[Template] = set()
        self._known: set[bytes] = set()
        self._used: collections.Counter[str] = collections.Counter()
        self._used_in: dict[str, collections.Counter[tuple[str, bool]]] = {
            name: collections.Counter() for name in PART_NAMES
        }
        self._made: dict[str, list[Problem]] = {name: [] for name in PART_NAMES}

    def fill(self, length: int, missing: dict[str, int]) -> None:
        """Makes problems of `length` clauses until none is missing or templates run out; counts `missing` down."""
        fruitless = 0
        while any(missing.values()) and fruitless < PATIENCE:
            made = self._try_template(draw_template(length, self._used, self._rng), missing)
            fruitless = 0 if made else fruitless + 1

    def _try_template(self, template: Template | None, missing: dict[str, int]) -> bool:
        if template is None or template in self._tried:
            return False
        self._tried.add(template)
        kind, names = template
        found = [behaviour for item in instances(names) if (behaviour := examine(kind, item)) is not None]
        part = self._choose_part(names, found, missing)
        if part is None:
            return False
        self.parting.place(found, part)
        wanted = min(self._config.instances if part in LEARNT else 1, missing[part])
        problems = self._make_problems(template, found, wanted, part)
        self._made[part].extend(problems)
        missing[part] -= len(problems)
        self._used.update({name: len(problems) for name in (kind, *names)})
        self._used_in[part].update({(name, name == names[0]): len(problems) for name in names})
        return bool(problems)

    def _choose_part(self, names: tuple[str, ...], found: list[Behaviour], missing: dict[str, int]) -> str | None:
        """The part that the group already has, else the one that lacks its operations most; None if all are full."""
        if not found:
            return None
        linked = self.parting.parts_of(found)
        if len(linked) > 1:
            self.parting.refused += 1
            return None
        ways = [part for part in linked or missing if missing.get(part)]
        return min(ways, key=lambda part: self._plenty(part, names), default=None)

    def _plenty(self, part: str, names: tuple[str, ...]) -> float:
        """How common these operations, first or later, are in a part, by its size: keeps the parts alike."""
        return sum(self._used_in[part][name, name == names[0]] for name in names) / max(self._config.size(part), 1)

    def _make_problems(self, template: Template, found: list[Behaviour], wanted: int, part: str) -> list[Problem]:
        problems: list[Problem] = []
        for behaviour in self._rng.sample(found, len(found)):
            if len(problems) == wanted:
                break
            if self._known.isdisjoint(behaviour.blocks):
                problem = self._make_problem(template, behaviour, part)
                if problem is not None:
                    self._known.update(behaviour.blocks)
                    problems.append(problem)
        return problems

    def _make_problem(self, template: Template, behaviour: Behaviour, part: str) -> Problem | None:
        """None if its hidden tests could not tell a mistake from the reference."""
        kind, names = template
        composition = behaviour.composition
        rng = random.Random(f"curriculum/{self._seed}/{behaviour.signature.hex()}")
        cases = make_cases(kind, composition, self._config.tests, self._config.hidden_tests, rng)
        kinds = kinds_of(names, kind)
        if cases is None or kinds is None:
            return None
        form = Form.STDIN if rng.random() < self._config.stdin_share else Form.CALL
        task = Task(form, tuple(kinds), composition)
        return Problem(
            id="",
            statement=wording.statement(kind, form, composition, rng, self._phrasings(part)),
            form=form,
            tests=_tests(task, cases.own),
            hidden=_tests(task, cases.hidden),
            solutions=(wording.program(kinds, form, codes_of(composition)),),
            fn_name=wording.FUNCTION if form is Form.CALL else None,
            difficulty=f"{len(names)} operation{'s' if len(names) > 1 else ''}",
            source=SOURCE,
            compare=dict(TOKENS) if form is Form.STDIN else {},
            meta=task.to_meta(),
        )

    def _phrasings(self, part: str) -> slice:
        """Which phrasings of an operation the statements of a part use."""
        if not self._config.unseen_phrasings:
            return wording.ALL_PHRASINGS
        return wording.UNSEEN_PHRASINGS if part == "heldout" else wording.SEEN_PHRASINGS

    def finish(self, part: str, first: int = 0) -> list[Problem]:
        """The problems of a part from number `first` on, in a seeded order, with their ids."""
        problems = self._made[part][first:]
        random.Random(f"curriculum/{self._seed}/{part}").shuffle(problems)
        return [
            dataclasses.replace(problem, id=f"{SOURCE}-{self._seed}-{part}-{number:05d}")
            for number, problem in enumerate(problems, first)
        ]


def _tests(task: Task, values: list[Value]) -> tuple[TestCase, ...]:
    return tuple(task.case(value, output) for value, output in zip(values, task.outputs(values), strict=True))
