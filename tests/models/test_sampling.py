"""Drawing tokens: distributions, truncation, edges, and random numbers that depend on their seed alone."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from o1coder_jax.errors import UserError
from o1coder_jax.sampling import TOP_K_CAP, SamplingConfig, draw, fold, seed_for, uniforms

LOGITS = np.array([1.5, 0.0, 2.0, -1.0, 0.5, 1.0, -3.0, 0.25], np.float32)
DRAWS = 8192
jitted_draw = jax.jit(draw, static_argnames=("truncated",))


def evenly(count: int = DRAWS) -> jnp.ndarray:
    return (jnp.arange(count) + 0.5) / count


def softmax(logits: np.ndarray) -> np.ndarray:
    mass = np.exp(logits - logits.max())
    return mass / mass.sum()


def shares(config: SamplingConfig, logits: np.ndarray = LOGITS) -> np.ndarray:
    """Share of each token when uniform numbers cover [0, 1) evenly."""
    rows = jnp.tile(logits, (DRAWS, 1))
    tokens, _ = jitted_draw(rows, evenly(), config.arrays(), truncated=config.truncated)
    return np.bincount(np.asarray(tokens), minlength=len(logits)) / DRAWS


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_shares_match_the_softmax_at_a_temperature(temperature):
    np.testing.assert_allclose(
        shares(SamplingConfig(temperature=temperature)), softmax(LOGITS / temperature), atol=2 / DRAWS
    )


def test_temperature_zero_takes_the_most_likely_token():
    assert shares(SamplingConfig(temperature=0))[2] == 1.0


def test_temperature_zero_takes_the_most_likely_token_of_a_truncated_draw():
    assert shares(SamplingConfig(temperature=0, top_k=3))[2] == 1.0


@pytest.mark.parametrize("top_k", [1, 3, 8])
def test_top_k_keeps_the_k_likeliest_in_proportion(top_k):
    kept = np.argsort(-LOGITS)[:top_k]
    expected = np.zeros(len(LOGITS))
    expected[kept] = softmax(LOGITS[kept])
    np.testing.assert_allclose(shares(SamplingConfig(top_k=top_k)), expected, atol=2 / DRAWS)


@pytest.mark.parametrize("top_p", [0.05, 0.5, 0.9])
def test_top_p_keeps_the_smallest_set_with_the_mass_in_proportion(top_p):
    order = np.argsort(-LOGITS)
    mass = softmax(LOGITS)[order]
    kept = order[: int(np.searchsorted(np.cumsum(mass), top_p)) + 1]
    expected = np.zeros(len(LOGITS))
    expected[kept] = softmax(LOGITS[kept])
    np.testing.assert_allclose(shares(SamplingConfig(top_p=top_p)), expected, atol=2 / DRAWS)


def test_truncation_sees_the_distribution_at_the_temperature():
    hot = SamplingConfig(temperature=100.0, top_p=0.9)
    assert (shares(hot) > 0).sum() == 8  # nearly uniform: seven of eight tokens hold only 0.88
    assert (shares(SamplingConfig(temperature=0.1, top_p=0.9)) > 0).sum() == 1


def test_truncation_reaches_over_a_vocabulary_larger_than_its_cap():
    logits = np.linspace(0, 1, 3 * TOP_K_CAP).astype(np.float32)
    assert set(np.flatnonzero(shares(SamplingConfig(top_k=2), logits))) == {len(logits) - 1, len(logits) - 2}


def test_a_token_without_mass_is_never_drawn():
    """At every step of the cumulative sum, where rounding is worst; half of the vocabulary has no mass."""
    rng = np.random.default_rng(0)
    for _ in range(10):
        mass = rng.dirichlet(np.full(700, 0.05)).astype(np.float32)
        logits = np.log(np.where(mass > 1e-3, mass, 0), where=mass > 1e-3, out=np.full(700, -np.inf, np.float32))
        steps = np.asarray(jnp.cumsum(jax.nn.softmax(logits)))
        edges = np.concatenate([np.linspace(0, 1, 100, endpoint=False), steps / steps[-1]]).astype(np.float32)
        edges = np.concatenate([edges, np.nextafter(edges, np.float32(0))])
        edges = jnp.asarray(edges[(edges >= 0) & (edges < 1)][:1400])
        rows = jnp.tile(logits, (len(edges), 1))
        tokens, scores = draw(rows, edges, SamplingConfig().arrays(), truncated=False)
        assert np.isfinite(scores).all()
        assert np.isfinite(logits[np.asarray(tokens)]).all()


def test_a_truncated_token_is_not_drawn_at_the_upper_edge():
    below_one = jnp.full(1, np.nextafter(np.float32(1), np.float32(0)))
    for top_k in range(1, 8):
        token, _ = jitted_draw(LOGITS[None], below_one, SamplingConfig(top_k=top_k).arrays(), truncated=True)
        assert int(token[0]) in np.argsort(-LOGITS)[:top_k]


def test_log_probability_is_the_models_own():
    """Temperature and truncation change the draw, not the score."""
    config = SamplingConfig(temperature=0.3, top_k=4)
    tokens, scores = jitted_draw(jnp.tile(LOGITS, (DRAWS, 1)), evenly(), config.arrays(), truncated=True)
    np.testing.assert_allclose(scores, np.log(softmax(LOGITS))[np.asarray(tokens)], atol=1e-5)


SAID = np.array([True, False, True, True, False, False, True, False])


def penalised_shares(config: SamplingConfig) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """As `shares`, of rows that hold SAID; the tokens, and their scores."""
    rows, said = jnp.tile(LOGITS, (DRAWS, 1)), jnp.tile(SAID, (DRAWS, 1))
    tokens, scores = jitted_draw(rows, evenly(), config.arrays(), truncated=config.truncated, said=said)
    return np.bincount(np.asarray(tokens), minlength=len(LOGITS)) / DRAWS, np.asarray(tokens), np.asarray(scores)


def by_the_book(penalty: float) -> np.ndarray:
    """Scores as transformers' RepetitionPenaltyLogitsProcessor leaves them, token by token."""
    return np.array(
        [(x * penalty if x < 0 else x / penalty) if s else x for x, s in zip(LOGITS, SAID, strict=True)], np.float32
    )


@pytest.mark.parametrize("penalty", [0.8, 1.1, 5.0])
@pytest.mark.parametrize("temperature", [0.5, 1.0])
def test_penalty_weighs_what_was_said_before_the_temperature(penalty, temperature):
    found, tokens, scores = penalised_shares(SamplingConfig(temperature, repetition_penalty=penalty))
    np.testing.assert_allclose(found, softmax(by_the_book(penalty) / temperature), atol=2 / DRAWS)
    np.testing.assert_allclose(scores, np.log(softmax(LOGITS))[tokens], atol=1e-5)  # the model's own


def test_penalty_comes_before_truncation():
    kept = np.argsort(-by_the_book(5.0))[:3]
    assert set(kept) != set(np.argsort(-LOGITS)[:3])
    assert set(np.flatnonzero(penalised_shares(SamplingConfig(top_k=3, repetition_penalty=5.0))[0])) == set(kept)


def test_penalty_counts_at_temperature_zero():
    """Token 2 is the likeliest; said before, it yields to token 5."""
    assert penalised_shares(SamplingConfig(0.0, repetition_penalty=5.0))[0][5] == 1.0


def test_penalty_of_one_changes_nothing():
    rows = jnp.tile(LOGITS, (DRAWS, 1))
    plain = jitted_draw(rows, evenly(), SamplingConfig().arrays(), truncated=False)
    _, *weighed = penalised_shares(SamplingConfig())
    for one, other in zip(plain, weighed, strict=True):
        np.testing.assert_array_equal(one, other)


def test_settings_compile_nothing_anew():
    shares(SamplingConfig(temperature=0.7, top_k=2))
    before = jitted_draw._cache_size()
    shares(SamplingConfig(temperature=1.3, top_k=5, top_p=0.4))
    assert jitted_draw._cache_size() == before
    penalised_shares(SamplingConfig(repetition_penalty=1.1))
    before = jitted_draw._cache_size()
    penalised_shares(SamplingConfig(repetition_penalty=1.7))
    assert jitted_draw._cache_size() == before


def test_uniforms_are_uniform():
    seeds = fold(jnp.tile(seed_for(3), (4000, 1)), jnp.arange(4000))
    counts = np.bincount((np.asarray(uniforms(seeds, jnp.zeros(4000, jnp.int32))) * 20).astype(int), minlength=20)
    assert ((counts - 200) ** 2 / 200).sum() < 45  # chi-square, 19 degrees of freedom: p = 0.0007


def test_uniforms_of_a_row_do_not_depend_on_other_rows():
    seeds = fold(jnp.tile(seed_for(3), (4, 1)), jnp.arange(4))
    together = uniforms(seeds, jnp.arange(4))
    assert [float(uniforms(seeds[i : i + 1], jnp.array([i]))[0]) for i in range(4)] == together.tolist()


def test_uniforms_change_with_seed_and_counter():
    seeds = fold(jnp.tile(seed_for(3), (4, 1)), jnp.arange(4))
    assert (
        len({*uniforms(seeds, jnp.zeros(4, jnp.int32)).tolist(), *uniforms(seeds, jnp.ones(4, jnp.int32)).tolist()})
        == 8
    )


def test_seeds_differ_by_every_number_of_the_path():
    paths = [(0,), (1,), (0, 0), (0, 1), (1, 0), (0, 1, 2), (0, 2, 1), (0, 1, 2**32 - 1)]
    assert len({tuple(np.asarray(seed_for(*path)).tolist()) for path in paths}) == len(paths)


@pytest.mark.parametrize(
    ("settings", "complaint"),
    [
        ({"temperature": -0.1}, "temperature is -0.1"),
        ({"top_k": -1}, "top_k is -1"),
        ({"top_k": TOP_K_CAP + 1}, f"top_k is {TOP_K_CAP + 1}"),
        ({"top_p": 0.0}, "top_p is 0.0"),
        ({"top_p": 1.1}, "top_p is 1.1"),
        ({"temperature": math.nan}, "temperature is nan"),
        ({"repetition_penalty": 0.0}, "repetition_penalty is 0.0"),
        ({"repetition_penalty": math.inf}, "repetition_penalty is inf"),
        ({"repetition_penalty": math.nan}, "repetition_penalty is nan"),
    ],
)
def test_settings_out_of_range_are_refused(settings, complaint):
    with pytest.raises(UserError, match=complaint):
        SamplingConfig(**settings)
