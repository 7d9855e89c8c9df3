"""The log-sum-exp of the scores as a result, and what only looks like it."""

from __future__ import annotations

import numpy as np
import pytest

from fuzzing.net import Net, Val
from iree_flashattn.site import AttentionSite

from .conftest import HEADS, KEYS, ROWS, Attention


def served(attention: Attention, lse: Val, s: Val, *more: Val) -> AttentionSite:
    """The site of softmax(s) V with ``lse`` as another result, which it must bring."""
    site = attention.site(attention.values(attention.softmax(s)), lse, *more)
    assert site.lse is not None
    assert site.lse.strides == (0, ROWS, 1, 0)
    return site


def left(attention: Attention, lse: Val, s: Val) -> None:
    """The site is served and the result stays with stock code."""
    assert attention.site(attention.values(attention.softmax(s)), lse).lse is None


@pytest.mark.parametrize("guarded", [False, True])
def test_maximum_and_logarithm(attention: Attention, guarded: bool) -> None:
    s = attention.scores()
    site = served(attention, attention.lse(s, guarded), s)
    assert site.lse_empty == ("inf" if guarded else "nan")


def test_without_a_maximum(attention: Attention) -> None:
    net = attention.net
    s = attention.scores()
    total = net.reduce(net.unary(s, "math.exp", np.exp), 2, "addf", False, 0.0, index=False)
    assert served(attention, net.unary(total, "math.log", np.log), s).lse_empty == "inf"


def test_absolute_sum(attention: Attention) -> None:
    """jax.scipy.special.logsumexp takes the absolute value of the sum."""
    net = attention.net
    s = attention.scores()
    total = net.reduce(net.unary(s, "math.exp", np.exp), 2, "addf", False, 0.0, index=False)
    total = net.unary(total, "math.absf", np.abs)
    served(attention, net.unary(total, "math.log", np.log), s)


def test_binary_logarithm(attention: Attention) -> None:
    net = attention.net
    s = attention.scores()
    total = net.reduce(net.unary(s, "math.exp", np.exp), 2, "addf", False, 0.0, index=False)
    lse = net.with_scalar(net.unary(total, "math.log2", np.log2), "mulf", np.log(2.0))
    served(attention, lse, s)


def test_probabilities_made_with_it(attention: Attention) -> None:
    """P = exp(s - LSE): the softmax reads what the kernel brings, and goes."""
    net = attention.net
    s = attention.scores()
    lse = attention.lse(s)
    p = net.unary(net.binary(s, lse, [0, 1], "subf"), "math.exp", np.exp)
    site = attention.site(attention.values(p), lse)
    assert site.lse is not None


def test_probabilities_as_a_result_too(attention: Attention) -> None:
    s = attention.scores()
    p = attention.softmax(s)
    site = attention.site(attention.values(p), attention.lse(s), p)
    assert site.lse is not None
    assert site.weights is not None


@pytest.mark.parametrize("guarded", [False, True])
def test_masked_rows(attention: Attention, guarded: bool) -> None:
    """The first rows see no key: their LSE is what the source computes, NaN or -inf."""
    band = attention.net.band((ROWS, KEYS), -2, "sge")
    s = attention.net.select(band, [1, 2], attention.scores(), -np.inf, keeps=True)
    site = served(attention, attention.lse(s, guarded), s)
    assert site.band.hi is not None
    assert site.lse_empty == ("inf" if guarded else "nan")


def test_finite_fill(attention: Attention) -> None:
    band = attention.net.band((ROWS, KEYS), -2, "sge")
    s = attention.net.select(band, [1, 2], attention.scores(), -1e9, keeps=True)
    assert served(attention, attention.lse(s), s).fill == -1e9


def test_finite_fill_without_a_maximum(attention: Attention) -> None:
    """log(sum(exp(-1e9))) is -inf, and the LSE is about -1e9."""
    net = attention.net
    band = net.band((ROWS, KEYS), -2, "sge")
    s = net.select(band, [1, 2], attention.scores(), -1e9, keeps=True)
    total = net.reduce(net.unary(s, "math.exp", np.exp), 2, "addf", False, 0.0, index=False)
    left(attention, net.unary(total, "math.log", np.log), s)


def test_read_before_the_values_are_there(attention: Attention) -> None:
    """V is made of the LSE: no dispatch can bring one before it reads the other."""
    net = attention.net
    s = attention.scores()
    lse = attention.lse(s)
    attention.v = net.elementwise(
        [(attention.k, [0, 1, 2]), (lse, [0, None])], attention.k.shape,
        ["%r = arith.addf %b0, %b1 : f32"], "%r", np.add,
    )  # fmt: skip
    left(attention, lse, s)


def test_read_between_scores_and_values(attention: Attention) -> None:
    """A reader that comes before the product with V: the dispatch moves up."""
    net = attention.net
    s = attention.scores()
    lse = attention.lse(s)
    more = net.unary(lse, "math.absf", np.abs)
    site = served(attention, lse, s, more)
    assert site.anchor.name == "linalg.generic"
    first = str(site.anchor)
    assert "math.absf" in first


def test_grouped_heads(attention: Attention) -> None:
    net = attention.net = Net("main", np.random.default_rng(3))
    attention.q = net.input((HEADS, ROWS, 8))
    repeated = []
    for d in (8, 4):
        t = net.input((2, KEYS, d))
        t = net.elementwise([(t, [0, 2, 3])], (2, 3, KEYS, d), [], "%b0", lambda a: a)
        repeated.append(net.reshape(t, [[0, 1], [2], [3]], (HEADS, KEYS, d)))
    attention.k, attention.v = repeated
    s = attention.scores()
    assert served(attention, attention.lse(s), s).kv_heads == 2


# ---- what only looks like it --------------------------------------------------------------------


def test_of_scaled_scores(attention: Attention) -> None:
    s = attention.scores()
    left(attention, attention.lse(attention.net.with_scalar(s, "mulf", 2.0)), s)


def test_of_other_scores(attention: Attention) -> None:
    left(attention, attention.lse(attention.scores(q=attention.net.input((HEADS, ROWS, 8)))),
         attention.scores())  # fmt: skip


def test_of_other_masks(attention: Attention) -> None:
    s = attention.scores()
    band = attention.net.band((ROWS, KEYS), 1, "sge")
    masked = attention.net.select(band, [1, 2], s, -np.inf, keeps=True)
    left(attention, attention.lse(s), masked)


def test_of_other_fills(attention: Attention) -> None:
    s = attention.scores()
    band = attention.net.band((ROWS, KEYS), 1, "sge")
    high = attention.net.select(band, [1, 2], s, -3.0, keeps=True)
    low = attention.net.select(band, [1, 2], s, -np.inf, keeps=True)
    left(attention, attention.lse(high), low)


def test_over_the_rows(attention: Attention) -> None:
    """Queries and keys of one length: the sum over the other axis has the same shape."""
    net = attention.net
    attention.q = net.input((HEADS, KEYS, 8))
    s = attention.scores()
    left(attention, attention.lse(net.transpose(s, [0, 2, 1])), s)


def test_of_some_keys(attention: Attention) -> None:
    s = attention.scores()
    left(attention, attention.lse(attention.net.slice(s, 2, 0, KEYS - 1)), s)


def test_of_some_rows(attention: Attention) -> None:
    s = attention.scores()
    left(attention, attention.lse(attention.net.slice(s, 1, 1, ROWS - 1)), s)


def test_logarithm_alone(attention: Attention) -> None:
    net = attention.net
    s = attention.scores()
    e = attention.exponentials(s)
    total = net.reduce(e, 2, "addf", False, 0.0, index=False)
    left(attention, net.unary(total, "math.log", np.log), s)


def test_maximum_and_sum_apart(attention: Attention) -> None:
    net = attention.net
    s = attention.scores()
    top = net.reduce(s, 2, "maximumf", False, -np.inf, index=False)
    total = net.reduce(attention.exponentials(s), 2, "addf", False, 0.0, index=False)
    site = attention.site(attention.values(attention.softmax(s)), top, total)
    assert site.lse is None


def test_maximum_taken_twice(attention: Attention) -> None:
    net = attention.net
    s = attention.scores()
    top = net.reduce(s, 2, "maximumf", False, -np.inf, index=False)
    total = net.reduce(attention.exponentials(s), 2, "addf", False, 0.0, index=False)
    both = net.binary(top, top, [0, 1], "addf")
    left(attention, net.binary(net.unary(total, "math.log", np.log), both, [0, 1], "addf"), s)


def test_sum_that_starts_at_one(attention: Attention) -> None:
    net = attention.net
    s = attention.scores()
    total = net.reduce(net.unary(s, "math.exp", np.exp), 2, "addf", False, 1.0, index=False)
    left(attention, net.unary(total, "math.log", np.log), s)


def test_rows_in_another_order(attention: Attention) -> None:
    """[row, head] in place of [head, row]: the tensor before the transposition is the result."""
    net = attention.net
    s = attention.scores()
    lse = attention.lse(s)
    served(attention, net.transpose(lse, [1, 0]), s)


def test_laid_out_row_by_row(attention: Attention) -> None:
    """Scores as [row, head, key]: no kernel writes the LSE in that order."""
    net = attention.net
    s = net.transpose(attention.scores(), [1, 0, 2])
    lse = attention.lse(s)
    p = net.transpose(attention.softmax(s), [1, 0, 2])
    assert attention.site(attention.values(p), lse).lse is None
