"""One pool for each tier that this machine can give; tests of a tier that it cannot give skip with the reason."""

from __future__ import annotations

import sys
from collections.abc import Iterator

import pytest

from o1coder_jax.errors import UserError
from sandbox.pool import Pool, SandboxConfig


def open_pool(tier: str, workers: int = 2) -> Pool:
    """A pool of this tier with short limits (1.5 s CPU, 8 s wall, 256 MiB, 1 MiB of output)."""
    return Pool(SandboxConfig(workers=workers, isolation=tier, cpu_seconds=1.5, wall_seconds=8.0, output_mb=1.0))  # type: ignore[arg-type]


def tier_pool(tier: str, workers: int = 2) -> Pool:
    """The same; skips the test where the machine cannot give the tier."""
    try:
        return open_pool(tier, workers)
    except UserError as error:
        pytest.skip(str(error))


@pytest.fixture(autouse=True)
def integer_digits() -> Iterator[None]:
    """The commands lift the interpreter's limit on the digits of integers, for their whole process."""
    before = sys.get_int_max_str_digits()
    yield
    sys.set_int_max_str_digits(before)


@pytest.fixture(scope="package", params=["full", "reduced"])
def pool(request: pytest.FixtureRequest) -> Iterator[Pool]:
    """A pool of an isolating tier, with short limits."""
    with tier_pool(request.param) as pool:
        yield pool


@pytest.fixture(scope="package")
def trusted() -> Iterator[Pool]:
    """A pool for tests that are not about isolation."""
    with Pool(SandboxConfig(workers=1, isolation="trusted")) as pool:
        yield pool
