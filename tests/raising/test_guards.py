"""Guards that make rows without any key zero: what they have to look at."""

from __future__ import annotations

import math

import numpy as np
import pytest

from fuzzing.net import Val

from .conftest import KEYS, ROWS, Attention


def some_rows_masked(attention: Attention) -> Val:
    """A boolean mask in which one row has no key."""
    keep = attention.net.input((ROWS, KEYS), "i1")
    keep.array[1] = False
    return keep


def mask_to_add(attention: Attention, keep: Val, low: float = -math.inf) -> Val:
    net = attention.net
    zero, fill = net.scalar(0.0), net.scalar(low)
    body = [f"%r = arith.select %b0, {zero}, {fill} : f32"]
    shape = (ROWS, KEYS)
    return net.elementwise([(keep, [0, 1])], shape, body, "%r", lambda m: np.where(m, 0.0, low))


def guarded(attention: Attention, p: Val, x: Val, number: float = -math.inf) -> Val:
    """P, zero in rows where the maximum of ``x`` is the number, as ONNX's Attention has it."""
    net = attention.net
    top = net.reduce(x, len(x.shape) - 1, "maximumf", False, -math.inf, index=True)
    empty = net.compare(top, "oeq", number, lambda a: a == number)
    return net.select(empty, [1] if len(x.shape) == 2 else [0, 1], p, 0.0, False)


def test_maximum_of_the_mask(attention: Attention) -> None:
    mask = mask_to_add(attention, some_rows_masked(attention))
    p = attention.softmax(attention.net.binary(attention.scores(), mask, [1, 2], "addf"))
    site = attention.site(attention.values(guarded(attention, p, mask)))
    assert site.empty_row == "zero"
    assert site.mask is not None


def test_maximum_of_a_mask_of_numbers(attention: Attention) -> None:
    mask = attention.net.input((ROWS, KEYS))
    mask.array[1] = -math.inf
    s = attention.net.with_scalar(attention.scores(), "mulf", 0.5)
    p = attention.softmax(attention.net.binary(s, mask, [1, 2], "addf"))
    site = attention.site(attention.values(guarded(attention, p, mask)))
    assert site.empty_row == "zero"
    assert site.bias is not None


def test_maximum_of_the_scores(attention: Attention) -> None:
    net = attention.net
    s = net.select(some_rows_masked(attention), [1, 2], attention.scores(), -math.inf, True)
    o = attention.values(guarded(attention, attention.softmax(s), s))
    assert attention.site(o).empty_row == "zero"


def test_no_mask_at_all(attention: Attention) -> None:
    """What ONNX's function leaves without a mask: the maximum of zeros."""
    zeros = attention.net.constant(np.zeros((ROWS, KEYS), np.float32))
    p = attention.softmax(attention.net.binary(attention.scores(), zeros, [1, 2], "addf"))
    assert attention.site(attention.values(guarded(attention, p, zeros))).bias is None


def test_whether_any_key_is_kept(attention: Attention) -> None:
    net = attention.net
    keep = some_rows_masked(attention)
    p = attention.softmax(net.select(keep, [1, 2], attention.scores(), -math.inf, True))
    alive = net.reduce(keep, 1, "ori", False, False, index=False)
    site = attention.site(attention.values(net.select(alive, [1], p, 0.0, True)))
    assert site.empty_row == "zero"


@pytest.mark.parametrize("other", ["mask", "bias", "fill", "number", "rows"])
def test_guard_that_looks_at_something_else(attention: Attention, other: str) -> None:
    """Rows that another mask empties are NaN, rows of finite numbers are not empty."""
    net = attention.net
    keep = some_rows_masked(attention)
    mask = mask_to_add(attention, keep, -1e9 if other == "fill" else -math.inf)
    s = net.binary(attention.scores(), mask, [1, 2], "addf")
    looked_at = mask
    if other == "mask":
        looked_at = mask_to_add(attention, some_rows_masked(attention))
    elif other == "bias":
        s = net.binary(s, net.input((ROWS, KEYS)), [1, 2], "addf")
    elif other == "rows":
        looked_at = net.transpose(mask, [1, 0])
        s = net.slice(s, 2, 0, ROWS)
        attention.v = net.slice(attention.v, 1, 0, ROWS)
        looked_at = net.slice(looked_at, 0, 0, ROWS)
    p = attention.softmax(s)
    number = {"fill": -1e9, "number": 0.0}.get(other, -math.inf)
    refusal = attention.refusal(attention.values(guarded(attention, p, looked_at, number)))
    assert refusal.rule == "softmax"


@pytest.mark.parametrize("any_of", ["other", "one more"])
def test_whether_any_key_of_another_mask_is_kept(attention: Attention, any_of: str) -> None:
    net = attention.net
    keep = some_rows_masked(attention)
    s = net.select(keep, [1, 2], attention.scores(), -math.inf, True)
    asked = keep
    if any_of == "other":
        asked = some_rows_masked(attention)
    else:
        s = net.select(net.input((ROWS, KEYS), "i1"), [1, 2], s, -math.inf, True)
    p = attention.softmax(s)
    alive = net.reduce(asked, 1, "ori", False, False, index=False)
    o = attention.values(net.select(alive, [1], p, 0.0, True))
    assert attention.refusal(o).rule == "softmax"


def test_whether_all_keys_are_kept(attention: Attention) -> None:
    """Zero where any key is masked: another function."""
    net = attention.net
    keep = some_rows_masked(attention)
    p = attention.softmax(net.select(keep, [1, 2], attention.scores(), -math.inf, True))
    whole = net.reduce(keep, 1, "andi", False, True, index=False)
    o = attention.values(net.select(whole, [1], p, 0.0, True))
    assert attention.refusal(o).rule == "softmax"


@pytest.mark.parametrize("rounded", [False, True])
def test_rounding_that_makes_a_mask_infinite(attention: Attention, rounded: bool) -> None:
    """-1e9 is -inf in f16: the guard sees empty rows, and the scores do not."""
    net = attention.net
    mask = mask_to_add(attention, some_rows_masked(attention), -1e9)
    narrow = net.cast(net.cast(mask, "f16"), "f32")
    added = narrow if rounded else mask
    p = attention.softmax(net.binary(attention.scores(), added, [1, 2], "addf"))
    o = attention.values(guarded(attention, p, narrow))
    if rounded:
        assert attention.site(o).empty_row == "zero"
    else:
        assert attention.refusal(o).rule == "softmax"
