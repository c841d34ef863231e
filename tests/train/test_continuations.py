"""Fresh continuations: which steps, what is drawn and judged, what a kill leaves, and the labels that follow."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Sequence
from pathlib import Path

import pytest

from o1coder_jax.generate import GenerationConfig, Sample
from o1coder_jax.mesh import MeshConfig, make_mesh
from o1coder_jax.policy import Policy
from o1coder_jax.records import Form, Judgement, Problem, TestCase, Verdict
from o1coder_jax.sampling import SamplingConfig
from tests.train.world import record
from train import continuations
from train.continuations import Continued, Continuing, prefixes_of, whole_problems
from train.prm_examples import by_chances, by_passes, pointwise_examples, relabelled

GOOD, BAD, UNCHECKED = "print(1)", "print(2)", "print(3)"
PROBLEMS = {name: Problem(name, name, Form.STDIN, (TestCase("", "1"),)) for name in ("a", "b")}


class Letters:
    """A vocabulary of characters."""

    vocab_size, fingerprint = 128, "letters"

    def encode(self, text: str) -> list[int]:
        return list(text.encode())

    def decode(self, ids: Sequence[int]) -> str:
        return bytes(ids).decode()

    def stops(self, markers: Sequence[str]) -> None:
        return None


def path(
    name: str, *steps: str, node: int = 1, ended: str = "code", verdict: Verdict = Verdict.ACCEPTED, tree: int = 0
):
    tokens = [(list(step.encode()), 0.5) for step in steps]
    one = record(name, tokens, prompt=(65,), nodes=list(range(node, node + len(steps))), tree=tree, verdict=verdict)
    return dataclasses.replace(one, ended=ended)


def answer(code: str, *, ended: bool = True) -> Sample:
    text = f"1. code:\n```python\n{code}\n```<END>"
    return Sample(tuple(text.encode()), (), ended)


class World:
    """Stands in for generation and the judge: each prefix gets the same answers, and both are counted."""

    def __init__(self, *answers: Sample):
        self.answers, self.drawn, self.seeds, self.judged = (
            list(answers),
            0,
            list[tuple[int, ...]](),
            list[str | None](),
        )
        self.fails_after = 10**9

    def generate(self, graph, weights, prompts, *, seed, samples, **settings) -> list[list[Sample]]:
        assert samples == len(self.answers)
        if len(self.seeds) >= self.fails_after:
            raise KeyboardInterrupt
        self.drawn += len(prompts)
        self.seeds.append(tuple(seed))
        return [self.answers for _ in prompts]

    def judge_all(self, programs: Sequence[tuple[Problem, str | None]]) -> list[Judgement | None]:
        self.judged += [code for _, code in programs]
        verdicts = {GOOD: Verdict.ACCEPTED, BAD: Verdict.WRONG_ANSWER, UNCHECKED: Verdict.INFRA_ERROR}
        return [None if code is None else Judgement(verdicts[code], True, 1, 1) for _, code in programs]

    def continuing(self, **changes) -> Continuing:
        policy = Policy(None, None, Letters(), "policy")  # type: ignore[arg-type]
        whole = Continuing(
            policy,
            PROBLEMS,
            self.judge_all,
            len(self.answers),
            GenerationConfig(),
            SamplingConfig(),
            make_mesh(MeshConfig()),
            (0, 1),
        )
        return dataclasses.replace(whole, **changes)


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> World:
    made = World(answer(GOOD), answer(BAD), answer(GOOD, ended=False), answer(UNCHECKED))
    monkeypatch.setattr(continuations, "generate", made.generate)
    monkeypatch.setattr(continuations, "CHUNK_PREFIXES", 2)
    return made


DEFINE, REFINE, CODE = "0. define: x<Step_End>", "1. refine: y<Step_End>", "2. code: z<END>"
RECORDS = [path("a", DEFINE, REFINE, CODE), path("a", DEFINE, CODE), path("b", DEFINE, CODE, tree=1)]


def test_prefixes_are_the_steps_that_may_be_continued_each_once():
    found = prefixes_of(RECORDS)
    assert [prefix.place for prefix in found] == [(1, 0, 1), (1, 0, 2), (1, 1, 1)]
    assert bytes(found[1].tokens).decode() == "A" + DEFINE + REFINE and found[1].prompt_tokens == 1


def test_step_below_which_no_rollout_went_may_be_continued():
    assert len(prefixes_of([path("a", DEFINE, REFINE, ended="")])) == 2


def test_prefixes_are_chosen_by_whole_problems():
    prefixes = prefixes_of(RECORDS)
    for count, sizes in ((1, (1, 2)), (3, (3,)), (0, (3,)), (99, (3,))):
        chosen = whole_problems(prefixes, count, 0)
        assert len(chosen) in sizes
        assert [p for p in prefixes if p.problem_id in {one.problem_id for one in chosen}] == chosen


def test_continuation_passes_with_the_program_of_the_whole_path(world: World, tmp_path: Path):
    [one] = world.continuing().run(prefixes_of(RECORDS)[:1], tmp_path / "c.jsonl")
    assert world.judged == [GOOD, BAD, None, UNCHECKED]
    assert one.outcomes == (True, False, False, None) and one.rate == pytest.approx(1 / 3)


def test_continuation_of_a_malformed_path_fails(world: World, tmp_path: Path):
    [one] = world.continuing().run(prefixes_of([path("a", "nonsense<Step_End>", CODE)]), tmp_path / "c.jsonl")
    assert world.judged == [None] * 4 and one.rate == 0


def test_chunks_that_are_kept_are_not_drawn_again(world: World, tmp_path: Path):
    prefixes, file = prefixes_of(RECORDS), tmp_path / "c.jsonl"
    whole = world.continuing().run(prefixes, tmp_path / "whole.jsonl")
    seeds, world.seeds, world.fails_after = world.seeds, [], 1
    with pytest.raises(KeyboardInterrupt):
        world.continuing().run(prefixes, file)
    with file.open("ab") as cut:
        cut.write(b'[{"problem_id": "b"')  # a kill in the middle of a line
    world.fails_after = 10**9
    told: list[int] = []
    assert world.continuing().run(prefixes, file, told.append) == whole
    assert world.seeds == seeds and told == [2, 1]
    assert world.continuing().run(prefixes, file) == whole and world.seeds == seeds


@pytest.mark.parametrize("changes", [{"seed": (1, 1)}, {"sampling": SamplingConfig(temperature=0.5)}])
def test_continuations_of_another_kind_are_drawn_anew(world: World, tmp_path: Path, changes):
    prefixes, file = prefixes_of(RECORDS), tmp_path / "c.jsonl"
    world.continuing().run(prefixes, file)
    world.continuing(**changes).run(prefixes, file)
    assert world.drawn == 6 and len(file.read_text().splitlines()) == 3


def test_row_reads_back():
    one = Continued("a", 1, 2, 3, "p", (True, None, False))
    assert Continued.from_json(json.loads(json.dumps(one.to_json()))) == one
    assert Continued("a", 1, 2, 3, "p", (None,)).rate is None


# Labels.


def test_values_are_the_rates_of_continuations_and_the_verdicts_of_ends():
    rate = Continued("a", 1, 0, 1, "p", (True, False, None, True))
    bad = path("a", DEFINE, CODE, verdict=Verdict.WRONG_ANSWER)
    unchecked = path("a", DEFINE, CODE, verdict=Verdict.INFRA_ERROR)
    found = relabelled([RECORDS[0], bad, unchecked], {rate.place: rate})
    assert [[step.value for step in one.steps] for one in found] == [
        [pytest.approx(2 / 3), None, 1.0],
        [pytest.approx(2 / 3), 0.0],
        [pytest.approx(2 / 3), None],
    ]
    assert [step.visits for step in found[0].steps] == [3, 0, 3]


def test_passes_are_shares_of_the_rollouts_below():
    good = record("a", [([6], 0.7), ([7], 0.9)], nodes=[1, 2])
    bad = record("a", [([6], 0.7), ([8], 0.5)], nodes=[1, 3], verdict=Verdict.WRONG_ANSWER)
    bad = dataclasses.replace(bad, steps=(bad.steps[0], dataclasses.replace(bad.steps[1], visits=3)))
    never = record("a", [([6], 0.7), ([9], None)], nodes=[1, 4])
    found = by_passes([good, bad, never])
    assert [[(step.value, step.visits) for step in one.steps] for one in found] == [
        [(0.25, 4), (1.0, 1)],
        [(0.25, 4), (0.0, 3)],
        [(0.25, 4), (None, 0)],
    ]


def test_leaf_that_has_not_ended_is_no_failed_rollout():
    good = record("a", [([6], 0.7), ([7], 0.9)], nodes=[1, 2])
    rated = dataclasses.replace(record("a", [([6], 0.7), ([8], 0.5)], nodes=[1, 3]), ended="", verdict=None)
    found = by_passes([good, rated])
    assert [[(step.value, step.visits) for step in one.steps] for one in found] == [
        [(1.0, 1), (1.0, 1)],
        [(1.0, 1), (None, 0)],
    ]


def test_chances_weigh_each_path_by_its_probability_from_the_step_on():
    """Below step 1: the good program with 1/2, two bad ones with 1/8 each; below the root's other step, one bad."""

    def drawn(record, *chances):
        steps = [
            dataclasses.replace(step, log_probability=math.log(chance), visits=9)
            for step, chance in zip(record.steps, chances, strict=True)
        ]
        return dataclasses.replace(record, steps=tuple(steps))

    wrong = Verdict.WRONG_ANSWER
    good = drawn(record("a", [([6], 0.7), ([7], 0.9)], nodes=[1, 2]), 0.3, 0.5)
    bad = [drawn(record("a", [([6], 0.7), ([n], 0.5)], nodes=[1, n], verdict=wrong), 0.3, 0.125) for n in (8, 9)]
    other = drawn(record("a", [([5], 0.7), ([4], 0.5)], nodes=[3, 4], verdict=wrong), 0.7, 0.9)
    unchecked = drawn(record("a", [([6], 0.7), ([2], None)], nodes=[1, 5], verdict=Verdict.INFRA_ERROR), 0.3, 0.2)
    found = by_chances([good, *bad, other, unchecked])
    assert [[(step.value, step.visits) for step in one.steps] for one in found] == [
        [(pytest.approx(2 / 3), 3), (1.0, 1)],
        [(pytest.approx(2 / 3), 3), (0.0, 1)],
        [(pytest.approx(2 / 3), 3), (0.0, 1)],
        [(0.0, 1), (0.0, 1)],
        [(pytest.approx(2 / 3), 3), (None, 0)],
    ]


def test_weights_of_labels_are_their_visits():
    one = relabelled([RECORDS[1]], {(1, 0, 1): Continued("a", 1, 0, 1, "p", (True, False))})
    [plain], [weighted] = pointwise_examples(one), pointwise_examples(one, by_visits=True)
    assert sorted(set(plain["weight"])) == [0, 1] and sorted(set(weighted["weight"])) == [0, 2]


def test_hard_targets_are_cut_at_the_threshold():
    records = [record("a", [([6], 0.4), ([7], 0.5), ([8], 0.0)])]
    [soft], [hard] = pointwise_examples(records), pointwise_examples(records, threshold=0.5)
    assert soft["label"].tolist()[3:] == pytest.approx([0.4, 0.5, 0.0]) and hard["label"].tolist()[3:] == [0, 1, 0]
