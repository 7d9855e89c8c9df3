"""A step of decoding with a cache whose heads are repeated, batch and length known at run time."""

from __future__ import annotations

ROW, CACHE, HEADS = "tensor<?x2x1x16xf32>", "tensor<?x2x?x16xf32>", "tensor<?x4x?x16xf32>"
FIVE = "tensor<?x2x2x?x16xf32>"
MAPS = ", ".join(
    f"affine_map<(b, m, n, k, s) -> ({dims})>"
    for dims in ("b, m, k", "b, s, k", "b, s, n", "", "b, m, n")
)


def module(batch_of_v: str = "%b", keys_of_v: str = "%m") -> str:
    """As torch's SDPA leaves it. ``batch_of_v`` and ``keys_of_v``: what V's reshape is made with,
    Q's batch ``%b``, K's keys ``%n`` or V's own ``%bv``, ``%m``."""
    return f"""
func.func @attention(%q: tensor<?x4x1x16xf32>, %k1: {ROW}, %v1: {ROW}, %k0: {CACHE}, %v0: {CACHE})
    -> tensor<?x1x16xf32> {{
  %zero = arith.constant 0 : index
  %one = arith.constant 1 : index
  %two = arith.constant 2 : index
  %four = arith.constant 4 : index
  %sixteen = arith.constant 16 : index
  %scale = arith.constant 0.25 : f32
  %b = tensor.dim %q, %zero : tensor<?x4x1x16xf32>
  %bv = tensor.dim %v0, %zero : {CACHE}
  %n0 = tensor.dim %k0, %two : {CACHE}
  %m0 = tensor.dim %v0, %two : {CACHE}
  %n = arith.addi %n0, %one : index
  %m = arith.addi %m0, %one : index
  %k = tensor.concat dim(2) %k0, %k1 : ({CACHE}, {ROW}) -> {CACHE}
  %v = tensor.concat dim(2) %v0, %v1 : ({CACHE}, {ROW}) -> {CACHE}
  {_repeated("k", "%b", "%n", "%b", "%n")}
  {_repeated("v", "%bv", "%m", batch_of_v, keys_of_v)}
  %qc = tensor.collapse_shape %q [[0, 1], [2], [3]]
      : tensor<?x4x1x16xf32> into tensor<?x1x16xf32>
  %bh = arith.muli %b, %four : index
  %init = tensor.empty(%bh) : tensor<?x1x16xf32>
  %o = iree_linalg_ext.attention <indexing_maps = [{MAPS}]>
      ins(%qc, %kc, %vc, %scale
          : tensor<?x1x16xf32>, tensor<?x?x16xf32>, tensor<?x?x16xf32>, f32)
      outs(%init : tensor<?x1x16xf32>) {{
    ^bb0(%s: f32): iree_linalg_ext.yield %s : f32 }} -> tensor<?x1x16xf32>
  return %o : tensor<?x1x16xf32>
}}
"""


def _repeated(name: str, batch: str, keys: str, new_batch: str, new_keys: str) -> str:
    return f"""
  %{name}e = tensor.empty({batch}, {keys}) : {FIVE}
  %{name}5 = linalg.generic {{indexing_maps = [
      affine_map<(b, h, g, s, d) -> (b, h, s, d)>, affine_map<(b, h, g, s, d) -> (b, h, g, s, d)>],
      iterator_types = ["parallel", "parallel", "parallel", "parallel", "parallel"]}}
      ins(%{name} : {CACHE}) outs(%{name}e : {FIVE}) {{
  ^bb0(%a: f32, %o: f32):
    linalg.yield %a : f32
  }} -> {FIVE}
  %{name}s = tensor.from_elements {new_batch}, %four, {new_keys}, %sixteen : tensor<4xindex>
  %{name}r = tensor.reshape %{name}5(%{name}s) : ({FIVE}, tensor<4xindex>) -> {HEADS}
  %{name}c = tensor.collapse_shape %{name}r [[0, 1], [2], [3]]
      : {HEADS} into tensor<?x?x16xf32>"""
