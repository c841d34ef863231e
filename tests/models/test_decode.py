"""Decoding against a shared prefix equals a forward pass without any cache, row by row."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from o1coder_jax.decode import decode_batch, start_batch, stop_mask
from o1coder_jax.sampling import SamplingConfig, fold, seed_for
from tests.tiny import SHAPE, VOCAB, answer_scores, decoder, predictions

PROMPTS = ([5], [3, 1, 4, 1, 5, 9], [2, 7, 1, 8])
ROWS, CAPACITY = 3, 9
NOTHING: tuple[int, ...] = ()
SAMPLED, GREEDY = SamplingConfig(), SamplingConfig(temperature=0)


@pytest.fixture(scope="module")
def model():
    return nnx.split(decoder())


def seeds_of(prompts: int, rows: int = ROWS, seed: int = 0) -> jnp.ndarray:
    return fold(jnp.tile(seed_for(seed), (prompts * rows, 1)), jnp.arange(prompts * rows)).reshape(prompts, rows, 2)


def run(model, prompts=PROMPTS, *, sampling=SAMPLED, stops=NOTHING, seeds=None, capacity=CAPACITY):
    """Tokens and log-probabilities of every row: [prompt][row] -> lists."""
    graph, weights = model
    tokens, length = np.zeros((len(prompts), 8), np.int32), np.array([len(p) for p in prompts], np.int32)
    for row, prompt in enumerate(prompts):
        tokens[row, : len(prompt)] = prompt
    stop = stop_mask(VOCAB, stops) if stops else jnp.zeros(VOCAB, bool)
    seeds = seeds_of(len(prompts)) if seeds is None else seeds
    shared = {"truncated": sampling.truncated}
    prefix, rows = start_batch(
        graph, weights, tokens, length, seeds, stop, sampling.arrays(), capacity=capacity, **shared
    )
    rows = decode_batch(graph, weights, prefix, rows, stop, sampling.arrays(), steps=capacity, **shared)
    assert np.asarray(rows.done).all()
    out = jax.device_get(rows)
    return [
        [
            (out.tokens[t, k, : out.length[t, k]].tolist(), out.log_probability[t, k, : out.length[t, k]])
            for k in range(seeds.shape[1])
        ]
        for t in range(len(prompts))
    ]


def check_against_forward(model, drawn, prompts=PROMPTS):
    pairs = [(prompt, *row) for prompt, rows in zip(prompts, drawn, strict=True) for row in rows]
    scores = answer_scores(*model, [p for p, _, _ in pairs], [a for _, a, _ in pairs])
    for (_, _, decoded), expected in zip(pairs, scores, strict=True):
        np.testing.assert_allclose(decoded, expected, atol=1e-4)


def test_sampled_log_probabilities_equal_the_forward_pass(model):
    check_against_forward(model, run(model))


def test_greedy_tokens_equal_the_forward_pass(model):
    for prompt, rows in zip(PROMPTS, run(model, sampling=GREEDY), strict=True):
        answer, _ = rows[0]
        scores = predictions(*model, [[*prompt, *answer]])[0]
        assert scores[len(prompt) - 1 :].argmax(axis=1).tolist() == answer


@pytest.mark.parametrize(
    "variant", [{"qkv_bias": True, "qk_norm": True}, {"kv_heads": 4, "layers": 5}], ids=["biased", "scanned"]
)
def test_variants_decode_as_they_read(variant):
    model = decoder(dataclasses.replace(SHAPE, **variant))
    if "qkv_bias" in variant:
        for bias in (model.blocks.query_bias, model.blocks.key_bias, model.blocks.value_bias):
            bias[...] = jax.random.normal(jax.random.key(2), bias.shape)
    split = nnx.split(model)
    check_against_forward(split, run(split))


def test_rows_of_one_prefix_differ(model):
    assert len({tuple(answer) for answer, _ in run(model)[1]}) == ROWS


def test_same_seed_gives_the_same_rows(model):
    assert [[r[0] for r in rows] for rows in run(model)] == [[r[0] for r in rows] for rows in run(model)]


def test_a_row_depends_on_its_own_seed_only(model):
    before = run(model)
    after = run(model, seeds=seeds_of(len(PROMPTS)).at[1, 1].set(seed_for(99)))
    assert after[1][1][0] != before[1][1][0]
    for t, k in [(0, 0), (0, 1), (0, 2), (1, 0), (1, 2), (2, 0), (2, 1), (2, 2)]:
        assert after[t][k][0] == before[t][k][0]
        np.testing.assert_array_equal(after[t][k][1], before[t][k][1])


def test_rows_do_not_depend_on_other_prompts(model):
    before = run(model)
    after = run(model, ([12, 11, 10, 9, 8, 7, 6], PROMPTS[1], [1]))
    for k in range(ROWS):
        assert after[1][k][0] == before[1][k][0]
        np.testing.assert_allclose(after[1][k][1], before[1][k][1], atol=1e-6)


def test_a_row_ends_at_its_first_stop_token(model):
    free = run(model)
    stopped = run(model, stops=(2, 7))
    ends = 0
    for rows, whole in zip(stopped, free, strict=True):
        for (answer, _), (unstopped, _) in zip(rows, whole, strict=True):
            cut = next((i + 1 for i, token in enumerate(unstopped) if token in (2, 7)), CAPACITY)
            assert answer == unstopped[:cut]
            ends += cut < CAPACITY
    assert ends >= 3


def test_a_row_without_stop_token_ends_at_its_capacity(model):
    assert {len(answer) for rows in run(model) for answer, _ in rows} == {CAPACITY}


def test_capacity_of_one_token(model):
    free, short = run(model), run(model, capacity=1)
    assert [[a for a, _ in rows] for rows in short] == [[a[:1] for a, _ in rows] for rows in free]


def test_waves_cut_anywhere_change_nothing(model):
    """Nine steps at once equal waves of two."""
    graph, weights = model
    settings, stop = SamplingConfig().arrays(), stop_mask(VOCAB, (2,))
    tokens, length = np.array([[3, 1, 4, 1]], np.int32), np.array([4], np.int32)
    prefix, rows = start_batch(
        graph, weights, tokens, length, seeds_of(1), stop, settings, capacity=CAPACITY, truncated=False
    )
    copy = jax.tree.map(jnp.copy, rows)
    whole = decode_batch(graph, weights, prefix, rows, stop, settings, steps=CAPACITY, truncated=False)
    for _ in range(5):
        copy = decode_batch(graph, weights, prefix, copy, stop, settings, steps=2, truncated=False)
    np.testing.assert_array_equal(copy.tokens, whole.tokens)
    np.testing.assert_array_equal(copy.length, whole.length)
    np.testing.assert_allclose(copy.log_probability, whole.log_probability, atol=1e-6)


def test_done_rows_hold_zeros_beyond_their_end(model):
    graph, weights = model
    settings, stop = SamplingConfig().arrays(), stop_mask(VOCAB, (2, 7))
    tokens, length = np.array([[3, 1, 4, 1]], np.int32), np.array([4], np.int32)
    prefix, rows = start_batch(
        graph, weights, tokens, length, seeds_of(1), stop, settings, capacity=CAPACITY, truncated=False
    )
    rows = decode_batch(graph, weights, prefix, rows, stop, settings, steps=CAPACITY, truncated=False)
    beyond = np.arange(CAPACITY) >= np.asarray(rows.length)[..., None]
    assert beyond.any()
    assert not np.asarray(rows.log_probability)[beyond].any()
    assert not np.asarray(rows.tokens)[beyond].any()


def test_sampled_tokens_follow_the_softmax(model):
    """First and second tokens of 4,000 rows of one prefix, by chi-square with 12 degrees of freedom (p = 1e-4)."""
    rows = run(model, [[3, 1, 4]], seeds=seeds_of(1, 4000), capacity=2)[0]
    drawn = np.array([answer for answer, _ in rows])
    likeliest = int(np.bincount(drawn[:, 0]).argmax())
    first = predictions(*model, [[3, 1, 4, 0]])[0][-1]
    second = predictions(*model, [[3, 1, 4, likeliest, 0]])[0][-1]
    for tokens, scores in ((drawn[:, 0], first), (drawn[drawn[:, 0] == likeliest, 1], second)):
        expected = np.exp(scores) * len(tokens)
        assert ((np.bincount(tokens, minlength=VOCAB) - expected) ** 2 / expected).sum() < 39.1
