"""Spellings of the softmax, and what only looks like one."""

from __future__ import annotations

import numpy as np
import pytest

from fuzzing.net import Val

from .conftest import HEADS, KEYS, ROWS, Attention


def test_division_by_the_sum(attention: Attention) -> None:
    site = attention.site(attention.values(attention.softmax(attention.scores())))
    assert (site.batch, site.heads, site.q_len, site.kv_len) == (1, HEADS, ROWS, KEYS)
    assert (site.dk, site.dv, site.scale) == (8, 4, 1.0)
    assert site.empty_row == "nan"
    assert site.k.value == attention.module.body.operations[0].regions[0].blocks[0].arguments[1]


def test_product_with_the_reciprocal(attention: Attention) -> None:
    net = attention.net
    e = attention.exponentials(attention.scores())
    total = net.reduce(e, 2, "addf", True, 0.0, index=False)
    one = net.scalar(1.0)
    body = [f"%r = arith.divf {one}, %b0 : f32"]
    inverse = net.elementwise([(total, [0, 1, 2])], total.shape, body, "%r", lambda a: 1 / a)
    attention.site(attention.values(net.binary(e, inverse, [0, 1, None], "mulf")))


@pytest.mark.parametrize("biases", [0, 1, 2])
def test_logarithm_of_the_sum(attention: Attention, biases: int) -> None:
    """Also where a bias for each key and then one for each row stand before the scores."""
    net = attention.net
    s = attention.scores()
    for dims in ([1, 2], [0, 1])[:biases]:
        s = net.binary(s, net.input(tuple(s.shape[d] for d in dims)), dims, "addf", flip=True)
    top = net.reduce(s, 2, "maximumf", False, -np.inf, index=False)
    shifted = net.binary(s, top, [0, 1], "subf")
    total = net.reduce(net.unary(shifted, "math.exp", np.exp), 2, "addf", False, 0.0, False)
    log = net.unary(total, "math.log", np.log)
    p = net.unary(net.binary(shifted, log, [0, 1], "subf"), "math.exp", np.exp)
    site = attention.site(attention.values(p))
    assert site.spelling == "exp(x - log sum)"
    assert (site.bias is not None) == (biases > 0)


def test_logarithm_of_the_absolute_sum(attention: Attention) -> None:
    """JAX's logsumexp: log(|sum|) plus the maximum, 0 where that is not finite"""
    net = attention.net
    s = attention.scores()
    top = net.reduce(s, 2, "maximumf", False, -np.inf, index=False)
    infinite, zero = net.scalar(np.inf), net.scalar(0.0)
    body = [
        "%a = math.absf %b0 : f32", f"%c = arith.cmpf one, %a, {infinite} : f32",
        f"%r = arith.select %c, %b0, {zero} : f32",
    ]  # fmt: skip
    top = net.elementwise([(top, [0, 1])], top.shape, body, "%r", lambda a: a)
    e = net.unary(net.binary(s, top, [0, 1], "subf"), "math.exp", np.exp)
    total = net.reduce(e, 2, "addf", False, 0.0, index=False)
    log = net.unary(net.unary(total, "math.absf", np.abs), "math.log", np.log)
    lse = net.binary(log, top, [0, 1], "addf")
    p = net.unary(net.binary(s, lse, [0, 1], "subf"), "math.exp", np.exp)
    assert attention.site(attention.values(p)).sinks is None


def test_division_after_the_product(attention: Attention) -> None:
    net = attention.net
    e = attention.exponentials(attention.scores())
    total = net.reduce(e, 2, "addf", False, 0.0, index=False)
    attention.site(net.binary(attention.values(e), total, [0, 1], "divf"))


def test_named_op(attention: Attention) -> None:
    p = attention.net.softmax(attention.scores(), 2)
    assert attention.site(attention.values(p)).spelling == "linalg.softmax"


def test_constant_factor_goes_to_the_values(attention: Attention) -> None:
    p = attention.net.with_scalar(attention.softmax(attention.scores()), "divf", 3.0)
    attention.site(attention.values(p))


def test_other_axis_is_no_attention(attention: Attention) -> None:
    assert attention.refusal(attention.values(attention.softmax(attention.scores(), 1)))


def test_named_op_over_the_queries(attention: Attention) -> None:
    p = attention.net.softmax(attention.scores(), 1)
    assert "another axis" in attention.refusal(attention.values(p)).reason


def test_sum_over_another_axis(attention: Attention) -> None:
    net = attention.net
    e = attention.exponentials(attention.scores())
    total = net.reduce(e, 1, "addf", False, 0.0, index=False)
    refusal = attention.refusal(attention.values(net.binary(e, total, [0, 2], "divf")))
    assert refusal.rule == "softmax"


def test_sum_of_other_scores(attention: Attention) -> None:
    net = attention.net
    s = attention.scores()
    e = attention.exponentials(s)
    other = attention.exponentials(net.with_scalar(s, "mulf", 2.0))
    total = net.reduce(other, 2, "addf", False, 0.0, index=False)
    refusal = attention.refusal(attention.values(net.binary(e, total, [0, 1], "divf")))
    assert "different scores" in refusal.reason


def test_something_added_to_the_sum(attention: Attention) -> None:
    net = attention.net
    e = attention.exponentials(attention.scores())
    total = net.reduce(e, 2, "addf", False, 0.0, index=False)
    half = net.scalar(0.5)
    body = [f"%r = arith.addf %b0, {half} : f32"]
    total = net.elementwise([(total, [0, 1])], total.shape, body, "%r", lambda a: a + 0.5)
    refusal = attention.refusal(attention.values(net.binary(e, total, [0, 1], "divf")))
    assert "added to the sum" in refusal.reason


@pytest.mark.parametrize("op", ["mulf", "addf"])
def test_probabilities_that_are_changed_are_reported(attention: Attention, op: str) -> None:
    """Dropout, a mask, a bias after the softmax: a person asks why nothing was served."""
    net = attention.net
    p = net.binary(attention.softmax(attention.scores()), net.input((ROWS, KEYS)), [1, 2], op)
    refusal = attention.refusal(attention.values(p))
    assert f"go through {op} before" in refusal.reason


def test_square_of_the_probability_of_one_key(attention: Attention) -> None:
    """P * (P V): V times P is a tensor like V, but not one that is there before P is."""
    net = attention.net
    attention.q, attention.k = net.input((HEADS, 1, 8)), net.input((HEADS, 1, 8))
    attention.v = net.input((HEADS, 1, 4))
    p = net.softmax(attention.scores(), 2)
    out = attention.values(net.binary(p, p, [0, 1, 2], "mulf"))
    assert attention.refusal(out, p).reason == "an operand is made of the probabilities"


@pytest.mark.parametrize("spoil", ["square", "sigmoid", "no division", "selected"])
def test_activations_are_no_candidates(attention: Attention, spoil: str) -> None:
    net = attention.net
    s = attention.scores()
    if spoil == "no division":
        p = attention.exponentials(s)
    elif spoil == "selected":  # ELU and its kin
        zero = net.scalar(0.0)
        body = ["%e = math.exp %b0 : f32", f"%c = arith.cmpf ogt, %b0, {zero} : f32",
                "%r = arith.select %c, %b0, %e : f32"]  # fmt: skip
        p = net.elementwise(
            [(s, [0, 1, 2])], s.shape, body, "%r", lambda a: np.where(a > 0, a, np.exp(a))
        )
        assert not attention.raised(attention.values(p))
    elif spoil == "square":
        p = attention.softmax(s)
        p = net.binary(p, p, [0, 1, 2], "mulf")
    else:
        one = net.scalar(1.0)
        body = [
            "%n = arith.negf %b0 : f32", "%e = math.exp %n : f32",
            f"%t = arith.addf %e, {one} : f32", f"%r = arith.divf {one}, %t : f32",
        ]  # fmt: skip
        p = net.elementwise([(s, [0, 1, 2])], s.shape, body, "%r", lambda a: 1 / (1 + np.exp(-a)))
    assert not [r for r in attention.raised(attention.values(p)) if hasattr(r, "scale")]


def test_row_maximum_of_another_row_stays(attention: Attention) -> None:
    net = attention.net
    q = net.input((HEADS, KEYS, 8))
    s = attention.scores(q=q)  # square
    top = net.reduce(s, 2, "maximumf", False, -np.inf, index=False)
    e = net.unary(net.binary(s, top, [0, 2], "subf"), "math.exp", np.exp)
    total = net.reduce(e, 2, "addf", False, 0.0, index=False)
    p = net.binary(e, total, [0, 1], "divf")
    assert attention.refusal(attention.values(p)).rule == "scores"


@pytest.mark.parametrize("inserted", [False, True])
def test_sink_is_one_more_column(attention: Attention, inserted: bool) -> None:
    net = attention.net
    sink = net.input((HEADS,))
    s = attention.scores()
    column = net.elementwise([(sink, [0])], (HEADS, ROWS, 1), [], "%b0", lambda a: a)
    p = attention.softmax((net.insert if inserted else net.concat)([s, column], 2))
    site = attention.site(attention.values(net.slice(p, 2, 0, KEYS)))
    assert site.sinks is not None
    assert site.kv_len == KEYS


def test_sink_in_front_is_declined(attention: Attention) -> None:
    net = attention.net
    sink = net.input((HEADS, ROWS, 1))
    p = attention.softmax(net.concat([sink, attention.scores()], 2))
    attention.refusal(attention.values(net.slice(p, 2, 1, KEYS)))


def exp2_softmax(attention: Attention, s: Val) -> Val:
    net = attention.net
    top = net.reduce(s, 2, "maximumf", False, -np.inf, index=False)
    e = net.unary(net.binary(s, top, [0, 1], "subf"), "math.exp2", np.exp2)
    return net.binary(e, net.reduce(e, 2, "addf", False, 0.0, index=False), [0, 1], "divf")


def test_guard_around_powers_of_two(attention: Attention) -> None:
    net = attention.net
    s = net.with_scalar(attention.scores(), "mulf", 1.4426950408889634)
    s = net.select(net.input((ROWS, KEYS), "i1"), [1, 2], s, -np.inf, True)
    finite = net.compare(s, "une", -np.inf, lambda a: a != -np.inf)
    alive = net.reduce(finite, 2, "ori", False, False, index=False)
    p = net.select(alive, [0, 1], exp2_softmax(attention, s), 0.0, True)
    assert attention.site(attention.values(p)).empty_row == "zero"


def test_maximum_over_the_rows_of_powers_of_two(attention: Attention) -> None:
    """What is subtracted is no row maximum: masked columns do not vanish."""
    net = attention.net
    s = net.with_scalar(attention.scores(), "mulf", 1.4426950408889634)
    s = net.select(net.input((KEYS,), "i1"), [2], s, -1e4, True)
    top = net.reduce(s, 1, "maximumf", False, -np.inf, index=False)
    e = net.unary(net.binary(s, top, [0, 2], "subf"), "math.exp2", np.exp2)
    p = net.binary(e, net.reduce(e, 2, "addf", False, 0.0, index=False), [0, 1], "divf")
    assert "extremum" in attention.refusal(attention.values(p)).reason


def test_maximum_over_the_rows_of_a_single_key(attention: Attention) -> None:
    """The one key of a masked row has a weight of 0/0, which the row's own maximum would make 1."""
    net = attention.net
    attention.k, attention.v = net.input((HEADS, 1, 8)), net.input((HEADS, 1, 4))
    s = net.select(net.input((ROWS,), "i1"), [1], attention.scores(), -1e9, True)
    top = net.reduce(s, 1, "maximumf", False, -np.inf, index=False)
    e = net.unary(net.binary(s, top, [0, 2], "subf"), "math.exp", np.exp)
    p = net.binary(e, net.reduce(e, 2, "addf", False, 0.0, index=False), [0, 1], "divf")
    assert "extremum" in attention.refusal(attention.values(p)).reason


def test_guard_that_does_not_look_for_the_fill(attention: Attention) -> None:
    """Without a maximum a row of -1e9 is NaN in the source, and its guard looks for -inf."""
    net = attention.net
    s = net.select(net.input((ROWS, KEYS), "i1"), [1, 2], attention.scores(), -1e9, True)
    e = net.unary(s, "math.exp", np.exp)
    p = net.binary(e, net.reduce(e, 2, "addf", False, 0.0, index=False), [0, 1], "divf")
    finite = net.compare(s, "une", -np.inf, lambda a: a != -np.inf)
    alive = net.reduce(finite, 2, "ori", False, False, index=False)
    guarded = net.select(alive, [0, 1], p, 0.0, True)
    assert "no row maximum" in attention.refusal(attention.values(guarded)).reason


@pytest.mark.parametrize("dtype", ["f32", "bf16"])
@pytest.mark.parametrize(("fill", "served"), [(-1e4, False), (-20.0, True)])
def test_constant_mask_that_is_added_without_a_maximum(
    attention: Attention, fill: float, served: bool, dtype: str
) -> None:
    """A row of -1e4 has no weight in the source: 0 / 0. The exponential of -20 is a number."""
    net = attention.net
    above = np.triu(np.full((ROWS, KEYS), fill, np.float32))
    mask = net.cast(net.constant(above, dtype), "f32")
    s = net.binary(attention.scores(), mask, [1, 2], "addf")
    e = net.unary(s, "math.exp", np.exp)
    p = net.binary(e, net.reduce(e, 2, "addf", False, 0.0, index=False), [0, 1], "divf")
    out = attention.values(p)
    if served:
        assert attention.site(out).bias is not None
    else:
        assert "no row maximum" in attention.refusal(out).reason
