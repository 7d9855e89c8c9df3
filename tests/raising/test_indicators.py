"""Masks written with numbers: scores times 0 or 1, plus something where they are 0."""

from __future__ import annotations

import numpy as np
import pytest

from fuzzing.net import Val

from .conftest import HEADS, KEYS, ROWS, Attention

TRIL = np.tril(np.ones((ROWS, KEYS)))


def finish(attention: Attention, s: Val):
    return attention.values(attention.softmax(s))


def as_number(attention: Attention, mask: Val) -> Val:
    dims = list(range(len(mask.shape)))
    body = ["%r = arith.uitofp %b0 : i1 to f32"]
    return attention.net.elementwise([(mask, dims)], mask.shape, body, "%r", lambda m: m + 0.0)


def complement(attention: Attention, m: Val, factor: float) -> Val:
    """factor * (1 - m)"""
    net = attention.net
    one = net.scalar(1.0)
    dims = list(range(len(m.shape)))
    body = [f"%r = arith.subf {one}, %b0 : f32"]
    rest = net.elementwise([(m, dims)], m.shape, body, "%r", lambda a: 1.0 - a)
    return net.with_scalar(rest, "mulf", factor)


def masked(attention: Attention, m: Val, factor: float = -1e4) -> Val:
    """s * m + factor * (1 - m), as GPT-1 has it"""
    net = attention.net
    s = net.binary(attention.scores(), m, [1, 2], "mulf")
    return net.binary(s, complement(attention, m, factor), [1, 2], "addf")


def test_constant_of_zeros_and_ones_is_a_band(attention: Attention) -> None:
    m = attention.net.constant(TRIL)
    site = attention.site(finish(attention, masked(attention, m)))
    assert (site.band.hi, site.mask, site.bias, site.fill) == (0, None, None, -1e4)


def test_boolean_that_was_cast(attention: Attention) -> None:
    m = as_number(attention, attention.net.input((ROWS, KEYS), "i1"))
    site = attention.site(finish(attention, masked(attention, m, -1e6)))
    assert site.mask is not None
    assert (site.bias, site.fill) == (None, -1e6)


def test_product_of_two_booleans_that_were_cast(attention: Attention) -> None:
    net = attention.net
    rows, keys = (as_number(attention, net.input((n,), "i1")) for n in (ROWS, KEYS))
    m = net.elementwise(
        [(rows, [0]), (keys, [1])], (ROWS, KEYS), ["%r = arith.mulf %b0, %b1 : f32"], "%r",
        lambda a, b: a * b,
    )  # fmt: skip
    assert attention.site(finish(attention, masked(attention, m))).bias is None


def test_scores_that_are_zero_where_they_are_masked(attention: Attention) -> None:
    m = as_number(attention, attention.net.input((KEYS,), "i1"))
    s = attention.net.binary(attention.scores(), m, [2], "mulf")
    site = attention.site(finish(attention, s))
    assert (site.fill, site.mask is not None) == (0.0, True)


def test_another_complement_is_a_bias(attention: Attention) -> None:
    net = attention.net
    m, other = (as_number(attention, net.input((ROWS, KEYS), "i1")) for _ in range(2))
    s = net.binary(attention.scores(), m, [1, 2], "mulf")
    s = net.binary(s, complement(attention, other, -1e4), [1, 2], "addf")
    site = attention.site(finish(attention, s))
    assert site.bias is not None
    assert site.bias_after_fill


@pytest.mark.parametrize("half", [True, False])
def test_numbers_that_may_be_others(attention: Attention, half: bool) -> None:
    net = attention.net
    m = net.constant(TRIL / 2) if half else net.input((ROWS, KEYS))
    refusal = attention.refusal(finish(attention, masked(attention, m)))
    assert "for each query and key" in refusal.reason


@pytest.mark.parametrize("late", [False, True])
def test_masked_exponentials(attention: Attention, late: bool) -> None:
    """exp(s) * m over its sum, divided before or after the product with V"""
    net = attention.net
    e = net.binary(attention.exponentials(attention.scores()), net.constant(TRIL), [1, 2], "mulf")
    total = net.reduce(e, 2, "addf", False, 0.0, index=False)
    if late:
        o = net.binary(attention.values(e), total, [0, 1], "divf")
    else:
        o = attention.values(net.binary(e, total, [0, 1], "divf"))
    site = attention.site(o)
    assert (site.band.hi, site.fill) == (0, -np.inf)


def test_mask_in_the_numerator_alone(attention: Attention) -> None:
    net = attention.net
    e = attention.exponentials(attention.scores())
    total = net.reduce(e, 2, "addf", False, 0.0, index=False)
    e = net.binary(e, net.constant(TRIL), [1, 2], "mulf")
    refusal = attention.refusal(attention.values(net.binary(e, total, [0, 1], "divf")))
    assert "different scores" in refusal.reason


def test_prior_that_is_no_mask(attention: Attention) -> None:
    net = attention.net
    e = attention.exponentials(attention.scores())
    e = net.binary(e, net.input((HEADS, ROWS, KEYS)), [0, 1, 2], "mulf")
    total = net.reduce(e, 2, "addf", False, 0.0, index=False)
    found = attention.raised(attention.values(net.binary(e, total, [0, 1], "divf")))
    assert not [r for r in found if hasattr(r, "scale")]
