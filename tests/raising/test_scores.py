"""What may happen to Q·K before the softmax: scale, cap, bias, in any place."""

from __future__ import annotations

import numpy as np
import pytest

from .conftest import HEADS, KEYS, ROWS, Attention


def finish(attention: Attention, s):
    return attention.values(attention.softmax(s))


@pytest.mark.parametrize("op", ["mulf", "divf"])
def test_scale_on_scores(attention: Attention, op: str) -> None:
    site = attention.site(finish(attention, attention.net.with_scalar(attention.scores(), op, 4.0)))
    assert site.scale == (4.0 if op == "mulf" else 0.25)


def test_scale_on_both_operands(attention: Attention) -> None:
    net = attention.net
    q, k = net.with_scalar(attention.q, "mulf", 0.5), net.with_scalar(attention.k, "divf", 4.0)
    site = attention.site(finish(attention, attention.scores(q, k)))
    assert site.scale == 0.125
    arguments = attention.module.body.operations[0].regions[0].blocks[0].arguments
    assert (site.q.value, site.k.value) == (arguments[0], arguments[1])


def test_scale_for_each_row_is_built_into_q(attention: Attention) -> None:
    factor = attention.net.input((ROWS,))
    s = attention.net.binary(attention.scores(), factor, [1], "mulf")
    site = attention.site(finish(attention, s))
    assert site.scale == 1.0
    assert type(site.q.value).__name__ == "Term"


def test_scale_for_each_key_is_built_into_k(attention: Attention) -> None:
    factor = attention.net.input((KEYS,))
    s = attention.net.binary(attention.scores(), factor, [2], "mulf")
    assert type(attention.site(finish(attention, s)).k.value).__name__ == "Term"


def test_softcap(attention: Attention) -> None:
    net = attention.net
    s = net.with_scalar(attention.scores(), "mulf", 0.25)
    s = net.with_scalar(s, "divf", 5.0)
    s = net.with_scalar(net.unary(s, "math.tanh", np.tanh), "mulf", 5.0)
    site = attention.site(finish(attention, s))
    assert site.softcap == 5.0
    assert site.scale == pytest.approx(0.25)


def test_bias_is_read_where_it_is(attention: Attention) -> None:
    bias = attention.net.input((HEADS, 1, KEYS))
    s = attention.net.binary(attention.scores(), bias, [0, None, 2], "addf", flip=True)
    site = attention.site(finish(attention, s))
    assert site.bias is not None
    assert site.bias.strides == (0, KEYS, 0, 1)


def test_bias_of_a_row_has_no_key_stride(attention: Attention) -> None:
    bias = attention.net.input((ROWS,))
    s = attention.net.binary(attention.scores(), bias, [1], "addf")
    site = attention.site(finish(attention, s))
    assert site.bias is not None
    assert site.bias.strides == (0, 0, 1, 0)


def test_scale_after_the_bias_scales_it(attention: Attention) -> None:
    net = attention.net
    bias = net.input((ROWS, KEYS))
    s = net.with_scalar(net.binary(attention.scores(), bias, [1, 2], "addf"), "mulf", 3.0)
    site = attention.site(finish(attention, s))
    assert site.scale == 3.0
    assert type(site.bias.value).__name__ == "Term"


def test_two_biases_are_one_tensor_without_broadcast_axes(attention: Attention) -> None:
    net = attention.net
    s = net.binary(attention.scores(), net.input((KEYS,)), [2], "addf")
    s = net.binary(s, net.input((ROWS,)), [1], "addf")
    site = attention.site(finish(attention, s))
    assert site.bias.value.shape == (ROWS, KEYS)  # type: ignore[union-attr]


@pytest.mark.parametrize("scaled", [False, True])
def test_second_product_is_a_bias(attention: Attention, scaled: bool) -> None:
    """q k + r p: relative positions, and latent attention with its rotated part"""
    net = attention.net
    other = attention.scores(net.input((HEADS, ROWS, 3)), net.input((HEADS, KEYS, 3)))
    s = net.binary(other, attention.scores(), [0, 1, 2], "addf")
    if scaled:
        s = net.with_scalar(s, "mulf", 0.25)
    site = attention.site(finish(attention, s))
    assert site.dk == 8, "the longer product is Q K"
    assert site.bias is not None


def test_product_with_keys_of_every_row_is_the_bias(attention: Attention) -> None:
    """Shaw's relative positions: the table has a key for each pair of query and key."""
    net = attention.net
    sizes = {0: HEADS, 1: ROWS, 2: KEYS, 3: 8}
    table = net.input((ROWS, KEYS, 8))
    other = net.contract(attention.q, [0, 1, 3], table, [1, 2, 3], [0, 1, 2], sizes)
    s = net.binary(other, attention.scores(), [0, 1, 2], "addf")
    site = attention.site(finish(attention, s))
    assert (site.q_len, site.bias is not None) == (ROWS, True)


def test_product_of_two_scores(attention: Attention) -> None:
    net = attention.net
    s = attention.scores()
    other = attention.scores(q=net.input(attention.q.shape))
    refusal = attention.refusal(finish(attention, net.binary(s, other, [0, 1, 2], "mulf")))
    assert refusal.rule == "scores"
    assert refusal.trail[-1] == "scores: refused"


def test_function_that_no_kernel_has(attention: Attention) -> None:
    s = attention.net.unary(attention.scores(), "math.sin", np.sin)
    refusal = attention.refusal(finish(attention, s))
    assert (refusal.rule, refusal.subject) == ("scores", "sin")


def test_clamped_scores(attention: Attention) -> None:
    net = attention.net
    two = net.scalar(2.0)
    body = [f"%c = arith.cmpf ogt, %b0, {two} : f32", f"%r = arith.select %c, {two}, %b0 : f32"]
    s = attention.scores()
    s = net.elementwise([(s, [0, 1, 2])], s.shape, body, "%r", lambda a: np.minimum(a, 2.0))
    assert "clamp" in attention.refusal(finish(attention, s)).reason


def test_tanh_of_biased_scores(attention: Attention) -> None:
    net = attention.net
    s = net.binary(attention.scores(), net.input((ROWS, KEYS)), [1, 2], "addf")
    assert attention.refusal(finish(attention, net.unary(s, "math.tanh", np.tanh))).rule == "scores"


def test_scores_that_are_no_product(attention: Attention) -> None:
    s = attention.net.input((HEADS, ROWS, KEYS))
    assert attention.refusal(finish(attention, s)).rule == "scores"
