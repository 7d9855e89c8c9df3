"""Whole modules: run-time sizes, many softmaxes, what is left alone."""

from __future__ import annotations

import gc
from collections.abc import Callable

import numpy as np
import pytest
from iree.compiler import ir

from fuzzing.net import Net
from iree_flashattn.choosing import Options
from iree_flashattn.raising import raise_sites, sites
from iree_flashattn.raising.expr import Load, Node
from iree_flashattn.raising.reader import Reader
from iree_flashattn.rewrite import rewrite_module
from iree_flashattn.site import AttentionSite

from .conftest import DK, HEADS, KEYS, Attention
from .test_attention_op import module

DYNAMIC = """
func.func @main(%q: tensor<2x?x8xf32>, %k: tensor<2x?x8xf32>, %v: tensor<2x?x8xf32>,
                %n: index, %m: index) -> tensor<2x?x8xf32> {{
  %c = arith.constant 0.25 : f32
  %e = tensor.empty(%n) : tensor<2x?x8xf32>
  %o = iree_linalg_ext.attention <indexing_maps = [
      affine_map<(b, m, n, d, k) -> (b, m, d)>, affine_map<(b, m, n, d, k) -> (b, k, d)>,
      affine_map<(b, m, n, d, k) -> (b, k, n)>, affine_map<(b, m, n, d, k) -> ()>,
      affine_map<(b, m, n, d, k) -> (b, m, n)>]>
      ins(%q, %k, {v}, %c : tensor<2x?x8xf32>, tensor<2x?x8xf32>, tensor<2x?x8xf32>, f32)
      outs(%e : tensor<2x?x8xf32>) {{
  ^bb0(%s: f32):
    iree_linalg_ext.yield %s : f32
  }} -> tensor<2x?x8xf32>
  return %o : tensor<2x?x8xf32>
}}
"""


def test_run_time_sizes(raise_text: Callable) -> None:
    (site,) = raise_text(DYNAMIC.format(v="%v"))
    assert isinstance(site, AttentionSite)
    assert site.dynamic
    assert site.q_len.static is None
    assert site.q_len != site.kv_len, "two sizes are one only where that is proven"
    assert (site.dk, site.dv) == (8, 8)


def test_sizes_that_must_agree_are_named(raise_text: Callable) -> None:
    (different,) = raise_text(DYNAMIC.format(v="%v"))
    (same,) = raise_text(DYNAMIC.format(v="%k"))
    # the keys of K and of V; the rows of Q and of the result
    assert len(different.equal) > len(same.equal)


def test_module_without_attention(raise_text: Callable) -> None:
    kind = "tensor<4xf32>"
    assert raise_text(f"func.func @f(%a: {kind}) -> {kind} {{ return %a : {kind} }}") == []


def test_softmax_that_multiplies_nothing(attention: Attention) -> None:
    assert attention.raised(attention.softmax(attention.scores())) == []


def test_functions_of_one_module_are_each_raised(raise_text: Callable) -> None:
    text = "\n".join(module().replace("@main", f"@f{i}") for i in range(3))
    assert len(raise_text(text)) == 3


def test_the_module_is_left_as_it_is() -> None:
    with ir.Context() as context:
        context.allow_unregistered_dialects = True
        parsed = ir.Module.parse(module("i1"))
        before = str(parsed)
        raise_sites(parsed)
        assert str(parsed) == before


def test_dispatches_are_no_candidates(raise_text: Callable) -> None:
    """A module that was rewritten before holds dispatches; there is nothing left to raise."""
    text = """
      func.func @f(%a: tensor<2x5x8xf32>) -> tensor<2x5x8xf32> {
        %0 = flow.dispatch @exe::@variant::@fa(%a) : (tensor<2x5x8xf32>) -> tensor<2x5x8xf32>
        return %0 : tensor<2x5x8xf32>
      }
    """
    assert raise_text(text) == []


def test_work_is_linear_in_the_module(monkeypatch: pytest.MonkeyPatch) -> None:
    """Eight times the sites take eight times the steps: no site looks at the whole module."""
    steps = 0
    original = Reader._up

    def counted(self: Reader, load: Load) -> Node | None:
        nonlocal steps
        steps += 1
        return original(self, load)

    monkeypatch.setattr(Reader, "_up", counted)

    def work(sites: int) -> int:
        nonlocal steps
        steps = 0
        functions = []
        for i in range(sites):
            attention = Attention()
            attention.net.name = f"f{i}"
            o = attention.values(attention.softmax(attention.scores()))
            functions.append(attention.net.function([o]))
        with ir.Context() as context:
            context.allow_unregistered_dialects = True
            parsed = ir.Module.parse("module {\n" + "".join(functions) + "}\n")
            assert len(raise_sites(parsed)) == sites
        return steps

    assert work(32) == 8 * work(4) > 0


def test_chain_of_softmaxes_ends(attention: Attention) -> None:
    net = Net("main", np.random.default_rng(1))
    x = net.input((4, 4))
    for _ in range(200):
        x = net.softmax(x, 1)
    attention.net = net
    assert attention.raised(x) == []


def test_nothing_outlives_the_module() -> None:
    """A process may compile many modules: caches must not keep their contexts alive."""

    def raise_one() -> int:
        with ir.Context() as context:
            context.allow_unregistered_dialects = True
            return len(raise_sites(ir.Module.parse(DYNAMIC.format(v="%v"))))

    gc.collect()
    before = ir.Context._get_live_count()
    assert raise_one() == 1
    gc.collect()
    assert ir.Context._get_live_count() == before


def test_a_fault_of_the_package_leaves_the_site_to_stock_code(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def failing(value: ir.Value, shared: object) -> None:
        raise KeyError("heads")

    monkeypatch.setattr(sites, "raise_value", failing)
    with ir.Context() as context:
        context.allow_unregistered_dialects = True
        parsed = ir.Module.parse(DYNAMIC.format(v="%v"))
        before = str(parsed)
        with pytest.raises(KeyError):
            raise_sites(parsed)
        (site,) = rewrite_module(parsed, Options()).sites
        assert str(parsed) == before
    assert (site.matched, site.rule) == (False, "bug")
    assert "KeyError('heads')" in site.reason
    assert any("in failing" in line for line in site.trail)


def test_chained_sites_take_linear_work(monkeypatch: pytest.MonkeyPatch) -> None:
    """Attention fed by attention, in one function: eight times the sites, eight times the steps."""
    steps = 0
    original = Reader._up

    def counted(self: Reader, load: Load) -> Node | None:
        nonlocal steps
        steps += 1
        return original(self, load)

    monkeypatch.setattr(Reader, "_up", counted)

    def work(sites: int) -> int:
        nonlocal steps
        chain = Attention()
        x = chain.q
        chain.v = chain.net.input((HEADS, KEYS, DK))
        for _ in range(sites):
            x = chain.values(chain.softmax(chain.scores(q=x)))
        text = "module {\n" + chain.net.function([x]) + "}\n"
        with ir.Context() as context:
            context.allow_unregistered_dialects = True
            parsed = ir.Module.parse(text)
            steps = 0
            assert len(raise_sites(parsed)) == sites
        return steps

    small, large = work(8), work(64)
    assert 0 < large <= 8.5 * small
