"""What an operation is: phrasings for the statement, the right variant, and named plausible mistakes.

A variant is one pseudocode line and the Python expression that translates it; both are templates over the
operation's parameter, with the marks `{k}`, `{k+1}` and `{k-1}`. In the expression the value is called `a`.
All variants of an operation yield the same kind of value, end quickly, and stay small.
"""

from __future__ import annotations

import dataclasses

from o1coder_jax.problems.curriculum.values import Kind

Parameter = int | str | None

CORRECT = "correct"


@dataclasses.dataclass(frozen=True, slots=True)
class Variant:
    """One way to do an operation; `name` is `correct` or that of the mistake."""

    name: str
    pseudocode: str
    code: str

    def filled(self, value: Parameter) -> Variant:
        """The same variant with the parameter's value in place of its marks."""
        return Variant(self.name, fill(self.pseudocode, value), fill(self.code, value))


@dataclasses.dataclass(frozen=True, slots=True)
class Operation:
    """One clause of a problem, over all values of its parameter.

    Attributes:
      name: unique in the catalogue.
      signatures: pairs (kind of the input, kind of the output) that the same code serves.
      values: of the parameter; `(None,)` for an operation without one.
      phrasings: templates of the statement's clause.
      correct: the right variant.
      mistakes: none of which computes the same as `correct`.
    """

    name: str
    signatures: tuple[tuple[Kind, Kind], ...]
    values: tuple[Parameter, ...]
    phrasings: tuple[str, ...]
    correct: Variant
    mistakes: tuple[Variant, ...]

    @property
    def variants(self) -> tuple[Variant, ...]:
        return (self.correct, *self.mistakes)

    def output(self, kind: Kind) -> Kind | None:
        """The kind that comes out of `kind`; None where the operation does not apply."""
        return dict(self.signatures).get(kind)

    def mistake(self, name: str) -> Variant:
        return next(variant for variant in self.mistakes if variant.name == name)


def fill(template: str, value: Parameter) -> str:
    """Puts a parameter's value in place of `{k}`, and its neighbours in place of `{k+1}` and `{k-1}`."""
    filled = template.replace("{k}", str(value))
    if isinstance(value, int):
        filled = filled.replace("{k+1}", str(value + 1)).replace("{k-1}", str(value - 1))
    return filled


def keep(name: str, condition: str) -> Variant:
    """Filters a list by a condition on x."""
    return Variant(name, f"keep {condition}", f"[x for x in a if {condition}]")


def each(name: str, expression: str) -> Variant:
    """Maps a list by an expression in x."""
    return Variant(name, f"each {expression}", f"[{expression} for x in a]")


def part(name: str, expression: str) -> Variant:
    """An expression short enough to be its own pseudocode."""
    return Variant(name, expression, expression)


def keep_letters(name: str, condition: str) -> Variant:
    """Filters a text by a condition on c."""
    return Variant(name, f"keep {condition}", f"''.join(c for c in a if {condition})")
