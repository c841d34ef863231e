"""Decoding against a shared prefix equals a forward pass without any cache, row by row."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from o1coder_jax import model_config
from o1coder_jax.decode import open_rows
from o1coder_jax.generate import decode_batch, start_batch
from o1coder_jax.rows import Rows
from o1coder_jax.sampling import SamplingConfig, fold, seed_for
from o1coder_jax.stopping import stop_ids
from o1coder_jax.transformer import RopeScaling
from tests.tiny import SHAPE, VOCAB, answer_scores, decoder, one_device, predictions

PROMPTS = ([5], [3, 1, 4, 1, 5, 9], [2, 7, 1, 8])
ROWS, CAPACITY = 3, 9
NOTHING: tuple[int, ...] = ()
SAMPLED, GREEDY = SamplingConfig(), SamplingConfig(temperature=0)


@pytest.fixture(scope="module")
def model():
    return nnx.split(decoder())


def seeds_of(prompts: int, rows: int = ROWS, seed: int = 0) -> jnp.ndarray:
    return fold(jnp.tile(seed_for(seed), (prompts * rows, 1)), jnp.arange(prompts * rows)).reshape(prompts, rows, 2)


def decode_rows(
    model, prompts=PROMPTS, *, sampling=SAMPLED, stops=NOTHING, seeds=None, capacity=CAPACITY, steps=CAPACITY
):
    """The rows at their end, on the host."""
    graph, weights = model
    tokens, length = np.zeros((len(prompts), 8), np.int32), np.array([len(p) for p in prompts], np.int32)
    for row, prompt in enumerate(prompts):
        tokens[row, : len(prompt)] = prompt
    ends = stop_ids(VOCAB, stops)
    seeds = seeds_of(len(prompts)) if seeds is None else seeds
    width = seeds.shape[1]
    settings, truncated = sampling.arrays(), sampling.truncated
    paths, rows = start_batch(
        graph,
        weights,
        tokens[None],
        length[None],
        seeds[None],
        ends,
        settings,
        mesh=one_device(),
        capacity=capacity,
        truncated=truncated,
        penalised=sampling.penalised,
    )
    while not np.asarray(rows.done).all():
        rows = decode_batch(
            graph,
            weights,
            paths,
            rows,
            ends,
            settings,
            mesh=one_device(),
            steps=steps,
            width=width,
            truncated=truncated,
        )
    rows = dataclasses.replace(rows, keys=(), values=())
    return jax.tree.map(lambda x: x.reshape(len(prompts), width, *x.shape[2:]), jax.device_get(rows))


def run(*arguments, **settings):
    """Tokens and log-probabilities of every row: [prompt][row] -> lists."""
    out = decode_rows(*arguments, **settings)
    return [
        [(row[:n].tolist(), scores[:n]) for row, scores, n in zip(*prompt, strict=True)]
        for prompt in zip(out.tokens, out.log_probability, out.length, strict=True)
    ]


def check_against_forward(model, drawn, prompts=PROMPTS):
    pairs = [(prompt, *row) for prompt, rows in zip(prompts, drawn, strict=True) for row in rows]
    scores = answer_scores(*model, [p for p, _, _ in pairs], [a for _, a, _ in pairs])
    for (_, _, decoded), expected in zip(pairs, scores, strict=True):
        np.testing.assert_allclose(decoded, expected, atol=1e-4)


def test_sampled_log_probabilities_equal_the_forward_pass(model):
    check_against_forward(model, run(model))


@pytest.mark.parametrize("penalty", [1.3, 0.7])
def test_penalised_tokens_equal_the_forward_pass(model, penalty):
    """Every token of prompt and answer weighs, of its own row alone; what is recorded stays the model's."""
    drawn = run(model, sampling=SamplingConfig(temperature=0, repetition_penalty=penalty))
    check_against_forward(model, drawn)
    differ = 0
    for prompt, rows in zip(PROMPTS, drawn, strict=True):
        for answer, _ in rows:
            path = [*prompt, *answer]
            scores = logits(*model, path)
            for at in range(len(prompt), len(path)):
                row = scores[at - 1].copy()
                for token in set(path[:at]):
                    row[token] = row[token] * penalty if row[token] < 0 else row[token] / penalty
                assert row.argmax() == path[at]
                differ += scores[at - 1].argmax() != path[at]
    assert differ


def logits(graph, weights, path):
    """Scores after each token of a path, without any cache."""
    hidden = nnx.merge(graph, weights)
    tokens = jnp.asarray([path + [0] * (20 - len(path))])
    states = hidden.read(tokens, jnp.arange(20)[None], jnp.ones_like(tokens))
    return np.array(hidden.logits(states)[0])


def test_penalised_samples_equal_the_forward_pass(model):
    check_against_forward(model, run(model, sampling=SamplingConfig(repetition_penalty=1.3)))


def test_greedy_tokens_equal_the_forward_pass(model):
    for prompt, rows in zip(PROMPTS, run(model, sampling=GREEDY), strict=True):
        answer, _ = rows[0]
        scores = predictions(*model, [[*prompt, *answer]])[0]
        assert scores[len(prompt) - 1 :].argmax(axis=1).tolist() == answer


def test_variants_decode_as_they_read(monkeypatch):
    """Biases, normed heads, as many key-value heads as query heads, scanned layers, some with a window."""
    monkeypatch.setattr(model_config, "UNROLLED_LAYERS", 1)
    scaling = RopeScaling("llama3", factor=8.0, original_length=16)
    shape = dataclasses.replace(SHAPE, layers=3, qkv_bias=True, qk_norm=True, kv_heads=4, rope_scaling=scaling)
    model = decoder(dataclasses.replace(shape, sliding_window=3, full_layers=1))
    for bias in (model.blocks.query.bias, model.blocks.key.bias, model.blocks.value.bias):
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


def test_waves_cut_anywhere_change_nothing(model):
    """Nine steps at once equal waves of two."""
    whole, cut = decode_rows(model, stops=(2,)), decode_rows(model, stops=(2,), steps=2)
    np.testing.assert_array_equal(cut.tokens, whole.tokens)
    np.testing.assert_array_equal(cut.length, whole.length)
    np.testing.assert_allclose(cut.log_probability, whole.log_probability, atol=1e-6)


def test_rows_hold_zeros_beyond_their_end(model):
    rows = decode_rows(model, stops=(2, 7))
    beyond = np.arange(CAPACITY) >= rows.length[..., None]
    assert beyond.any()
    assert not rows.log_probability[beyond].any()
    assert not rows.tokens[beyond].any()


def test_reopened_rows_forget_what_they_held(model):
    """Row 1 of three is opened anew on the second prompt; the others stay as they are."""
    graph, weights = model
    tokens, length = jnp.array([[5], [3], [2]]), jnp.ones(3, jnp.int32)
    ends, settings = stop_ids(VOCAB, NOTHING), SAMPLED.arrays()
    started = start_batch(
        graph,
        weights,
        tokens[None],
        length[None],
        seeds_of(3, 1)[None],
        ends,
        settings,
        mesh=one_device(),
        capacity=CAPACITY,
        truncated=False,
    )
    paths, held = jax.tree.map(
        lambda x: x[0],
        (
            started[0],
            decode_batch(
                graph,
                weights,
                *started,
                ends,
                settings,
                mesh=one_device(),
                steps=CAPACITY,
                width=1,
                truncated=False,
            ),
        ),
    )
    opened: Rows = open_rows(
        paths,
        held,
        at=jnp.array([1, 3]),  # 3 is out of range: opens none
        path=jnp.array([2, 0]),
        lane=jnp.array([0, 0]),
        seeds=seeds_of(2, 1, seed=1)[:, 0],
        stops=ends,
        settings=settings,
        truncated=False,
    )
    assert opened.length.tolist() == [CAPACITY, 1, CAPACITY]
    assert opened.path.tolist() == [0, 2, 2]
    assert opened.done.tolist() == [True, False, True]
    for name in ("tokens", "log_probability"):
        before, after = np.asarray(getattr(held, name)), np.asarray(getattr(opened, name))
        np.testing.assert_array_equal(after[[0, 2]], before[[0, 2]])
        assert not after[1, 1:].any()


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
