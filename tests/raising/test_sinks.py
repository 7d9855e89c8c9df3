"""Attention sinks: one more term in the sum, and in the maximum."""

from __future__ import annotations

import numpy as np
import pytest

from fuzzing.net import Val

from .conftest import HEADS, KEYS, ROWS, Attention


def column(attention: Attention, sink: Val) -> Val:
    return attention.net.elementwise([(sink, [0])], (HEADS, ROWS, 1), [], "%b0", lambda a: a)


def masked(attention: Attention, offset: int) -> Val:
    keep = attention.net.band((ROWS, KEYS), offset, "sge")
    return attention.net.select(keep, [1, 2], attention.scores(), -np.inf, True)


def with_sum(attention: Attention, s: Val, joined: bool, other: bool = False) -> Val:
    """exp(s - m) / (sum + exp(sink - m)), m the row maximum, with the sink in it or without."""
    net = attention.net
    sink = net.input((HEADS,))
    top = net.reduce(s, 2, "maximumf", False, -np.inf, index=False)
    if joined:
        second = net.input((HEADS,)) if other else sink
        top = net.elementwise(
            [(top, [0, 1]), (second, [0])], top.shape, ["%r = arith.maximumf %b0, %b1 : f32"],
            "%r", np.maximum,
        )  # fmt: skip
    e = net.unary(net.binary(s, top, [0, 1], "subf"), "math.exp", np.exp)
    total = net.reduce(e, 2, "addf", False, 0.0, index=False)
    body = [
        "%d = arith.subf %b1, %b2 : f32", "%e = math.exp %d : f32",
        "%r = arith.addf %b0, %e : f32",
    ]  # fmt: skip
    total = net.elementwise(
        [(total, [0, 1]), (sink, [0]), (top, [0, 1])], total.shape, body, "%r",
        lambda t, z, m: t + np.exp(z - m),
    )  # fmt: skip
    return attention.values(net.binary(e, total, [0, 1], "divf"))


def test_column_of_a_named_softmax(attention: Attention) -> None:
    net = attention.net
    s = net.concat([attention.scores(), column(attention, net.input((HEADS,)))], 2)
    site = attention.site(attention.values(net.slice(net.softmax(s, 2), 2, 0, KEYS)))
    assert site.sinks is not None


def test_column_for_each_row(attention: Attention) -> None:
    """Sinks belong to heads: the rows are read as heads of one group, each with one query."""
    net = attention.net
    s = net.concat([attention.scores(), net.input((HEADS, ROWS, 1))], 2)
    site = attention.site(attention.values(net.slice(net.softmax(s, 2), 2, 0, KEYS)))
    assert (site.heads.static, site.q_len.static) == (HEADS * ROWS, 1)


def test_two_columns_of_a_named_softmax(attention: Attention) -> None:
    net = attention.net
    sinks = [column(attention, net.input((HEADS,))) for _ in range(2)]
    s = net.concat([attention.scores(), *sinks], 2)
    o = attention.values(net.slice(net.softmax(s, 2), 2, 0, KEYS))
    assert "another axis" in attention.refusal(o).reason


def test_maximum_with_the_sink(attention: Attention) -> None:
    """Rows without a key are zero, in the source as here."""
    site = attention.site(with_sum(attention, masked(attention, -2), joined=True))
    assert site.sinks is not None


def test_maximum_with_something_else(attention: Attention) -> None:
    o = with_sum(attention, attention.scores(), joined=True, other=True)
    assert "maximum is taken with more" in attention.refusal(o).reason


def test_maximum_without_the_sink(attention: Attention) -> None:
    """Causal rows keep their first key, so that no row is fully masked."""
    site = attention.site(with_sum(attention, masked(attention, 0), joined=False))
    assert site.sinks is not None


def test_maximum_without_the_sink_of_masked_rows(attention: Attention) -> None:
    """A row without keys is NaN in the source; kernels make it zero."""
    o = with_sum(attention, masked(attention, -2), joined=False)
    assert "fully masked row" in attention.refusal(o).reason


@pytest.mark.parametrize(("far", "overflows"), [(-3e38, True), (-1e30, False)])
def test_maximum_without_the_sink_of_masks_that_overflow(
    attention: Attention, far: float, overflows: bool
) -> None:
    """Two finite masks whose sum is -inf where both hide a key."""
    net = attention.net
    keep = net.band((ROWS, KEYS), -2, "sge")
    zero, number = net.scalar(0.0, "f32"), net.scalar(far, "f32")
    mask = net.elementwise(
        [(keep, [0, 1])], (ROWS, KEYS), [f"%r = arith.select %b0, {zero}, {number} : f32"], "%r",
        lambda k: np.where(k, 0.0, far),
    )  # fmt: skip
    lowest = float(np.finfo(np.float32).min)
    s = net.select(net.input((ROWS, KEYS), "i1"), [1, 2], attention.scores(), lowest, True)
    o = with_sum(attention, net.binary(s, mask, [1, 2], "addf"), joined=False)
    if overflows:
        assert "fully masked row" in attention.refusal(o).reason
    else:
        assert attention.site(o).sinks is not None


def test_maximum_without_the_sink_of_biases_that_overflow(attention: Attention) -> None:
    """The same of two constants that are no bands, without any mask."""
    net = attention.net
    far = np.where(np.arange(KEYS) % 2 == np.arange(ROWS)[:, None] % 3, 0.0, -3e38)
    far[1] = -3e38
    s = attention.scores()
    for _ in range(2):
        s = net.binary(s, net.constant(far), [1, 2], "addf")
    o = with_sum(attention, s, joined=False)
    assert "fully masked row" in attention.refusal(o).reason


def test_single_query_of_grouped_heads(attention: Attention) -> None:
    """The heads of a group look like queries, but each has its sink."""
    net = attention.net
    q = net.input((HEADS, 3, 8))  # kv head, head in its group, head dim
    attention.q = q
    s = attention.scores()
    sink = net.input((HEADS, 3))
    whole = net.elementwise([(sink, [0, 1])], (HEADS, 3, 1), [], "%b0", lambda a: a)
    p = net.softmax(net.concat([s, whole], 2), 2)
    site = attention.site(attention.values(net.slice(p, 2, 0, KEYS)))
    assert (site.heads.static, site.q_len.static) == (3 * HEADS, 1)
