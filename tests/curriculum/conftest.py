"""One default curriculum for all tests of this folder (about 7 s), and its teacher."""

from __future__ import annotations

import pytest

from o1coder_jax.problems.curriculum import CurriculumConfig, Parts, Teacher, build


@pytest.fixture(scope="session")
def parts() -> Parts:
    return build(CurriculumConfig(), seed=0)


@pytest.fixture(scope="session")
def teacher() -> Teacher:
    return Teacher(CurriculumConfig(), seed=0)
