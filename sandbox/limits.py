"""What a program under test may use."""

from __future__ import annotations

import dataclasses

from o1coder_jax.errors import UserError

_MOST = 1_000_000  # beyond any machine, within what the kernel takes


@dataclasses.dataclass(frozen=True)
class Limits:
    """Limits of one test; of compilation, too.

    Attributes:
      cpu_seconds: on the program's own CPU clock, so that a busy machine does not fail right programs.
      wall_seconds: on the wall clock, for programs that sleep or hang; a few times `cpu_seconds`.
      memory_mb: address space (MiB) above that of a bare interpreter.
      output_mb: standard output, or the returned value as JSON (MiB).
    """

    cpu_seconds: float = 2.0
    wall_seconds: float = 6.0
    memory_mb: int = 256
    output_mb: float = 4.0

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            number = isinstance(value, (int, float)) and not isinstance(value, bool)
            if not number or not 0 < value <= _MOST:  # NaN is neither
                raise UserError(
                    f"sandbox limit {field.name} is {value!r:.40}; give a number above 0, {_MOST:,} at most"
                )

    @property
    def output_bytes(self) -> int:
        return int(self.output_mb * (1 << 20))

    @property
    def memory_bytes(self) -> int:
        return int(self.memory_mb * (1 << 20))
