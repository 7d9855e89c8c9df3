"""Layers that repeat are raised once; what only resembles an earlier layer is raised by itself."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest

from fuzzing.net import Val
from iree_flashattn.raising import sites
from iree_flashattn.site import AttentionSite

from .conftest import HEADS, KEYS, ROWS, Attention

Layer = Callable[[Attention], list[Val]]


@pytest.fixture
def readings(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """One entry for each candidate that is raised by itself."""
    found: list[int] = []
    original = sites.raise_value

    def counted(*arguments):
        found.append(1)
        return original(*arguments)

    monkeypatch.setattr(sites, "raise_value", counted)
    return found


def plain(attention: Attention) -> list[Val]:
    return [attention.values(attention.softmax(attention.scores()))]


def scaled(attention: Attention, factor: float = 0.5) -> list[Val]:
    s = attention.net.with_scalar(attention.scores(), "mulf", factor)
    return [attention.values(attention.softmax(s))]


def causal(attention: Attention, offset: int = 1) -> list[Val]:
    net = attention.net
    s = net.select(net.band((ROWS, KEYS), offset, "sge"), [1, 2], attention.scores(), -1e9, True)
    return [attention.values(attention.softmax(s))]


def constant_mask(attention: Attention, last: int = KEYS) -> list[Val]:
    net = attention.net
    keep = np.broadcast_to(np.arange(KEYS) % 2 == 0, (ROWS, KEYS)) & (np.arange(KEYS) < last)
    s = net.select(net.constant(keep, "i1"), [1, 2], attention.scores(), -math.inf, True)
    return [attention.values(attention.softmax(s))]


def built_mask(attention: Attention) -> list[Val]:
    """Of two tensors, so that emission has to build it."""
    net = attention.net
    s = attention.scores()
    for shape, dims in (((ROWS, KEYS), [1, 2]), ((HEADS, KEYS), [0, 2])):
        s = net.select(net.input(shape, "i1"), dims, s, -1e9, True)
    return [attention.values(attention.softmax(s))]


def with_weights(attention: Attention) -> list[Val]:
    p = attention.softmax(attention.scores())
    return [attention.values(p), p]


def with_lse(attention: Attention) -> list[Val]:
    s = attention.scores()
    return [attention.values(attention.softmax(s)), attention.lse(s)]


def of_columns(attention: Attention) -> list[Val]:
    """No attention: the softmax runs over the rows."""
    return [attention.values(attention.softmax(attention.scores(), dim=1))]


def layers(attention: Attention, *parts: Layer) -> list[Val]:
    """Each with operands of its own."""
    results = []
    for part in parts:
        net = attention.net
        attention.q, attention.k, attention.v = (
            net.input(x.shape) for x in (attention.q, attention.k, attention.v)
        )
        results += part(attention)
    return results


@pytest.mark.parametrize("layer", [plain, scaled, causal, constant_mask, built_mask, of_columns])
def test_equal_layers_are_raised_once(
    attention: Attention, readings: list[int], layer: Layer
) -> None:
    found = attention.raised(*layers(attention, layer, layer, layer))
    assert len(found) == 3
    assert len({type(f) for f in found}) == 1
    assert len({f.location for f in found}) == 3
    assert len(readings) == 1


@pytest.mark.parametrize("layer", [with_weights, with_lse])
def test_layers_with_further_results_are_raised_each(
    attention: Attention, readings: list[int], layer: Layer
) -> None:
    """Where their dispatch may stand depends on the order of ops."""
    first, second = attention.raised(*layers(attention, layer, layer))
    assert isinstance(first, AttentionSite)
    assert isinstance(second, AttentionSite)
    assert (first.weights or first.lse) is not None
    assert (second.weights or second.lse) is not None
    assert len(readings) == 2


@pytest.mark.parametrize(
    ("layer", "other"),
    [
        (scaled, lambda a: scaled(a, 0.25)),
        (causal, lambda a: causal(a, -1)),
        (constant_mask, lambda a: constant_mask(a, 4)),
        (plain, with_weights),
        (plain, with_lse),
        (plain, of_columns),
        (plain, scaled),
    ],
    ids=["scale", "band", "constant", "weights", "LSE", "axis", "factor"],
)
def test_layers_that_differ_are_raised_each(
    attention: Attention, readings: list[int], layer: Layer, other: Layer
) -> None:
    """``raised`` checks each site against what the program computes."""
    found = attention.raised(*layers(attention, layer, other, layer, other))
    assert len(found) == 4
    assert [type(f) for f in found[:2]] == [type(f) for f in found[2:]]
    assert len(readings) >= 2


def test_operands_that_change_places(attention: Attention, readings: list[int]) -> None:
    """K of the second layer is Q of it too: the first one tells nothing about that."""
    net = attention.net
    attention.q, attention.k, attention.v = (net.input((HEADS, ROWS, 8)) for _ in "qkv")
    first = plain(attention)
    attention.k = attention.q
    second = plain(attention)
    attention.v = attention.q
    attention.k = net.input((HEADS, ROWS, 8))
    third = plain(attention)
    for site in attention.raised(*first, *second, *third):
        assert isinstance(site, AttentionSite)
    assert len(readings) == 3


def test_a_layer_fed_by_another(attention: Attention, readings: list[int]) -> None:
    """The first one reads an input, and the last one's result is returned."""
    net = attention.net
    attention.v = net.input((HEADS, KEYS, 8))
    x = attention.q
    for _ in range(4):
        attention.q = x
        (x,) = plain(attention)
    assert len(attention.raised(x)) == 4
    assert len(readings) == 3
