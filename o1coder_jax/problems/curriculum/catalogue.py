"""All operations, by name and by the kind of value that they read."""

from __future__ import annotations

from o1coder_jax.errors import UserError
from o1coder_jax.problems.curriculum.list_operations import LIST_OPERATIONS
from o1coder_jax.problems.curriculum.number_operations import NUMBER_OPERATIONS
from o1coder_jax.problems.curriculum.operations import Operation
from o1coder_jax.problems.curriculum.text_operations import TEXT_OPERATIONS
from o1coder_jax.problems.curriculum.values import Kind

OPERATIONS: dict[str, Operation] = {
    operation.name: operation for operation in LIST_OPERATIONS + TEXT_OPERATIONS + NUMBER_OPERATIONS
}

READERS: dict[Kind, tuple[Operation, ...]] = {
    kind: tuple(operation for operation in OPERATIONS.values() if operation.output(kind) is not None) for kind in Kind
}


def operation(name: str) -> Operation:
    """The operation of that name; `UserError` for one that this version does not know."""
    try:
        return OPERATIONS[name]
    except KeyError:
        raise UserError(
            f"operation {name!r} is not in the curriculum; make the problems anew with this version"
        ) from None
