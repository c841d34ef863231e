"""What is measured, by hand: who counts as solved, pass@k, the gap, ASPR, hard problems and cures."""

from __future__ import annotations

import types
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from o1coder_jax.generate import Sample
from o1coder_jax.records import Form, Judgement, Problem, TestCase, Verdict
from o1coder_jax.steps import END, STEP_END
from o1coder_jax.stopping import stop_ids
from tests.train.test_best import fare, kept
from tests.train.world import opened, results
from train import bootstrap, evaluate
from train.evaluate import (
    EvaluateConfig,
    Marks,
    accepted_prefixes,
    aspr,
    by_difficulty,
    cure_rates,
    hard_problems,
    hard_solved,
    mark,
    solved,
)
from train.programs import Program


def problem(name: str, difficulty: str = "") -> Problem:
    case = (TestCase("1\n", "1"),)
    return Problem(name, "s", Form.STDIN, case, hidden=case, difficulty=difficulty)


def judgement(verdict: Verdict) -> Judgement:
    return Judgement(verdict, True, int(verdict is Verdict.ACCEPTED), 1)


def program(code: str | None, tokens: Sequence[int] = (1,)) -> Program:
    return Program(Sample(tuple(tokens), (0.0,) * len(tokens), True), "", code)


def marks(hidden: list[list[float | None]], own: list[list[float | None]] | None = None) -> Marks:
    problems = [problem(str(number)) for number in range(len(hidden))]
    return Marks(problems, [[program("x")] * len(row) for row in hidden], hidden, own or hidden)


class FakeSession:
    """A session whose policy and sandbox are tables.

    A program's text says what it passes: `right` all tests, `cheat` only the own ones, `lost` cannot be checked.
    Markers: 8 ends a step, 9 a path.
    """

    def __init__(self, config: EvaluateConfig | None = None, answers: Any = None):
        self.config = types.SimpleNamespace(
            evaluate=config or EvaluateConfig(), problems=types.SimpleNamespace(source="curriculum")
        )
        self.tokenizer = types.SimpleNamespace(
            stops=lambda markers: stop_ids(200, (8, 9)), decode=lambda tokens: self.texts[tuple(tokens)]
        )
        self.texts: dict[tuple[int, ...], str] = {}
        self.answers = answers
        self.asked: list[list[int]] = []

    def prompts(self, problems: Sequence[Problem]) -> list[list[int]]:
        return [[100 + int(one.id)] for one in problems]

    def generate(self, weights: Any, prompts: Sequence[Sequence[int]], **options: Any) -> list[list[Sample]]:
        self.asked = [list(prompt) for prompt in prompts]
        drawn: list[list[Sample]] = self.answers(prompts)
        return drawn

    def judge_all(self, programs: Any, *, hidden: bool = False) -> list[Judgement | None]:
        verdicts = {
            "right": Verdict.ACCEPTED,
            "cheat": Verdict.WRONG_ANSWER if hidden else Verdict.ACCEPTED,
            "lost": Verdict.INFRA_ERROR,
        }
        return [None if code is None else judgement(verdicts.get(code, Verdict.WRONG_ANSWER)) for _, code in programs]


@pytest.fixture
def policy_writes(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Sets what the policy writes: one list of programs for each problem's id."""

    def write(table: dict[str, list[str | None]]) -> None:
        def sample(session: Any, policy: Any, problems: Sequence[Problem], *, samples: int, **rest: Any) -> Any:
            return [[program(code) for code in table[one.id][:samples]] for one in problems]

        monkeypatch.setattr(evaluate, "sample_programs", sample)

    return write


POLICY: Any = types.SimpleNamespace(weights=None)


# Who counts as solved.


def test_no_program_is_not_solved():
    assert solved(None) == 0.0


def test_verdict_that_could_not_be_had_is_unknown():
    assert solved(judgement(Verdict.INFRA_ERROR)) is None


def test_accepted_is_solved_and_anything_else_is_not():
    assert solved(judgement(Verdict.ACCEPTED)) == 1.0 and solved(judgement(Verdict.TIME_LIMIT)) == 0.0


def test_hidden_tests_are_what_counts(policy_writes: Any):
    policy_writes({"0": ["cheat"], "1": ["right"]})
    made = mark(FakeSession(), POLICY, [problem("0"), problem("1")], samples=1, greedy=True)  # type: ignore[arg-type]
    assert made.pass_at(1) == 0.5 and made.gap == 0.5


def test_marks_keep_samples_with_their_problem(policy_writes: Any):
    policy_writes({"0": ["right", "wrong"], "1": [None, "lost"]})
    made = mark(FakeSession(), POLICY, [problem("0"), problem("1")], samples=2, greedy=False)  # type: ignore[arg-type]
    assert made.hidden == [[1.0, 0.0], [0.0, None]]


# pass@k and the gap.


def test_pass_at_one_is_the_mean_share_of_right_samples():
    assert marks([[1.0, 0.0, 0.0, 0.0], [1.0, 1.0, 1.0, 1.0]]).pass_at(1) == pytest.approx(0.625)


def test_pass_at_k_is_the_unbiased_estimate():
    # One of four right, two drawn: 1 - C(3, 2) / C(4, 2) = 1 / 2.
    assert marks([[1.0, 0.0, 0.0, 0.0]]).pass_at(2) == pytest.approx(0.5)


def test_unchecked_samples_are_left_out():
    assert marks([[1.0, None], [0.0, 0.0]]).pass_at(1) == pytest.approx(0.5)


def test_problems_with_too_few_checked_samples_are_left_out():
    assert marks([[1.0, None], [0.0, 0.0]]).pass_at(2) == 0.0


def test_pass_at_over_some_problems():
    assert marks([[1.0], [0.0], [1.0]]).pass_at(1, [0, 2]) == 1.0


def test_pass_at_of_nothing_is_unknown():
    assert marks([]).pass_at(1) is None


def test_gap_is_own_minus_hidden():
    assert marks([[1.0, 0.0], [0.0, None]], [[1.0, 1.0], [1.0, None]]).gap == pytest.approx(1 - 1 / 3)


def test_problems_are_grouped_by_difficulty():
    groups = by_difficulty([problem("0", "hard"), problem("1"), problem("2", "hard")])
    assert groups == {"hard": [0, 2], "unknown": [1]}


# ASPR.

STEP, LAST = [1, 8], [2, 9]


def test_prefix_ends_before_the_last_step():
    one = Marks([problem("0")], [[program("x", [*STEP, *STEP, *LAST])]], [[1.0]], [[1.0]])
    assert accepted_prefixes(FakeSession(), one) == [(problem("0"), [100, *STEP, *STEP])]  # type: ignore[arg-type]


def test_prefix_of_a_path_of_one_step_is_the_prompt():
    one = Marks([problem("0")], [[program("x", LAST)]], [[1.0]], [[1.0]])
    assert accepted_prefixes(FakeSession(), one) == [(problem("0"), [100])]  # type: ignore[arg-type]


def test_only_accepted_terminals_have_prefixes():
    one = Marks([problem("0")], [[program("x", LAST)] * 2], [[0.0, None]], [[1.0, 1.0]])
    assert accepted_prefixes(FakeSession(), one) == []  # type: ignore[arg-type]


def test_parent_of_two_terminals_counts_once():
    drawn = [program("x", [*STEP, *LAST]), program("y", [*STEP, 3, 9])]
    assert len(accepted_prefixes(FakeSession(), Marks([problem("0")], [drawn], [[1.0, 1.0]], [[1.0, 1.0]]))) == 1  # type: ignore[arg-type]


def code_step(code: str) -> str:
    return f"2. code:\n```python\n{code}\n```{END}"


def test_aspr_is_the_mean_over_paths_then_over_problems():
    # Problem 0: two paths, 2/2 and 0/2 right; problem 1: one path, 1/2 right.
    table = {100: "rr", 101: "ww", 102: "rw"}
    session = FakeSession(
        EvaluateConfig(aspr_samples=2),
        lambda prompts: [[Sample((ord(one),), (0.0,), True) for one in table[prompt[0]]] for prompt in prompts],
    )
    session.texts = {(ord("r"),): code_step("right"), (ord("w"),): code_step("wrong")}
    prefixes = [(problem("0"), [100]), (problem("0"), [101]), (problem("1"), [102])]
    assert aspr(session, POLICY, prefixes) == {"rate": 0.5, "problems": 2}  # type: ignore[arg-type]


@pytest.mark.parametrize(("text", "ended"), [(f"2. refine: more{STEP_END}", True), (code_step("right"), False)])
def test_answer_that_is_no_whole_code_step_has_failed(text: str, ended: bool):
    session = FakeSession(EvaluateConfig(aspr_samples=1), lambda prompts: [[Sample((5,), (0.0,), ended)]])
    session.texts = {(5,): text}
    assert aspr(session, POLICY, [(problem("0"), [100])])["rate"] == 0.0  # type: ignore[arg-type]


def test_path_whose_samples_could_not_be_checked_is_left_out():
    session = FakeSession(EvaluateConfig(aspr_samples=1), lambda prompts: [[Sample((5,), (0.0,), True)]])
    session.texts = {(5,): code_step("lost")}
    assert aspr(session, POLICY, [(problem("0"), [100])]) == {"rate": None, "problems": 0}  # type: ignore[arg-type]


# Hard problems.


def hard_session(config: EvaluateConfig, rows: Sequence[dict[str, Any]] = ()) -> Any:
    session: Any = FakeSession(config)
    problems = [problem(str(number)) for number in range(4)]
    session.parts = types.SimpleNamespace(selfplay=problems)
    session.problem = {one.id: one for one in problems}
    session.run = types.SimpleNamespace(read=lambda name: iter(rows))
    return session


def test_hard_is_what_no_sample_solves(policy_writes: Any):
    policy_writes({"0": ["right"] * 8, "1": ["wrong"] * 8, "2": ["cheat"] * 8, "3": ["wrong"] * 7 + ["right"]})
    assert hard_problems(hard_session(EvaluateConfig(hard_samples=8)), POLICY) == ["1", "2"]


def test_solved_problems_are_not_sampled_again(policy_writes: Any, monkeypatch: pytest.MonkeyPatch):
    asked: list[int] = []

    def sample(session: Any, policy: Any, problems: Sequence[Problem], *, samples: int, **rest: Any) -> Any:
        asked.append(len(problems) * samples)
        return [[program("right" if one.id == "0" else "wrong")] * samples for one in problems]

    monkeypatch.setattr(evaluate, "sample_programs", sample)
    hard_problems(hard_session(EvaluateConfig(hard_samples=12)), POLICY)
    assert asked == [4 * 8, 3 * 4]


def row(name: str, code: str, verdict: str = "accepted") -> dict[str, Any]:
    from tests.train.world import record

    made = record(name, [([1], 1.0)], verdict=Verdict(verdict)).to_json()
    return {**made, "code": code}


def test_hard_problem_is_solved_by_either_way(policy_writes: Any):
    policy_writes({"0": ["right"], "1": ["wrong"], "2": ["wrong"], "3": ["cheat"]})
    # Problem 2 has a path that passes its own tests only; problem 0 is no hard one by search.
    rows = [row("1", "right"), row("2", "cheat"), row("3", "right", "wrong_answer")]
    found = hard_solved(hard_session(EvaluateConfig(), rows), POLICY, ["0", "1", "2", "3"])
    assert found == {"problems": 4, "solved": 2, "solved_greedy": 1, "solved_by_search": 1, "share": 0.5}


def test_no_hard_problems_have_no_share():
    found = hard_solved(hard_session(EvaluateConfig()), POLICY, [])
    assert found["problems"] == 0 and found["share"] is None


# Cures.


def test_cure_rate_is_over_problems_that_carry_the_habit(monkeypatch: pytest.MonkeyPatch):
    habits = {"0": ["a", "b"], "1": ["a"], "2": []}
    teacher = types.SimpleNamespace(misconceptions=lambda one: habits[one.id])
    monkeypatch.setattr(bootstrap, "teacher_of", lambda session: teacher)
    rates = cure_rates(FakeSession(), marks([[1.0], [0.0], [1.0]]))  # type: ignore[arg-type]
    assert rates == {"a": {"rate": 0.5, "problems": 2}, "b": {"rate": 1.0, "problems": 1}}


def test_problems_from_a_file_have_no_cures():
    session = FakeSession()
    session.config.problems.source = "taco"
    assert cure_rates(session, marks([[1.0]])) == {}  # type: ignore[arg-type]


# The stage.


def test_stage_reports_every_figure(wee: Path):
    result = results(wee)["002-evaluate"]
    assert {"pass_at_1_greedy", "pass_at_1_sampled", "pass_at_4", "reward_test_gap", "validation_greedy"} <= set(result)
    assert result["aspr"]["of"] == 2 and result["executions"] > 0


def test_base_knows_its_problems_by_heart(wee: Path):
    assert results(wee)["000-evaluate"]["pass_at_4"] > 0


def test_fewer_problems_may_be_sampled(wee: Path, runs: Path):
    with opened(wee, runs, upto="001-rl", evaluate={"sampled_problems": 1, "aspr_samples": 1}) as session:
        fare(session.run.folder, 2.0)  # better than any other
        evaluate.run(session, 1)
        result = session.require("001-evaluate", "")
        assert kept(session.run.folder) == "policy-000"
    assert result["aspr"]["of"] == 1 and result["pass_at_1_greedy"] == results(wee)["001-evaluate"]["pass_at_1_greedy"]
    assert result["pass_at_4"] in (0.0, 1.0)


def test_stage_needs_the_base_to_be_measured_before_it_begins(wee: Path, runs: Path):
    from o1coder_jax.errors import UserError

    with opened(wee, runs, upto="001-rl") as session:
        (session.run.folder / "stages" / "000-evaluate.json").unlink()
        with pytest.raises(UserError, match=r"stage 000-evaluate is not finished; run python -m train.evaluate"):
            evaluate.run(session, 1)
