"""The test case generator: it learns the template, prefers matching pairs, and what it writes is checked."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import random
import types
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from o1coder_jax.errors import UserError
from o1coder_jax.generate import Sample
from o1coder_jax.records import Form, Judgement, Problem, TestCase, TestResult, Verdict
from tests.train.world import opened, read_lines, results
from train import tcg
from train.bootstrap import case_text
from train.data import BatchConfig, Example, example, padded_batch
from train.session import Session
from train.step import sequence_scores
from train.tcg import TCGConfig, answers, examples, measures, preferences, stage
from train.tcg.answers import Answers, reward_tests, valid_cases
from train.tcg.examples import dpo_batch, draws
from train.tcg.measures import Field, Share, figures_of, random_suite, valid_suite, wrong_programs
from train.tcg.stage import balanced, fitting_pairs

CASES = tuple(TestCase(f"{i}\n", str(i)) for i in range(5))
CALLS = (TestCase([[1, 2]], 4),)
NOTHING = Sample((), (), ended=True)


def problem(name: str = "a", tests: Sequence[TestCase] = CASES) -> Problem:
    return Problem(name, "s", Form.STDIN, tuple(tests), hidden=tuple(tests), solutions=("print(input())",))


# Examples.


def test_cases_are_drawn_without_replacement():
    for drawn in draws(problem(), TCGConfig(cases=3, examples_per_problem=20), random.Random(0)):
        assert len({case.input for case in drawn}) == 3


def test_problem_with_few_tests_gives_all_of_them():
    drawn = draws(problem(tests=CASES[:2]), TCGConfig(cases=3, examples_per_problem=4), random.Random(0))
    assert [len(cases) for cases in drawn] == [2] * 4


def test_problem_without_tests_gives_no_example():
    assert draws(problem(tests=()), TCGConfig(), random.Random(0)) == []


def test_short_inputs_are_drawn_anew_and_have_true_outputs():
    one, config = curriculum_problem(), TCGConfig(inputs="short", cases=2, examples_per_problem=8)
    drawn = [case for cases in draws(one, config, random.Random(0)) for case in cases]
    assert len(drawn) == 16 and all(case.output == sum(n + 1 for n in case.input[0]) for case in drawn)
    own = [case.input for case in one.tests]
    assert sum(case.input not in own for case in drawn) > 12


def test_a_template_of_ones_own_is_written_and_read(monkeypatch: pytest.MonkeyPatch):
    session: Any = Asked(monkeypatch, ["3.<END>"], template="({input}) => {output}.")
    one = problem(tests=[TestCase("1 2\n", "3")])
    [learnt, _], _ = examples.sft_examples(session, [one], random.Random(0))
    assert answer_of(learnt) == "(1 2) => 3.<END>"
    read = answers.read(session, one, [sample("(1 2) => 3.<Step_End>in: 1\nout: 2<END>")])
    assert read == Answers([TestCase("1 2\n", "3\n")], 1)
    cases, _ = answers.completed(session, None, [one], ["4\n"], salt=0)
    assert session.prompts == ["?(4) => "] and cases == [TestCase("4\n", "3\n")]


def test_chosen_and_rejected_lie_in_neighbouring_rows():
    pairs: list[tuple[Example, Example]] = [(example([1], [2]), example([1], [3]))]
    batch = dpo_batch(pairs, TCGConfig(dpo_pairs=2), 8)
    assert batch["tokens"][:, 1].tolist() == [2, 3, 0, 0] and batch["valid"].tolist() == [1, 1, 0, 0]


# What is made of its answers, with a sandbox that is made up: a program fails the inputs that hold its text.


class FakeSandbox:
    """A session that answers submissions at once."""

    def __init__(self, broken: bool = False):
        self.config = types.SimpleNamespace(tcg=TCGConfig(suite=2, cases=1), seed=0)
        self.broken = broken

    @property
    def judging(self) -> FakeSandbox:
        return self

    def submit_all(self, submissions: Sequence[Any]) -> types.SimpleNamespace:
        verdicts = [None if one is None else self._judge(one) for one in submissions]
        return types.SimpleNamespace(result=lambda: verdicts)

    def outputs_all(self, work: Sequence[Any]) -> list[list[tuple[TestResult, Any]]]:
        return [self._outputs(inputs) if inputs else [] for _, inputs, _ in work]

    def judge_all(self, programs: Any, *, hidden: bool = False) -> list[Judgement | None]:
        assert hidden
        return [
            None if code is None else self._judge(types.SimpleNamespace(code=code, tests=one.hidden))
            for one, code in programs
        ]

    def _outputs(self, inputs: Sequence[Any]) -> list[tuple[TestResult, Any]]:
        return [
            (TestResult(Verdict.RUNTIME_ERROR), None) if "x" in one else (TestResult(Verdict.ACCEPTED), f"<{one}>")
            for one in inputs
        ]

    def load_policy(self, name: str) -> None:
        assert name == "policy-000"

    def _judge(self, submission: Any) -> Judgement:
        if self.broken:  # as the pool says it: one result for all tests
            return Judgement(Verdict.INFRA_ERROR, False, 0, 3, (TestResult(Verdict.INFRA_ERROR),))
        tests = tuple(
            TestResult(Verdict.WRONG_ANSWER if submission.code in test.input else Verdict.ACCEPTED)
            for test in submission.tests
        )
        failed = [one for one in tests if one.verdict is not Verdict.ACCEPTED]
        verdict = failed[0].verdict if failed else Verdict.ACCEPTED
        return Judgement(verdict, True, len(tests) - len(failed), len(tests), tests)


def test_valid_cases_are_those_that_the_reference_passes():
    one = Problem("a", "s", Form.STDIN, CASES, solutions=("2",))
    valid = valid_cases(FakeSandbox(), [one], [Answers(list(CASES[:4]), 0)])  # type: ignore[arg-type]
    assert valid == [[True, True, False, True]]


def test_problem_without_a_readable_case_has_no_valid_one():
    valid = valid_cases(FakeSandbox(), [problem(), problem("b")], [Answers([], 3), Answers([CASES[0]], 0)])  # type: ignore[arg-type]
    assert valid == [[], [True]]


def test_cases_that_could_not_be_checked_are_neither_valid_nor_invalid():
    answers = [Answers(list(CASES[:3]), 1)]
    valid = valid_cases(FakeSandbox(broken=True), [problem()], answers)  # type: ignore[arg-type]
    assert valid == [[None, None, None]]
    assert figures_of([problem()], answers, valid)["validity"] == 0.0  # of the piece that is no case
    assert figures_of([problem()], answers, [[True, None, False]])["validity"] == 1 / 3


def test_marks_by_problem_come_to_the_rate():
    share = Share([1, 0, 6], [2, 0, 8])
    assert share.rate == 0.7 and np.mean(share.marks()) == pytest.approx(0.7)
    assert Share([0], [0]).rate is None and Share([0], [0]).marks() == []


def test_figures_count_pieces_that_could_not_be_read():
    read = [Answers([TestCase("1 2\n", "1"), TestCase("3 3\n", "2")], 1), Answers([TestCase("1 2\n", "3")], 0)]
    figures = figures_of([problem(), problem("b")], read, [[True, False], [True]])
    assert figures == {"validity": 0.5, "malformed": 0.25, "input_characters": 3.0, "distinct": 1.0, "trivial": 1 / 3}


@pytest.mark.parametrize(("suite", "cases", "spare", "answers"), [(8, 3, 0, 3), (8, 2, 0, 4), (8, 3, 2, 5)])
def test_answers_that_are_asked_for_a_suite(suite: int, cases: int, spare: int, answers: int):
    assert TCGConfig(suite=suite, cases=cases, spare_answers=spare).answers == answers


def test_repeated_inputs_of_one_problem_are_not_distinct():
    assert figures_of([problem()], [Answers([CASES[0], CASES[1], CASES[0]], 0)], [[True] * 3])["distinct"] == 2 / 3


def test_figures_of_nothing_are_unknown():
    assert set(figures_of([problem()], [Answers([], 0)], [[]]).values()) == {None}


@pytest.fixture
def base_writes(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Sets the programs that the base policy writes."""

    def write(*codes: str | None) -> None:
        drawn = [[types.SimpleNamespace(code=code, sample=NOTHING)] for code in codes]
        monkeypatch.setattr(measures, "sample_programs", lambda *arguments, **options: drawn)

    return write


def rate(read: list[Answers], valid: list[list[bool]], *, broken: bool = False) -> tuple[float | None, int]:
    problems = [problem(str(number)) for number in range(len(read))]
    session: Any = FakeSandbox(broken)
    field = Field(problems, wrong_programs(session, problems)[0], [])
    killed = field.killed(session, [valid_suite(a, fine, 2) for a, fine in zip(read, valid, strict=True)])
    return killed.rate, sum(killed.of)


def test_programs_that_could_not_be_checked_are_not_counted_among_the_killed():
    sandbox: Any = FakeSandbox(broken=True)
    killed = Field([problem(), problem("b")], [["1", "2"], ["1"]], []).killed(sandbox, [[CASES[1]], []])
    assert (killed.counts, killed.of) == ([0, 0], [0, 1])  # no tests reject nothing


def test_kill_rate_is_over_wrong_programs(base_writes: Any):
    base_writes("1", "1", "none")  # "1" fails the hidden test with that input, "none" passes all
    killing, harmless = Answers([CASES[1]], 0), Answers([CASES[2]], 0)
    assert rate([killing, harmless, killing], [[True], [True], [True]]) == (0.5, 2)


def test_invalid_cases_kill_nothing(base_writes: Any):
    base_writes("1")
    assert rate([Answers([CASES[1]], 0)], [[False]]) == (0.0, 1)


def test_only_the_first_distinct_cases_kill(base_writes: Any):
    base_writes("1")
    assert rate([Answers([CASES[2], CASES[2], CASES[3], CASES[1]], 0)], [[True] * 4]) == (0.0, 1)


def test_an_invalid_case_takes_its_place_among_the_first():
    assert valid_suite(Answers([CASES[2], CASES[3], CASES[1]], 0), [False, True, True], 2) == [CASES[3]]


def test_programs_that_repeat_count_once(base_writes: Any, monkeypatch: pytest.MonkeyPatch):
    drawn = [[types.SimpleNamespace(code=code, sample=NOTHING) for code in ("1", "2", "1", None)]]
    monkeypatch.setattr(measures, "sample_programs", lambda *arguments, **options: drawn)
    session: Any = FakeSandbox()
    assert wrong_programs(session, [problem()])[0] == [["1", "2"]]


def test_programs_that_could_not_be_checked_are_not_wrong(base_writes: Any):
    base_writes("1")
    assert rate([Answers([CASES[1]], 0)], [[True]], broken=True) == (None, 0)


def test_answer_without_a_program_is_no_wrong_program(base_writes: Any):
    base_writes(None)
    assert rate([Answers([CASES[1]], 0)], [[True]]) == (None, 0)


def test_reward_tests_have_the_outputs_of_the_reference(monkeypatch: pytest.MonkeyPatch):
    written = Answers([TestCase("1", "wrong"), TestCase("x", "2"), TestCase("1", "3"), TestCase("4", "4")], 1)
    monkeypatch.setattr(answers, "generated", lambda *arguments, **options: ([written], 17))
    [row], tokens = reward_tests(FakeSandbox(), None, [problem()])  # type: ignore[arg-type]
    # At most two distinct inputs; the second makes the reference fail.
    assert row == {"problem_id": "a", "tests": [{"input": "1", "output": "<1>"}], "malformed": 1} and tokens == 17


def test_random_suites_of_file_problems_are_their_own_tests():
    drawn = random_suite(problem(), 3, random.Random(0))
    assert len(drawn) == 3 and {case.input for case in drawn} <= {case.input for case in CASES}
    assert len(random_suite(problem(tests=CASES[:2]), 8, random.Random(0))) == 2


# Preferences from its own answers.


class Generator(FakeSandbox):
    """A session whose generator has answered; token ids are characters."""

    def __init__(self, **settings: Any):
        super().__init__()
        self.config.tcg = TCGConfig(suite=2, cases=2, batch=BatchConfig(2, 64), **settings)
        vocabulary = types.SimpleNamespace(
            encode=lambda text: list(map(ord, text)), decode=lambda ids: "".join(map(chr, ids))
        )
        asked = types.SimpleNamespace(encode=lambda vocabulary, text, cap, keep_end: ([63], False))
        self.generator = types.SimpleNamespace(vocabulary=vocabulary, prompt=asked)


def sample(text: str, ended: bool = True) -> Sample:
    return Sample(tuple(map(ord, text)), (0.0,) * len(text), ended)


def answer_of(one: Example) -> str:
    return "".join(chr(i) for i, weight in zip(one["tokens"], one["weight"], strict=True) if weight)


def test_wrong_outputs_lose_to_right_ones_for_the_same_inputs(monkeypatch: pytest.MonkeyPatch):
    texts = [
        "in: 4\nout: <4\n><END>",  # as the reference of this sandbox has it, but "in: 5" is failed by code "5"
        "in: 5\nout: 7<Step_End>in: 6\nout: 8<END>",
        "in: 5\nout: 7<Step_End>nothing<END>",
        "in: 5x\nout: 7<END>",
    ]
    drawn = [[sample(text)] for text in texts]
    monkeypatch.setattr(preferences, "sampled", lambda *arguments, **options: drawn)
    session: Any = Generator()
    problems = [Problem("a", "s", Form.STDIN, CASES, solutions=("5",)) for _ in texts]
    [(right, wrong)], tokens = preferences.corrected_pairs(session, None, problems)
    assert answer_of(wrong) == texts[1] and tokens == sum(map(len, texts))
    assert answer_of(right) == "in: 5\nout: <5\n><Step_End>in: 6\nout: <6\n><END>"


def test_a_pair_from_the_first_difference_speaks_of_little_more_than_the_mistake():
    better, worse = preferences.from_difference([9], [1, 2, 3, 4], [1, 2, 5, 6, 7], 1)
    assert better["tokens"].tolist() == [9, 1, 2, 3] and worse["tokens"].tolist() == [9, 1, 2, 5]
    assert better["weight"].tolist() == worse["weight"].tolist() == [0, 0, 0, 1]
    whole, other = preferences.from_difference([9], [1, 2], [1, 3], 0)
    assert whole["weight"].tolist() == other["weight"].tolist() == [0, 1, 1]


def test_invalid_tests_lose_to_valid_ones_of_their_problem(monkeypatch: pytest.MonkeyPatch):
    texts = [  # what holds "5" is invalid, and so is what cannot be read; "4" is trivial
        "in: 1 2\nout: 0<Step_End>in: 5 1\nout: 0<END>",
        "in: 4\nout: 0<Step_End>nothing<END>",
    ]
    drawn = [[sample(text) for text in texts], [sample("in: 7 2\nout: 0<Step_End>in: 1 2\nout: 0<END>")]]
    monkeypatch.setattr(preferences, "sampled", lambda *arguments, **options: drawn)
    session: Any = Generator()
    problems = [Problem(name, "s", Form.STDIN, CASES, solutions=("5",)) for name in "ab"]
    [(right, wrong)], tokens = preferences.compared_pairs(session, None, problems)
    assert answer_of(right) == "in: 1 2\nout: 0" and answer_of(wrong) == "in: 5 1\nout: 0"
    assert tokens == sum(len(one.tokens) for of in drawn for one in of)


def test_an_answer_is_cut_at_the_markers():
    vocabulary: Any = Generator().generator.vocabulary
    cut = preferences.pieces(vocabulary, list(map(ord, "ab<Step_End>c<END>")))
    assert ["".join(map(chr, one)) for one in cut] == ["ab", "c"]
    assert preferences.pieces(vocabulary, list(map(ord, "ab<Step_End>c"))) == [list(map(ord, "ab"))]


def test_answers_whose_valid_tests_reject_wrong_programs_win(monkeypatch: pytest.MonkeyPatch):
    drawn = [
        [sample(f"in: {value}\nout: 0<END>") for value in (2, 1, 9, 3)],  # "1" rejects the program "1", 9 is invalid
        [sample("in: 2\nout: 0<END>")] * 4,
    ]
    monkeypatch.setattr(preferences, "sampled", lambda *arguments, **options: drawn)
    monkeypatch.setattr(preferences, "wrong_programs", lambda *arguments: ([["1"], ["1"]], 0))
    session: Any = Generator()
    problems = [Problem(name, "s", Form.STDIN, CASES, solutions=("9",)) for name in "ab"]
    [(best, worst)], _ = preferences.coevolution_pairs(session, None, problems)
    assert (answer_of(best), answer_of(worst)) == ("in: 1\nout: 0<END>", "in: 9\nout: 0<END>")


def test_what_could_not_be_checked_is_on_no_side_of_a_pair(monkeypatch: pytest.MonkeyPatch):
    drawn = [[sample("in: 7 2\nout: 0<Step_End>nothing<END>"), *[sample("in: 1 2\nout: 0<END>")] * 3]]
    monkeypatch.setattr(preferences, "sampled", lambda *arguments, **options: drawn)
    monkeypatch.setattr(preferences, "wrong_programs", lambda *arguments: ([["1"]], 0))
    asked = [Problem("a", "s", Form.STDIN, CASES, solutions=("5",))]
    for broken, pairs in ((False, 1), (True, 0)):
        session: Any = Generator()
        session.broken = broken
        assert len(preferences.compared_pairs(session, None, asked)[0]) == pairs
        assert len(preferences.coevolution_pairs(session, None, asked)[0]) == pairs


def test_pairs_that_do_not_fit_a_row_are_left_out():
    short, long = example([1], [2, 3]), example([1], [2, 3, 4])
    assert fitting_pairs([(short, short), (short, long)], 3) == [(short, short)]


@pytest.mark.parametrize(
    ("settings", "made", "shuffled_from"),
    [
        ({}, {}, 6),
        ({"shuffled": False, "corrected_problems": 2}, {"corrected": 2}, None),
        (
            {"shuffled": False, "compared_problems": 3, "coevolution_problems": 9},
            {"compared": 3, "coevolution": 6},
            None,
        ),
        ({"corrected_problems": 2}, {"corrected": 2}, 2),
    ],
)
def test_pairs_come_from_the_sources_that_the_settings_name(
    monkeypatch: pytest.MonkeyPatch, settings: dict[str, Any], made: dict[str, int], shuffled_from: int | None
):
    asked: dict[str, int] = {}

    def source(name: str, beside: int) -> Any:
        def make(session: Any, *arguments: Any) -> tuple[list[Any], int]:
            problems = next(one for one in arguments if isinstance(one, list))
            asked[name] = len(problems)
            return [(example([1], [2]), example([1], [3])) for _ in problems], beside

        return make

    for name in ("corrected", "compared", "coevolution", "shuffled"):
        monkeypatch.setattr(stage, f"{name}_pairs", source(name, 0 if name == "shuffled" else 10))
    session: Any = types.SimpleNamespace(config=types.SimpleNamespace(tcg=TCGConfig(**settings)))
    told: Any = types.SimpleNamespace(result={})
    problems = [problem(str(number)) for number in range(6)]
    pairs, tokens = stage.preference_pairs(session, told, None, problems, random.Random(0))
    used = made | ({"shuffled": shuffled_from} if shuffled_from is not None else {})
    assert asked == used and tokens == 10 * len(made)
    assert {name: told.result[f"pairs_{name}"] for name in used} == used
    assert len(pairs) == len(used) * min(used.values())


@pytest.mark.parametrize(("updates", "found", "asked", "measured"), [(0, 2, 0, 1), (3, 0, 1, 1), (3, 2, 1, 2)])
def test_what_is_not_learned_from_is_not_made_and_the_same_weights_are_measured_once(
    monkeypatch: pytest.MonkeyPatch, updates: int, found: int, asked: int, measured: int
):
    calls: list[str] = []

    def instead(name: str, value: Any) -> None:
        monkeypatch.setattr(stage, name, lambda *arguments, **options: (calls.append(name), value)[1])

    def measure(session: Any, weights: str, field: Any) -> measures.Measured:
        calls.append("measure")
        figures = {"validity": {"after SFT": 0.5, "after DPO": 0.75}[weights], "kill_rate": 0.25}
        return measures.Measured(figures, Share([], []), Share([], []), 7)

    monkeypatch.setattr(stage, "measure", measure)
    monkeypatch.setattr(Field, "of", lambda session: Field([], [], [], 100))
    instead("fine_tuned", "after SFT")
    instead("preferring", "after DPO")
    instead("preference_pairs", ([(example([1], [2]), example([1], [3]))] * found, 20))
    instead("reward_tests", ([], 1000))
    told: Any = types.SimpleNamespace(result={}, log=lambda *a, **k: None, append_shared=lambda *a: None)
    saved: dict[str, str] = {}
    session: Any = FakeSandbox()
    session.config.tcg = TCGConfig(dpo_updates=updates)
    session.require = lambda *arguments: None
    session.run = types.SimpleNamespace(stage_scope=lambda name: contextlib.nullcontext(told))
    session.parts = types.SimpleNamespace(training=[], selfplay=[])
    session.trainable = lambda *arguments, **options: types.SimpleNamespace(graph=None)
    session.sampler = lambda graph, weights: (graph, weights)
    session.save_model = lambda name, weights, start: saved.setdefault(name, weights)
    session.costs, session.sync_seconds = dict, lambda: 0.0

    tcg.run(session)
    learned = updates > 0 and found > 0
    assert (calls.count("preference_pairs"), calls.count("measure")) == (asked, measured)
    assert saved == {"tcg-sft": "after SFT", "tcg": "after DPO" if learned else "after SFT"}
    result = told.result
    assert (result["validity_sft"], result["validity_dpo"]) == (0.5, 0.75 if learned else 0.5)
    assert result["kill_rate"] == result["kill_rate_dpo"] == 0.25 and result["pairs"] == (found if updates else 0)
    assert result["tokens_generated"] == 1100 + 7 * measured + 20 * asked


def test_generator_that_learns_nothing_does_not_meet_policies():
    with pytest.raises(UserError, match=r"tcg\.coevolve is 5, but tcg\.dpo_updates is 0"):
        TCGConfig(coevolve=5, dpo_updates=0)


def test_no_source_of_pairs_drowns_in_another():
    sources: list[list[Any]] = [list(range(100)), [], ["a", "b", "c"]]
    found: list[Any] = balanced(sources, random.Random(0))
    assert len(found) == 6 and {"a", "b", "c"} < set(found)
    assert balanced([[], []], random.Random(0)) == []


# Traces and lengths.


def curriculum_problem() -> Problem:
    clauses = [{"operation": "add", "value": 1}, {"operation": "sum", "value": None}]
    meta = {"input": "list", "clauses": clauses}
    cases = tuple(TestCase([[n, 2]], n + 4) for n in range(6))
    return Problem("c", "s", Form.CALL, cases, solutions=("p",), source="curriculum", meta=meta)


def test_a_vocabulary_is_fitted_to_cases_without_the_values_that_are_cut_by_themselves():
    one = curriculum_problem()
    config = TCGConfig(trace="clauses", split_values=True)
    names = "\n# 0: \n1 add 1: \n2 sum: \nout: "
    assert case_text(config, one, list(one.tests[:1])) == f"in: {names}<END>"
    assert case_text(TCGConfig(), one, list(one.tests[:1])) == "in: [[0, 2]]\nout: 4<END>"


def test_shuffling_moves_traces_with_their_outputs():
    session: Any = Generator()
    session.config.tcg = TCGConfig(trace="clauses", cases=2, answer_tokens=400, batch=BatchConfig(2, 512))
    pairs, _ = examples.shuffled_pairs(session, [curriculum_problem()], random.Random(0))
    assert pairs
    for right, wrong in pairs:
        good, bad = answer_of(right).split("<Step_End>"), answer_of(wrong).split("<Step_End>")
        inputs, rests = zip(*(one.removesuffix("<END>").split("\n", 1) for one in good), strict=True)
        others, moved = zip(*(one.removesuffix("<END>").split("\n", 1) for one in bad), strict=True)
        assert others == inputs and moved == rests[::-1] and "2 sum: " in rests[0]


@pytest.mark.parametrize("outputs", [["0", "0", "0"], ["1\n", "1", "1\n\n"], ["0"]], ids=["equal", "as written", "one"])
def test_cases_whose_outputs_cannot_be_shuffled_apart_are_counted(outputs: Sequence[str]):
    session: Any = Generator(examples_per_problem=3)
    one = problem(tests=[TestCase(f"{i}\n", output) for i, output in enumerate(outputs)])
    apart = problem(tests=CASES[:2])
    pairs, skipped = examples.shuffled_pairs(session, [one, apart], random.Random(0))
    assert (len(pairs), skipped) == (3, 3)


def test_a_long_test_is_dropped_and_its_problem_kept():
    session: Any = Generator()
    one = problem(tests=[TestCase("7" * 60, "1"), TestCase("2\n", "1")])
    found, dropped = examples.sft_examples(session, [one], random.Random(0))
    assert {answer_of(each) for each in found} == {"in: 2\nout: 1<END>"}
    assert (len(found), dropped) == (2, 2)


@pytest.mark.parametrize(("reference", "text"), [("with", "s\np"), ("without", "s")])
def test_it_may_be_asked_from_the_question_alone(reference: Any, text: str):
    session: Any = Generator()
    session.config.tcg = TCGConfig(reference=reference)
    seen: list[str] = []
    session.generator.prompt = types.SimpleNamespace(
        encode=lambda vocabulary, asked, cap, keep_end: (seen.append(asked) or [1], False)
    )
    assert examples.prompt(session, curriculum_problem()) == [1] and seen == [text]


class Reading(Generator):
    """A generator that is asked with what it is shown, as it is."""

    def __init__(self, **settings: Any):
        super().__init__(**settings)
        self.generator.prompt.encode = lambda vocabulary, text, cap, keep_end: (list(map(ord, text)), False)


def asked_of(one: Example) -> str:
    return "".join(chr(i) for i, weight in zip(one["tokens"], one["weight"], strict=True) if not weight)


def test_of_several_reference_programs_each_example_has_one_at_random():
    session: Any = Reading(examples_per_problem=30)
    one = dataclasses.replace(problem(), solutions=("p", "q", "r"))
    found, _ = examples.sft_examples(session, [one], random.Random(0))
    assert {asked_of(each) for each in found} == {"s\np", "s\nq", "s\nr"}
    pairs, _ = examples.shuffled_pairs(session, [one], random.Random(0))
    assert {asked_of(right) for right, _ in pairs} == {"s\np", "s\nq", "s\nr"}
    assert all(asked_of(right) == asked_of(wrong) for right, wrong in pairs)
    assert "".join(map(chr, examples.prompt(session, one))) == "s\np"  # as it is asked


@pytest.mark.parametrize(("reference", "solutions"), [("with", ("p",)), ("without", ("p", "q"))])
def test_where_there_is_nothing_to_draw_chance_goes_on_as_it_was(reference: Any, solutions: tuple[str, ...]):
    session: Any = Reading(examples_per_problem=3, reference=reference)
    one = dataclasses.replace(problem(), solutions=solutions)
    rng, other = random.Random(0), random.Random(0)
    examples.sft_examples(session, [one], rng)
    draws(one, session.config.tcg, other)
    assert rng.getstate() == other.getstate()


@pytest.mark.parametrize(
    ("settings", "source", "told"),
    [
        ({"trace": "clauses", "template": "{input} {output}"}, "curriculum", "has no field"),
        ({"template": "{input} {trace} {output}"}, "curriculum", "has the field"),
        ({"trace": "clauses"}, "taco", "tcg.trace is clauses, which takes problems of the curriculum"),
        ({"inputs": "short"}, "taco", "tcg.inputs is short"),
        ({"further_problems": 3}, "taco", "tcg.further_problems is 3"),
        ({"template": "{input} {output}<Step_End>"}, "taco", "holds <Step_End>"),
        ({"beta": 0.0}, "taco", r"tcg\.beta is 0\.0; it must be positive"),
        ({"beta": -0.1}, "taco", r"tcg\.beta is -0\.1; it must be positive"),
        ({"dpo_sft_weight": -0.2}, "taco", r"tcg\.dpo_sft_weight is -0\.2; it must not be negative"),
        ({"corrected_problems": -1}, "taco", "tcg.corrected_problems is -1; it must not be negative"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(settings: Any, source: str, told: str):
    with pytest.raises(UserError, match=told):
        TCGConfig(**settings).check_source(source)


# Given inputs.


class Asked(Generator):
    """A generator that goes on from openings with `written`, and a sandbox that compares outputs."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, written: Sequence[str], **settings: Any):
        super().__init__(**settings)
        self.config.generation = types.SimpleNamespace(rows=2)
        self.generator.graph = self.mesh = None
        self.generator.vocabulary.stops = lambda markers: markers
        self.prompts: list[str] = []

        def generate(graph: Any, weights: Any, prompts: Sequence[Sequence[int]], **options: Any) -> list[list[Sample]]:
            self.prompts = ["".join(map(chr, one)) for one in prompts]
            return [[sample(text)] for text in written]

        monkeypatch.setattr(answers, "generate", generate)

    def _judge(self, submission: Any) -> Judgement:
        passed = [test.output.strip() == str(len(test.input)) for test in submission.tests]
        tests = tuple(TestResult(Verdict.ACCEPTED if one else Verdict.WRONG_ANSWER) for one in passed)
        return Judgement(tests[0].verdict, True, sum(passed), len(tests), tests)


def test_a_given_input_is_kept_and_its_output_read(monkeypatch: pytest.MonkeyPatch):
    session: Any = Asked(monkeypatch, ["7<Step_End>", "8<END>", "9"])
    inputs = ["1 2\n", "", "3\n"]
    cases, tokens = answers.completed(session, None, [problem()] * 3, inputs, salt=0)
    assert session.prompts == ["?in: 1 2\nout: ", "?in: \nout: ", "?in: 3\nout: "]
    assert cases == [TestCase("1 2\n", "7\n"), TestCase("\n", "8\n"), TestCase("3\n", "9\n")]
    assert tokens == len("7<Step_End>" + "8<END>" + "9")


def test_a_given_input_keeps_its_place_before_a_trace(monkeypatch: pytest.MonkeyPatch):
    session: Any = Asked(monkeypatch, ["0: [1, 2]\nout: 4<END>", "out: 4<END>"], trace="clauses")
    cases, _ = answers.completed(session, None, [curriculum_problem()] * 2, [[[1, 2]]] * 2, salt=0)
    assert session.prompts == ["?in: [[1, 2]]\n# "] * 2 and cases == [TestCase([[1, 2]], 4), None]


def test_output_accuracy_is_the_share_of_right_outputs_and_what_cannot_be_read_is_wrong(
    monkeypatch: pytest.MonkeyPatch,
):
    session: Any = Asked(monkeypatch, ["2<END>", "3<END>", "x<END>", "]<END>"], given_inputs=3)
    of_texts, of_calls = problem(tests=CASES[:3]), curriculum_problem()
    found, tokens = measures.output_accuracy(session, None, [of_texts, dataclasses.replace(of_calls, tests=CALLS)])
    assert found == {"output_accuracy": 1 / 4, "given_too_long": 0.0} and tokens == 4 * len("2<END>")


def test_inputs_that_an_answer_has_no_room_for_are_not_given(monkeypatch: pytest.MonkeyPatch):
    session: Any = Asked(monkeypatch, ["2<END>"] * 4, given_inputs=4, answer_tokens=30)
    tests = [*CASES[:4], TestCase("1 " * 300_000, "1"), TestCase("5", "1" * 20)]
    found, _ = measures.output_accuracy(session, None, [problem(tests=tests)])
    assert sorted(session.prompts) == [f"?in: {i}\nout: " for i in range(4)]
    assert found == {"output_accuracy": 1.0, "given_too_long": 2 / 6}
    only_long, tokens = measures.output_accuracy(session, None, [problem(tests=tests[4:])])
    assert only_long == {"output_accuracy": None, "given_too_long": 1.0} and tokens == 0


def test_the_inputs_that_are_given_stay_the_same_where_all_are_short(monkeypatch: pytest.MonkeyPatch):
    session: Any = Asked(monkeypatch, ["2<END>"] * 6, given_inputs=2)
    rng, asked = random.Random("0 given inputs"), [problem(name) for name in "abc"]
    drawn = [case.input for one in asked for case in rng.sample(one.tests, 2)]
    measures.output_accuracy(session, None, asked)
    assert session.prompts == [f"?in: {one.strip()}\nout: " for one in drawn]


# The stage.


@pytest.fixture(scope="module")
def trained(wee: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Session]:
    with opened(wee, tmp_path_factory.mktemp("tcg"), upto="tcg") as session:
        yield session


def scores(session: Session, checkpoint: str, given: Sequence[Example]) -> np.ndarray:
    model = session.load_policy(checkpoint)
    batch = padded_batch(list(given), 16, 160)
    return sequence_scores(model.graph, model.weights, batch, session.mesh)[: len(given)]


def test_fine_tuning_makes_the_template_likelier(trained: Session):
    learnt = examples.sft_examples(trained, trained.parts.training, random.Random(0))[0][:16]
    assert scores(trained, "tcg-sft", learnt).mean() > scores(trained, "policy-000", learnt).mean() + 10


def test_preferring_raises_the_margin_of_matching_pairs(trained: Session):
    rng = random.Random(trained.config.seed)  # as the stage drew them: for other shuffles little is sure
    examples.sft_examples(trained, trained.parts.training, rng)
    pairs = examples.shuffled_pairs(trained, trained.parts.training, rng)[0][:8]
    flat = [one for pair in pairs for one in pair]
    margins = []
    for checkpoint in ("tcg-sft", "tcg"):
        found = scores(trained, checkpoint, flat)
        margins.append((found[0::2] - found[1::2]).mean())
    assert margins[1] > margins[0] + 1


def test_generator_has_weights_of_its_own(trained: Session):
    prints = {name: trained.load_policy(name).fingerprint for name in ("policy-000", "tcg-sft", "tcg")}
    assert len(set(prints.values())) == 3


def test_tests_for_rl_are_passed_by_the_reference(trained: Session):
    rows = [row for row in trained.run.read("tests.jsonl") if row["tests"]]
    assert len(rows) == trained.require("tcg", "")["problems_with_tests"] > 0
    for row in rows:
        one = trained.problem[row["problem_id"]]
        ran = trained.pool.outputs(one.solutions[0], [test["input"] for test in row["tests"]], one.fn_name)
        assert [value for _, value in ran] == [test["output"] for test in row["tests"]]


def test_every_selfplay_problem_has_a_row(trained: Session):
    rows = [row["problem_id"] for row in trained.run.read("tests.jsonl")]
    assert rows == [one.id for one in trained.parts.selfplay]


def test_both_phases_are_reported(wee: Path):
    rows = [row for row in read_lines(wee / "metrics.jsonl") if row["stage"] == "tcg"]
    assert any("sft_loss" in row for row in rows) and any("dpo_margin" in row for row in rows)
    assert {"validity_sft", "validity_dpo", "kill_rate", "kill_rate_random", "tokens_generated"} <= results(wee)[
        "tcg"
    ].keys()


def test_generator_without_problems_to_learn_from_is_refused(wee: Path, runs: Path):
    with opened(wee, runs, upto="bootstrap") as session, contextlib.redirect_stderr(io.StringIO()):
        session.parts.training.clear()
        with pytest.raises(UserError, match="tcg: no problem of the training part gives an example"):
            tcg.run(session)
        assert session.run.stage("tcg") is None
