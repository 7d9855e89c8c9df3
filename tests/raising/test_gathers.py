"""Positions that are read from a tensor: transformers indexes position ids to build its masks."""

from __future__ import annotations

from collections.abc import Callable

from iree_flashattn.site import AttentionSite

TEXT = """
#q = affine_map<(b, m, n, d, k) -> (b, m, d)>
#k = affine_map<(b, m, n, d, k) -> (b, k, d)>
#v = affine_map<(b, m, n, d, k) -> (b, k, n)>
#s = affine_map<(b, m, n, d, k) -> ()>
#m = affine_map<(b, m, n, d, k) -> (b, m, k)>
#o = affine_map<(b, m, n, d, k) -> (b, m, n)>
#id = affine_map<(i) -> (i)>
func.func @main(%q: tensor<2x6x8xf32>, %k: tensor<2x6x8xf32>, %v: tensor<2x6x8xf32>,
                %given: tensor<6xi64>) -> tensor<2x6x8xf32> {{
  %c = arith.constant 0.25 : f32
  %zero = arith.constant 0 : i64
  %six = arith.constant 6 : i64
  %e = tensor.empty() : tensor<2x6x8xf32>
  %e6 = tensor.empty() : tensor<6xi64>
  %made = linalg.generic {{indexing_maps = [#id], iterator_types = ["parallel"]}}
      outs(%e6 : tensor<6xi64>) {{
  ^bb0(%x: i64):
    %i = linalg.index 0 : index
    %j = arith.index_cast %i : index to i64
    linalg.yield %j : i64
  }} -> tensor<6xi64>
  %read = linalg.generic {{indexing_maps = [#id, #id], iterator_types = ["parallel"]}}
      ins(%made : tensor<6xi64>) outs(%e6 : tensor<6xi64>) {{
  ^bb0(%x: i64, %y: i64):
    %negative = arith.cmpi slt, %x, %zero : i64
    %wrapped = arith.addi %x, %six : i64
    %index = arith.select %negative, %wrapped, %x : i64
    %at = arith.index_cast %index : i64 to index
    %value = tensor.extract {source}[%at] : tensor<6xi64>
    linalg.yield %value : i64
  }} -> tensor<6xi64>
  %em = tensor.empty() : tensor<2x6x6xi1>
  %mask = linalg.generic {{
      indexing_maps = [affine_map<(b, i, j) -> (i)>, affine_map<(b, i, j) -> (j)>,
                       affine_map<(b, i, j) -> (b, i, j)>],
      iterator_types = ["parallel", "parallel", "parallel"]}}
      ins(%read, %read : tensor<6xi64>, tensor<6xi64>) outs(%em : tensor<2x6x6xi1>) {{
  ^bb0(%i: i64, %j: i64, %y: i1):
    %keep = arith.cmpi sle, %j, %i : i64
    linalg.yield %keep : i1
  }} -> tensor<2x6x6xi1>
  %o = iree_linalg_ext.attention <indexing_maps = [#q, #k, #v, #s, #m, #o]>
      ins(%q, %k, %v, %c, %mask : tensor<2x6x8xf32>, tensor<2x6x8xf32>, tensor<2x6x8xf32>, f32,
          tensor<2x6x6xi1>)
      outs(%e : tensor<2x6x8xf32>) {{
  ^bb0(%s: f32):
    iree_linalg_ext.yield %s : f32
  }} -> tensor<2x6x8xf32>
  return %o : tensor<2x6x8xf32>
}}
"""


def test_gathered_positions_are_positions(raise_text: Callable) -> None:
    (site,) = raise_text(TEXT.format(source="%made"))
    assert isinstance(site, AttentionSite)
    assert site.band.hi == 0
    assert site.mask is None


def test_gathered_run_time_values_are_a_mask(raise_text: Callable) -> None:
    (site,) = raise_text(TEXT.format(source="%given"))
    assert isinstance(site, AttentionSite)
    assert site.band.open
    assert site.mask is not None
