"""One pool for each tier that this machine can give; tests of a tier that it cannot give skip with the reason."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from o1coder_jax.errors import UserError
from sandbox.pool import Pool, SandboxConfig


def tier_pool(tier: str) -> Pool:
    try:
        return Pool(SandboxConfig(workers=2, isolation=tier, cpu_seconds=0.5, wall_seconds=1.2, output_mb=1.0))  # type: ignore[arg-type]
    except UserError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="package", params=["full", "reduced"])
def pool(request: pytest.FixtureRequest) -> Iterator[Pool]:
    """A pool of an isolating tier, with short limits (0.5 s CPU, 1.2 s wall, 256 MiB, 1 MiB of output)."""
    with tier_pool(request.param) as pool:
        yield pool


@pytest.fixture(scope="package")
def trusted() -> Iterator[Pool]:
    """A pool for tests that are not about isolation."""
    with Pool(SandboxConfig(workers=1, isolation="trusted")) as pool:
        yield pool
