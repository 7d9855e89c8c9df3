"""Sizes that are known at run time, as polynomials."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from iree_flashattn.extent import Extent
from iree_flashattn.site import AttentionSite

N, M = Extent.symbol("n"), Extent.symbol("m")


def test_exact_quotients_of_polynomials() -> None:
    length = N + 128
    assert (length * length * 4).divided_by(length) == length * 4
    assert (length * M + N * M).divided_by(M) == length + N
    assert ((N - M) * (N + M)).divided_by(N + M) == N - M
    assert (N * 6).divided_by(4) is None
    assert (length * length + 1).divided_by(length) is None
    assert N.divided_by(Extent()) is None


# The keys are those of a cache and as many new ones; torch-mlir reshapes with computed sizes.
GROWN = """
#a = affine_map<(b, m, k) -> (b, m, k)>
#r = affine_map<(b, m, k) -> (b, m)>
func.func @main(%q: tensor<2x?x8xf32>, %old: tensor<2x128x8xf32>, %new: tensor<2x?x8xf32>,
                %n: index, %other: index) -> tensor<1x2x?x8xf32> {{
  %zero = arith.constant 0.0 : f32
  %low = arith.constant 0xFF800000 : f32
  %one = arith.constant 1 : index
  %two = arith.constant 2 : index
  %c128 = arith.constant 128 : index
  %len = arith.addi %n, %c128 : index
  %equal = arith.cmpi eq, {asserted} : index
  cf.assert %equal, "mismatching contracting dimension"
  %kn = tensor.extract_slice %new[0, 0, 0] [2, %n, 8] [1, 1, 1] : tensor<2x?x8xf32> to tensor<2x?x8xf32>
  %k = tensor.concat dim(1) %old, %kn : (tensor<2x128x8xf32>, tensor<2x?x8xf32>) -> tensor<2x?x8xf32>
  %qs = tensor.extract_slice %q[0, 0, 0] [2, %len, 8] [1, 1, 1] : tensor<2x?x8xf32> to tensor<2x?x8xf32>
  %et = tensor.empty(%len) : tensor<2x8x?xf32>
  %kt = linalg.transpose ins(%k : tensor<2x?x8xf32>) outs(%et : tensor<2x8x?xf32>) permutation = [0, 2, 1]
  %es = tensor.empty(%len, %len) : tensor<2x?x?xf32>
  %fs = linalg.fill ins(%zero : f32) outs(%es : tensor<2x?x?xf32>) -> tensor<2x?x?xf32>
  %s = linalg.batch_matmul ins(%qs, %kt : tensor<2x?x8xf32>, tensor<2x8x?xf32>) outs(%fs : tensor<2x?x?xf32>) -> tensor<2x?x?xf32>
  %er = tensor.empty(%len) : tensor<2x?xf32>
  %exp = linalg.generic {{indexing_maps = [#a, #a], iterator_types = ["parallel", "parallel", "parallel"]}}
      ins(%s : tensor<2x?x?xf32>) outs(%es : tensor<2x?x?xf32>) {{
  ^bb0(%x: f32, %y: f32):
    %z = math.exp %x : f32
    linalg.yield %z : f32
  }} -> tensor<2x?x?xf32>
  %fr = linalg.fill ins(%zero : f32) outs(%er : tensor<2x?xf32>) -> tensor<2x?xf32>
  %sum = linalg.generic {{indexing_maps = [#a, #r], iterator_types = ["parallel", "parallel", "reduction"]}}
      ins(%exp : tensor<2x?x?xf32>) outs(%fr : tensor<2x?xf32>) {{
  ^bb0(%x: f32, %y: f32):
    %z = arith.addf %x, %y : f32
    linalg.yield %z : f32
  }} -> tensor<2x?xf32>
  %div = linalg.generic {{indexing_maps = [#a, #r, #a], iterator_types = ["parallel", "parallel", "parallel"]}}
      ins(%exp, %sum : tensor<2x?x?xf32>, tensor<2x?xf32>) outs(%es : tensor<2x?x?xf32>) {{
  ^bb0(%x: f32, %t: f32, %y: f32):
    %z = arith.divf %x, %t : f32
    linalg.yield %z : f32
  }} -> tensor<2x?x?xf32>
  %shape = tensor.from_elements %one, %two, {size}, {size} : tensor<4xindex>
  %p4 = tensor.reshape %div(%shape) : (tensor<2x?x?xf32>, tensor<4xindex>) -> tensor<1x2x?x?xf32>
  %flat = tensor.from_elements %two, {size}, {size} : tensor<3xindex>
  %p = tensor.reshape %p4(%flat) : (tensor<1x2x?x?xf32>, tensor<3xindex>) -> tensor<2x?x?xf32>
  %eo = tensor.empty({size}) : tensor<2x?x8xf32>
  %fo = linalg.fill ins(%zero : f32) outs(%eo : tensor<2x?x8xf32>) -> tensor<2x?x8xf32>
  %o = linalg.batch_matmul ins(%p, %k : tensor<2x?x?xf32>, tensor<2x?x8xf32>) outs(%fo : tensor<2x?x8xf32>) -> tensor<2x?x8xf32>
  %o4 = tensor.expand_shape %o [[0, 1], [2], [3]] output_shape [1, 2, {size}, 8] : tensor<2x?x8xf32> into tensor<1x2x?x8xf32>
  return %o4 : tensor<1x2x?x8xf32>
}}
"""  # noqa: E501


def test_reshape_by_a_sum_of_sizes(raise_text: Callable) -> None:
    (site,) = raise_text(GROWN.format(size="%len", asserted="%n, %n"))
    assert isinstance(site, AttentionSite)
    assert site.kv_len == site.q_len


def test_asserted_sizes_are_equal(raise_text: Callable) -> None:
    (site,) = raise_text(GROWN.format(size="%other", asserted="%other, %len"))
    assert isinstance(site, AttentionSite)


@pytest.mark.parametrize("branch", [False, True])
def test_other_sizes_are_compared(raise_text: Callable, branch: bool) -> None:
    """Nothing is asserted of them, or in one branch alone; but the products have no meaning unless
    they are equal."""
    text = GROWN.format(size="%other", asserted="%other, %len")
    (asserted,) = raise_text(text)
    if branch:
        line = next(x for x in text.splitlines() if "cf.assert" in x)
        text = text.replace(line, f"  scf.if %equal {{\n  {line}\n  }}")
    else:
        text = GROWN.format(size="%other", asserted="%n, %n")
    (site,) = raise_text(text)
    assert isinstance(site, AttentionSite)
    assert len(site.equal) == len(asserted.equal) + 1
