"""Statements, and answers in the step grammar of `o1coder_jax.steps`.

An answer is one define step (input, number of parts, output), one refine step per clause, and a program that
translates the refine steps line by line, so that a wrong clause shows in its step and in the program alike. Clause,
refine step and commented line carry the same number: a small model finds its place by it.
"""

from __future__ import annotations

import random
from collections.abc import Sequence

from o1coder_jax import steps
from o1coder_jax.problems.curriculum.behaviour import Composition
from o1coder_jax.problems.curriculum.catalogue import operation
from o1coder_jax.problems.curriculum.operations import Variant, fill
from o1coder_jax.problems.curriculum.values import Kind
from o1coder_jax.records import Form

FUNCTION = "f"
ALL_PHRASINGS, SEEN_PHRASINGS, UNSEEN_PHRASINGS = slice(None), slice(-1), slice(-1, None)

_HEADERS = {
    Form.STDIN: ("Read a {kind}, print the result:", "Input: a {kind}. Print the result:"),
    Form.CALL: ("Write f(a) for a {kind} a:", "f(a) gets a {kind}, returns the result:"),
}
_READ = {Kind.LIST: "a = list(map(int, input().split()))", Kind.TEXT: "a = input()"}


def statement(
    kind: Kind, form: Form, composition: Composition, rng: random.Random, phrasings: slice = ALL_PHRASINGS
) -> str:
    """A line that says the form and the input, then one numbered line per clause, in some of its phrasings."""
    lines = [rng.choice(_HEADERS[form]).format(kind=kind)]
    for number, clause in enumerate(composition, 1):
        phrasing = rng.choice(operation(clause.operation).phrasings[phrasings])
        lines.append(f"{number}. {fill(phrasing, clause.value)}")
    return "\n".join(lines)


def program(kinds: Sequence[Kind], form: Form, codes: Sequence[str]) -> str:
    """The program of a chain of expressions; `kinds` has the input's kind first and the output's last."""
    body = [line for number, code in enumerate(codes, 1) for line in (f"# {number}", f"a = {code}")]
    if form is Form.CALL:
        return "\n    ".join([f"def {FUNCTION}(a):", *body, "return a"])
    return "\n".join([_READ[kinds[0]], *body, "print(*a)" if kinds[-1] is Kind.LIST else "print(a)"])


def answer(kinds: Sequence[Kind], form: Form, variants: Sequence[Variant]) -> str:
    """The text of a whole path, with the markers of its steps."""
    begin, end = ("read", "print") if form is Form.STDIN else ("get", "return")
    define = f"{begin} {kinds[0]}, {len(variants)} parts, {end} {kinds[-1]}"
    path = [steps.render_step(0, steps.Action.DEFINE, define)]
    for number, variant in enumerate(variants, 1):
        path.append(steps.render_step(number, steps.Action.REFINE, variant.pseudocode))
    code = program(kinds, form, [variant.code for variant in variants])
    return "".join([*path, steps.render_step(len(variants) + 1, steps.Action.CODE, code)])
