"""Whole answers: batches and their edges."""

from __future__ import annotations

import numpy as np
import pytest
from flax import nnx

from o1coder_jax.errors import UserError
from o1coder_jax.generate import GenerationConfig, generate
from o1coder_jax.sampling import SamplingConfig
from o1coder_jax.stopping import stop_ids
from tests.tiny import VOCAB, answer_scores, decoder, one_device

PROMPTS = [[5], [3, 1, 4, 1, 5, 9], [2, 7, 1, 8], [6, 6], [9, 8, 7]]
CAP, STOPS = 10, (2, 7)


@pytest.fixture(scope="module")
def model():
    return nnx.split(decoder())


@pytest.fixture(scope="module")
def draw(model):
    def call(prompts=PROMPTS, *, rows=4, samples=2, answer_tokens=CAP, seed=(0, 1), temperature=1.0):
        return generate(
            *model,
            prompts,
            samples=samples,
            stops=stop_ids(VOCAB, STOPS),
            rows=rows,
            answer_tokens=answer_tokens,
            sampling=SamplingConfig(temperature=temperature),
            mesh=one_device(),
            seed=seed,
        )

    return call


@pytest.fixture(scope="module")
def drawn(draw):
    return draw()


def tokens(answers):
    return [[sample.tokens for sample in samples] for samples in answers]


def test_every_prompt_gets_its_samples(drawn):
    assert [len(samples) for samples in drawn] == [2] * 5


def test_log_probabilities_equal_the_forward_pass(model, drawn):
    pairs = [(p, s) for p, samples in zip(PROMPTS, drawn, strict=True) for s in samples]
    scores = answer_scores(*model, [p for p, _ in pairs], [s.tokens for _, s in pairs])
    for (_, sample), expected in zip(pairs, scores, strict=True):
        np.testing.assert_allclose(sample.log_probability, expected, atol=1e-4)


def test_ended_tells_a_stop_token_from_the_cap(drawn):
    samples = [sample for answers in drawn for sample in answers]
    assert {sample.ended for sample in samples} == {True, False}
    for sample in samples:
        assert sample.ended == (sample.tokens[-1] in STOPS)
        assert sample.ended or len(sample.tokens) == CAP
        assert not set(sample.tokens[:-1]) & set(STOPS)


def test_batches_that_do_not_divide_change_nothing(draw, drawn):
    """Two prompts at a time (the last batch half empty) equal all five at once."""
    assert tokens(draw(rows=10)) == tokens(drawn)


def test_answers_depend_on_a_prompts_place_not_on_its_neighbours(draw, drawn):
    others = [[1, 1, 1], PROMPTS[1], [4] * 7, PROMPTS[3], [11]]
    answers = draw(others)
    assert [tokens(answers)[i] for i in (1, 3)] == [tokens(drawn)[i] for i in (1, 3)]


def test_equal_prompts_at_different_places_get_different_answers(draw):
    answers = tokens(draw([[3, 1, 4]] * 5))
    assert len({answer for samples in answers for answer in samples}) > 5


def test_seed_decides(draw, drawn):
    assert tokens(draw(seed=(0, 1))) == tokens(drawn)
    assert tokens(draw(seed=(0, 2))) != tokens(drawn)


def test_greedy_samples_are_all_the_same(draw):
    assert all(samples[0].tokens == samples[1].tokens for samples in draw(temperature=0.0))


def test_cap_of_one_token(draw, drawn):
    assert tokens(draw(answer_tokens=1)) == [[sample[:1] for sample in samples] for samples in tokens(drawn)]


def test_no_prompts_no_answers(draw):
    assert draw([]) == []


@pytest.mark.parametrize("field", ["rows", "answer_tokens"])
def test_sizes_below_one_are_refused(field):
    with pytest.raises(UserError, match=f"generation.{field} is 0"):
        GenerationConfig(**{field: 0})
