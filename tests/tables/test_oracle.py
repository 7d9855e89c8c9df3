"""The float64 oracle against PyTorch and against values that can be written down."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from iree_flashattn import oracle


def random(*shape: int) -> np.ndarray:
    return np.random.default_rng(1).standard_normal(shape)


def test_plain_and_causal_are_pytorchs():
    q, k, v = random(2, 3, 7, 5), random(2, 3, 7, 5), random(2, 3, 7, 4)
    for causal in (False, True):
        expected = torch.nn.functional.scaled_dot_product_attention(
            *(torch.from_numpy(x) for x in (q, k, v)), is_causal=causal
        ).numpy()
        got = oracle.attention(q, k, v, scale=5**-0.5, band_hi=0 if causal else None).out
        np.testing.assert_allclose(got, expected, atol=1e-12)


def test_gqa_repeats_heads_in_order():
    q, k, v = random(1, 4, 2, 3), random(1, 2, 5, 3), random(1, 2, 5, 3)
    grouped = oracle.attention(q, k, v, scale=1.0).out
    for head in range(4):
        alone = oracle.attention(q[:, [head]], k[:, [head // 2]], v[:, [head // 2]], scale=1.0).out
        np.testing.assert_array_equal(grouped[:, [head]], alone)


def scores(values: list[float], **keywords: object) -> np.ndarray:
    """P of one row whose raw scores are `values`."""
    k = np.array(values).reshape(1, 1, -1, 1)
    return oracle.attention(np.ones((1, 1, 1, 1)), k, k, scale=1.0, **keywords).weights[0, 0, 0]


def test_order_of_softcap_bias_and_fill():
    bias = np.array([0.0, 1.0, 5.0]).reshape(1, 1, 1, 3)
    excluded = np.array([False, False, True]).reshape(1, 1, 1, 3)
    soft = np.exp([2 * math.tanh(0.5), 2 * math.tanh(1.0) + 1, -3.0])
    got = scores([1.0, 2.0, 3.0], softcap=2.0, bias=bias, excluded=excluded, fill=-3.0)
    np.testing.assert_allclose(got, soft / soft.sum())
    after = np.exp([2 * math.tanh(0.5), 2 * math.tanh(1.0) + 1, -3.0 + 5.0])
    options = {"softcap": 2.0, "bias": bias, "excluded": excluded, "fill": -3.0}
    got = scores([1.0, 2.0, 3.0], **options, bias_after_fill=True)
    np.testing.assert_allclose(got, after / after.sum())


def test_sink_takes_weight_and_gives_no_value():
    np.testing.assert_allclose(scores([0.0, 0.0], sinks=np.array([math.log(2)])), [0.25, 0.25])


def test_empty_rows():
    excluded = np.ones((1, 1, 1, 2), bool)
    assert (scores([1.0, 2.0], excluded=excluded) == 0).all()
    assert np.isnan(scores([1.0, 2.0], excluded=excluded, empty_row_nan=True)).all()
    np.testing.assert_allclose(scores([1.0, 2.0], excluded=excluded, fill=-1e30), [0.5, 0.5])
    assert (scores([1.0], excluded=excluded[..., :1], sinks=np.array([0.0])) == 0).all()


@pytest.mark.parametrize(("q_len", "kv_len"), [(0, 3), (3, 0)])
def test_zero_lengths(q_len, kv_len):
    q, k = np.ones((1, 2, q_len, 4)), np.ones((1, 2, kv_len, 4))
    out, weights, lse = oracle.attention(q, k, k, scale=1.0)
    assert out.shape == (1, 2, q_len, 4)
    assert weights.shape == (1, 2, q_len, kv_len)
    assert not out.any()
    assert (lse == -np.inf).all()


def test_lse():
    q, k = random(1, 2, 3, 4), random(1, 2, 5, 4)
    excluded = np.zeros((1, 1, 3, 5), bool)
    excluded[..., 1, :] = True
    options = {"scale": 0.7, "excluded": excluded, "sinks": np.ones(2)}
    lse = oracle.attention(q, k, k, **options).lse
    expected = np.log(np.exp(0.7 * q @ k.swapaxes(-1, -2)).sum(-1))
    np.testing.assert_allclose(lse[:, :, [0, 2]], expected[:, :, [0, 2]])
    assert (lse[:, :, 1] == -np.inf).all()
    assert np.isnan(oracle.attention(q, k, k, **options, lse_nan=True).lse[:, :, 1]).all()
