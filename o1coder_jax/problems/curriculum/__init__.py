"""A seeded curriculum of list and text problems, and its unreliable teacher.

    parts = build(CurriculumConfig(), seed=0)
    teacher = Teacher(CurriculumConfig(), seed=0)
    print(parts.training[0].statement, teacher.most_likely(parts.training[0]))

Problems are compositions of one to five operations out of the catalogue; what identifies one is what it
computes. Examples and counts: `python -m o1coder_jax.problems.curriculum --seed 0 --show 3`.
Standard library only.
"""

from o1coder_jax.problems.curriculum.assembly import build, build_further
from o1coder_jax.problems.curriculum.config import CurriculumConfig, Parts, TeacherConfig
from o1coder_jax.problems.curriculum.lessons import random_cases, traces, worked_cases
from o1coder_jax.problems.curriculum.task import SOURCE, reference_outputs
from o1coder_jax.problems.curriculum.teacher import Teacher, teacher_accuracy

__all__ = [
    "SOURCE",
    "CurriculumConfig",
    "Parts",
    "Teacher",
    "TeacherConfig",
    "build",
    "build_further",
    "random_cases",
    "reference_outputs",
    "teacher_accuracy",
    "traces",
    "worked_cases",
]
