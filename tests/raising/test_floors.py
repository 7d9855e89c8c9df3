"""Sums of exponentials that are kept from being zero."""

from __future__ import annotations

import math

import numpy as np
import pytest

from fuzzing.net import Val

from .conftest import KEYS, ROWS, Attention

FLOORS = ["maximum", "greater", "zero", "added"]


def masked_scores(attention: Attention) -> Val:
    keep = attention.net.input((ROWS, KEYS), "i1")
    keep.array[1] = False
    return attention.net.select(keep, [1, 2], attention.scores(), -math.inf, True)


def maximum(attention: Attention, s: Val, guarded: bool, limit: float = math.inf) -> Val:
    """The row maximum; ``guarded``: 0 where it is no number."""
    net = attention.net
    top = net.reduce(s, 2, "maximumf", False, -math.inf, index=False)
    if not guarded:
        return top
    infinite, zero = net.scalar(limit), net.scalar(0.0)
    body = [
        "%a = math.absf %b0 : f32", f"%c = arith.cmpf oge, %a, {infinite} : f32",
        f"%r = arith.select %c, {zero}, %b0 : f32",
    ]  # fmt: skip
    return net.elementwise(
        [(top, [0, 1])], top.shape, body, "%r", lambda a: np.where(np.abs(a) >= limit, 0.0, a)
    )


def probabilities(
    attention: Attention, s: Val, top: Val, floor: str, number: float = 1e-9, base: str = "exp"
) -> Val:
    net = attention.net
    e = net.unary(net.binary(s, top, [0, 1], "subf"), f"math.{base}", getattr(np, base))
    total = net.reduce(e, 2, "addf", False, 0.0, index=False)
    constant, zero, one = net.scalar(number), net.scalar(0.0), net.scalar(1.0)
    body, compute = {
        "maximum": ([f"%r = arith.maximumf %b0, {constant} : f32"],
                    lambda a: np.maximum(a, number)),
        "greater": ([f"%c = arith.cmpf ogt, %b0, {constant} : f32",
                     f"%r = arith.select %c, %b0, {constant} : f32"],
                    lambda a: np.where(a > number, a, number)),
        "zero": ([f"%c = arith.cmpf oeq, %b0, {zero} : f32",
                  f"%r = arith.select %c, {one}, %b0 : f32"],
                 lambda a: np.where(a == 0, 1.0, a)),
        "added": ([f"%r = arith.addf %b0, {constant} : f32"], lambda a: a + number),
    }[floor]  # fmt: skip
    total = net.elementwise([(total, [0, 1])], total.shape, body, "%r", compute)
    return net.binary(e, total, [0, 1], "divf")


@pytest.mark.parametrize("guarded", [True, False])
@pytest.mark.parametrize("floor", FLOORS)
def test_rows_without_keys(attention: Attention, floor: str, guarded: bool) -> None:
    """Zero where the maximum is guarded as well; -inf less -inf is NaN over any floor."""
    s = masked_scores(attention)
    p = probabilities(attention, s, maximum(attention, s, guarded), floor)
    site = attention.site(attention.values(p))
    assert site.empty_row == ("zero" if guarded else "nan")


@pytest.mark.parametrize("guarded", [True, False])
@pytest.mark.parametrize("floor", FLOORS)
def test_powers_of_two(attention: Attention, floor: str, guarded: bool) -> None:
    s = attention.net.with_scalar(masked_scores(attention), "mulf", math.log2(math.e))
    p = probabilities(attention, s, maximum(attention, s, guarded), floor, base="exp2")
    site = attention.site(attention.values(p))
    assert site.empty_row == ("zero" if guarded else "nan")


@pytest.mark.parametrize(("floor", "number"), [("maximum", 2.0), ("greater", 2.0), ("added", 1e-6)])
def test_floor_that_changes_rows(attention: Attention, floor: str, number: float) -> None:
    s = masked_scores(attention)
    p = probabilities(attention, s, maximum(attention, s, True), floor, number)
    assert attention.refusal(attention.values(p)).rule == "softmax"


@pytest.mark.parametrize("floor", ["maximum", "zero"])
def test_sum_that_may_be_small(attention: Attention, floor: str) -> None:
    """Something larger than the row's maximum is subtracted, or nothing: sums of less than 1."""
    s = masked_scores(attention)
    top = maximum(attention, s, True, limit=1.0)  # 0 in place of larger ones
    p = probabilities(attention, s, top, floor)
    assert attention.refusal(attention.values(p)).rule == "softmax"


def test_maximum_of_scores_that_are_not_masked(attention: Attention) -> None:
    """The largest may be masked, and the sum of the others as small as one likes."""
    net = attention.net
    scores = attention.scores()
    s = net.select(net.input((ROWS, KEYS), "i1"), [1, 2], scores, -math.inf, True)
    p = probabilities(attention, s, maximum(attention, scores, False), "maximum")
    assert attention.refusal(attention.values(p)).rule == "softmax"
