"""Masks: bands, boolean tensors, fills, and their combinations."""

from __future__ import annotations

import math

import numpy as np
import pytest

from fuzzing.net import Net

from .conftest import HEADS, KEYS, ROWS, Attention

LOWEST = -3.4028234663852886e38


def finish(attention: Attention, s):
    return attention.values(attention.softmax(s))


@pytest.mark.parametrize("offset", [0, 2, -1])
def test_comparison_of_positions_is_a_band(attention: Attention, offset: int) -> None:
    net = attention.net
    keep = net.band((ROWS, KEYS), offset, "sge")
    site = attention.site(
        finish(attention, net.select(keep, [1, 2], attention.scores(), -math.inf, True))
    )
    assert (site.band.lo, site.band.hi, site.mask) == (None, offset, None)
    assert site.fill == -math.inf


def test_dropping_comparison_is_a_band(attention: Attention) -> None:
    net = attention.net
    drop = net.band((ROWS, KEYS), 0, "slt")
    s = net.select(drop, [1, 2], attention.scores(), -1e9, False)
    site = attention.site(finish(attention, s))
    assert (site.band.hi, site.fill) == (0, -1e9)


def test_window_is_two_bounds(attention: Attention) -> None:
    net = attention.net
    s = attention.scores()
    s = net.select(net.band((ROWS, KEYS), 2, "sge"), [1, 2], s, -math.inf, True)
    s = net.select(net.band((ROWS, KEYS), -2, "slt"), [1, 2], s, -math.inf, True)
    site = attention.site(finish(attention, s))
    assert (site.band.lo, site.band.hi) == (-1, 2)


def test_band_read_transposed_is_no_causal_mask(attention: Attention) -> None:
    net = attention.net
    keep = net.band((KEYS, ROWS), 0, "sge")  # rows of the mask are keys here
    s = net.select(keep, [2, 1], attention.scores(), -math.inf, True)
    site = attention.site(finish(attention, s))
    assert (site.band.lo, site.band.hi) == (0, None)


def test_band_that_always_holds_vanishes(attention: Attention) -> None:
    net = attention.net
    keep = net.band((ROWS, KEYS), KEYS, "sge")
    s = net.select(keep, [1, 2], attention.scores(), -math.inf, True)
    site = attention.site(finish(attention, s))
    assert site.band.open
    assert site.mask is None


@pytest.mark.parametrize("keeps", [True, False])
def test_boolean_mask(attention: Attention, keeps: bool) -> None:
    net = attention.net
    mask = net.input((HEADS, 1, KEYS), "i1")
    s = net.select(mask, [0, None, 2], attention.scores(), LOWEST, keeps)
    site = attention.site(finish(attention, s))
    assert site.mask.strides == (0, KEYS, 0, 1)  # type: ignore[union-attr]
    # select(mask, x, y) keeps x: a mask that drops is the negation, told by the flag
    assert site.mask_drops is not keeps
    assert site.fill == LOWEST


def test_band_and_boolean_mask(attention: Attention) -> None:
    net = attention.net
    s = net.select(net.band((ROWS, KEYS), 0, "sge"), [1, 2], attention.scores(), -1e9, True)
    s = net.select(net.input((KEYS,), "i1"), [2], s, -1e9, True)
    site = attention.site(finish(attention, s))
    assert site.band.hi == 0
    assert site.mask.strides == (0, 0, 0, 1)  # type: ignore[union-attr]


def test_two_boolean_masks_are_one_tensor(attention: Attention) -> None:
    net = attention.net
    s = net.select(net.input((KEYS,), "i1"), [2], attention.scores(), -1e9, True)
    s = net.select(net.input((ROWS,), "i1"), [1], s, -1e9, False)
    site = attention.site(finish(attention, s))
    assert site.mask.value.shape == (ROWS, KEYS)  # type: ignore[union-attr]


def test_different_fills_are_kept(attention: Attention) -> None:
    net = attention.net
    s = net.select(net.input((KEYS,), "i1"), [2], attention.scores(), -1e4, True)
    s = net.select(net.input((ROWS, KEYS), "i1"), [1, 2], s, -2.0, True)
    site = attention.site(finish(attention, s))
    assert site.bias_after_fill
    assert site.fill == 0


@pytest.mark.parametrize(("fill", "is_band"), [(-math.inf, True), (LOWEST, True), (-1e4, False)])
def test_mask_that_is_added(attention: Attention, fill: float, is_band: bool) -> None:
    """0 or F added is a fill only where a score cannot show beside F."""
    net = attention.net
    keep = net.band((ROWS, KEYS), 0, "sge")
    bias = net.select(keep, [0, 1], net.fill((ROWS, KEYS), 0.0), fill, True)
    site = attention.site(finish(attention, net.binary(attention.scores(), bias, [1, 2], "addf")))
    assert (site.band.hi == 0) == is_band
    assert (site.bias is None) == is_band


@pytest.mark.parametrize(("rows", "keys"), [(ROWS, KEYS), (16, 16), (1, KEYS)])
@pytest.mark.parametrize("dtype", ["f32", "f16", "bf16"])
def test_constant_mask_is_a_band(attention: Attention, rows: int, keys: int, dtype: str) -> None:
    """Few elements are text, many are a run of digits, and one row of nothing but zeros a splat."""
    net = attention.net = Net("main", np.random.default_rng(2))
    attention.q, attention.k = net.input((HEADS, rows, 8)), net.input((HEADS, keys, 8))
    attention.v = net.input((HEADS, keys, 4))
    hi = 0 if rows > 1 else keys
    causal = np.where(np.tri(rows, keys, hi) > 0, 0.0, -np.inf)
    mask = net.cast(net.constant(causal, dtype), "f32")
    site = attention.site(finish(attention, net.binary(attention.scores(), mask, [1, 2], "addf")))
    assert site.bias is None
    assert site.band.hi == (0 if rows > 1 else None)


@pytest.mark.parametrize("kind", ["holes", "two numbers"])
def test_constant_mask_that_is_no_band_is_a_bias(attention: Attention, kind: str) -> None:
    mask = np.where(np.tri(ROWS, KEYS) > 0, 0.0, -np.inf)
    if kind == "holes":
        mask[3, 1] = -np.inf
    else:
        mask[0, 1] = -1e38
    s = attention.net.binary(attention.scores(), attention.net.constant(mask), [1, 2], "addf")
    site = attention.site(finish(attention, s))
    assert site.bias is not None
    assert site.band.open


@pytest.mark.parametrize("first", ["input", "constant", "band", "slopes"])
def test_a_bias_shows_in_a_mask_that_is_added_after_it(attention: Attention, first: str) -> None:
    """Where both are far below the scores, their sum says what a masked row attends to."""
    net = attention.net
    far = np.where(np.arange(ROWS)[:, None] * np.arange(KEYS) % 3 < 2, 0.0, -np.inf)
    bias = {
        "input": lambda: net.input((ROWS, KEYS)),
        "constant": lambda: net.constant(far),
        "band": lambda: net.select(
            net.band((ROWS, KEYS), 0, "sge"), [0, 1], net.fill((ROWS, KEYS), 0.25), -np.inf, True
        ),
        "slopes": lambda: net.constant(np.linspace(-1, 1, ROWS * KEYS).reshape(ROWS, KEYS)),
    }[first]()
    s = net.binary(attention.scores(), bias, [1, 2], "addf")
    late = net.band((ROWS, KEYS), 2, "slt")
    s = net.binary(s, net.select(late, [0, 1], net.fill((ROWS, KEYS), 0.0), LOWEST, True),
                   [1, 2], "addf")  # fmt: skip
    site = attention.site(finish(attention, s))
    assert site.bias is not None
    assert site.bias_after_fill == (first != "slopes")


def test_mask_before_a_scale_is_scaled(attention: Attention) -> None:
    net = attention.net
    s = net.select(net.input((ROWS, KEYS), "i1"), [1, 2], attention.scores(), -1e9, True)
    site = attention.site(finish(attention, net.with_scalar(s, "mulf", 0.5)))
    assert (site.fill, site.scale) == (-5e8, 0.5)


def test_mask_of_the_scores_themselves(attention: Attention) -> None:
    net = attention.net
    s = attention.scores()
    zero = net.scalar(0.0)
    body = [f"%r = arith.cmpf ogt, %b0, {zero} : f32"]
    positive = net.elementwise([(s, [0, 1, 2])], s.shape, body, "%r", lambda a: a > 0, "i1")
    refusal = attention.refusal(finish(attention, net.select(positive, [0, 1, 2], s, -1e9, True)))
    assert "depends on the scores" in refusal.reason


def test_finite_mask_without_a_row_maximum(attention: Attention) -> None:
    """exp(-1e9) is 0: without a maximum to subtract, a fully masked row is NaN."""
    net = attention.net
    s = net.select(net.input((ROWS, KEYS), "i1"), [1, 2], attention.scores(), -1e9, True)
    e = net.unary(s, "math.exp", np.exp)
    total = net.reduce(e, 2, "addf", False, 0.0, index=False)
    site = attention.site(attention.values(net.binary(e, total, [0, 1], "divf")))
    assert (site.fill, site.empty_row) == (-math.inf, "nan")


def test_mask_after_the_softmax(attention: Attention) -> None:
    net = attention.net
    p = attention.softmax(attention.scores())
    p = net.select(net.input((ROWS, KEYS), "i1"), [1, 2], p, 0.0, True)
    assert attention.refusal(attention.values(p)).rule == "softmax"


@pytest.mark.parametrize(("fill", "same"), [(LOWEST, True), (LOWEST, False), (-2.0, True)])
def test_mask_before_and_after_the_softmax(attention: Attention, fill: float, same: bool) -> None:
    """DeBERTa's softmax: the lowest float before, zero after, at the same places."""
    net = attention.net
    keep = net.input((ROWS, KEYS), "i1")
    p = attention.softmax(net.select(keep, [1, 2], attention.scores(), fill, True))
    after = keep if same else net.input((ROWS, KEYS), "i1")
    o = attention.values(net.select(after, [1, 2], p, 0.0, True))
    if same and fill == LOWEST:
        site = attention.site(o)
        assert (site.empty_row, site.fill) == ("zero", -math.inf)
    else:
        assert attention.refusal(o).rule == "softmax"


def test_guard_against_nan_makes_empty_rows_zero(attention: Attention) -> None:
    net = attention.net
    s = net.select(net.input((ROWS, KEYS), "i1"), [1, 2], attention.scores(), -math.inf, True)
    p = attention.softmax(s)
    zero = net.scalar(0.0)
    body = ["%n = arith.cmpf une, %b0, %b0 : f32", f"%r = arith.select %n, {zero}, %b0 : f32"]
    p = net.elementwise([(p, [0, 1, 2])], p.shape, body, "%r", np.nan_to_num)
    assert attention.site(attention.values(p)).empty_row == "zero"


def test_guard_that_writes_something_else(attention: Attention) -> None:
    net = attention.net
    p = attention.softmax(attention.scores())
    one = net.scalar(1.0)
    body = ["%n = arith.cmpf une, %b0, %b0 : f32", f"%r = arith.select %n, {one}, %b0 : f32"]
    p = net.elementwise([(p, [0, 1, 2])], p.shape, body, "%r", lambda a: a)
    assert attention.refusal(attention.values(p)).rule == "softmax"


@pytest.mark.parametrize("lowest", [LOWEST, -10.0])
def test_clamp_at_the_lowest_number_changes_the_fill_alone(
    attention: Attention, lowest: float
) -> None:
    net = attention.net
    s = net.select(net.input((ROWS, KEYS), "i1"), [1, 2], attention.scores(), -math.inf, True)
    bound = net.scalar(lowest)
    body = [f"%c = arith.cmpf ogt, %b0, {bound} : f32",
            f"%r = arith.select %c, %b0, {bound} : f32"]  # fmt: skip
    s = net.elementwise([(s, [0, 1, 2])], s.shape, body, "%r", lambda a: np.maximum(a, lowest))
    if lowest == LOWEST:
        assert attention.site(finish(attention, s)).fill == LOWEST
    else:
        assert "clamped" in attention.refusal(finish(attention, s)).reason


@pytest.mark.parametrize("same", [True, False])
def test_scores_that_are_replaced_where_they_are_masked(attention: Attention, same: bool) -> None:
    """JAX writes 0 where a mask drops the exponentials anyway, so that gradients are numbers."""
    net = attention.net
    keep = net.input((ROWS, KEYS), "i1")
    s = attention.scores()
    other = keep if same else net.input((ROWS, KEYS), "i1")
    safe = net.select(other, [1, 2], s, 0.0, True)
    masked = net.select(keep, [1, 2], safe, -math.inf, True)
    top = net.reduce(masked, 2, "maximumf", False, -math.inf, index=False)

    def exponentials(x):
        e = net.unary(net.binary(x, top, [0, 1], "subf"), "math.exp", np.exp)
        return net.select(keep, [1, 2], e, 0.0, True)

    total = net.reduce(exponentials(safe), 2, "addf", False, 0.0, index=False)
    o = attention.values(net.binary(exponentials(s), total, [0, 1], "divf"))
    if same:
        assert attention.site(o).mask is not None
    else:
        assert attention.refusal(o).rule == "softmax"
