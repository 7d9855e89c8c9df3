"""Run-time sizes that go by several names, and what says that they are one."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from iree_flashattn.extent import Extent
from iree_flashattn.refusal import Refusal
from iree_flashattn.site import AttentionSite

Q, S = "tensor<2x?x8xf32>", "tensor<2x?x?xf32>"
SAME = 'iterator_types = ["parallel", "parallel", "parallel"]'
ALL = "affine_map<(b, i, j) -> (b, i, j)>"
ROW = "affine_map<(b, i, j) -> (b, i)>"


def program(rows: str, keys: str, more: str = "", after: str = "") -> str:
    """softmax(Q Kᵀ) V; the scores are made with the sizes ``rows`` and ``keys``."""
    reduce = (
        f'indexing_maps = [{ALL}, {ROW}], iterator_types = ["parallel", "parallel", "reduction"]'
    )
    return f"""
func.func @main(%q: {Q}, %k: {Q}, %v: {Q}, %n: index, %m: index, %c: i1) -> {Q} {{
  %one = arith.constant 1 : index
  %zero = arith.constant 0.0 : f32
  %low = arith.constant 0xFF800000 : f32
  %l = tensor.dim %q, %one : {Q}
  %s = tensor.dim %k, %one : {Q}
  {more}
  %es = tensor.empty({rows}, {keys}) : {S}
  %fs = linalg.fill ins(%zero : f32) outs(%es : {S}) -> {S}
  %scores = linalg.generic {{indexing_maps = [
      affine_map<(b, i, j, d) -> (b, i, d)>, affine_map<(b, i, j, d) -> (b, j, d)>,
      affine_map<(b, i, j, d) -> (b, i, j)>],
      iterator_types = ["parallel", "parallel", "parallel", "reduction"]}}
      ins(%q, %k : {Q}, {Q}) outs(%fs : {S}) {{
  ^bb0(%a: f32, %b: f32, %o: f32):
    %p = arith.mulf %a, %b : f32
    %r = arith.addf %p, %o : f32
    linalg.yield %r : f32
  }} -> {S}
  %er = tensor.empty(%l) : tensor<2x?xf32>
  %fm = linalg.fill ins(%low : f32) outs(%er : tensor<2x?xf32>) -> tensor<2x?xf32>
  %top = linalg.generic {{{reduce}}} ins(%scores : {S}) outs(%fm : tensor<2x?xf32>) {{
  ^bb0(%a: f32, %o: f32):
    %r = arith.maximumf %a, %o : f32
    linalg.yield %r : f32
  }} -> tensor<2x?xf32>
  %e = linalg.generic {{indexing_maps = [{ALL}, {ROW}, {ALL}], {SAME}}}
      ins(%scores, %top : {S}, tensor<2x?xf32>) outs(%es : {S}) {{
  ^bb0(%a: f32, %t: f32, %o: f32):
    %d = arith.subf %a, %t : f32
    %r = math.exp %d : f32
    linalg.yield %r : f32
  }} -> {S}
  %fz = linalg.fill ins(%zero : f32) outs(%er : tensor<2x?xf32>) -> tensor<2x?xf32>
  %sum = linalg.generic {{{reduce}}} ins(%e : {S}) outs(%fz : tensor<2x?xf32>) {{
  ^bb0(%a: f32, %o: f32):
    %r = arith.addf %a, %o : f32
    linalg.yield %r : f32
  }} -> tensor<2x?xf32>
  %p = linalg.generic {{indexing_maps = [{ALL}, {ROW}, {ALL}], {SAME}}}
      ins(%e, %sum : {S}, tensor<2x?xf32>) outs(%es : {S}) {{
  ^bb0(%a: f32, %t: f32, %o: f32):
    %r = arith.divf %a, %t : f32
    linalg.yield %r : f32
  }} -> {S}
  %eo = tensor.empty(%l) : {Q}
  %fo = linalg.fill ins(%zero : f32) outs(%eo : {Q}) -> {Q}
  %out = linalg.batch_matmul ins(%p, %v : {S}, {Q}) outs(%fo : {Q}) -> {Q}
  {after}
  return %out : {Q}
}}
"""


def named(site: AttentionSite) -> int:
    """How many pairs of sizes the host has to compare."""
    return len([pair for pair in site.equal if pair[0] != pair[1]])


def test_dims_of_the_operands(raise_text: Callable) -> None:
    (site,) = raise_text(program("%l", "%s"))
    assert isinstance(site, AttentionSite)
    assert site.q_len != site.kv_len
    assert named(site) == 1  # the keys of K and of V


@pytest.mark.parametrize(("rows", "keys"), [("%n", "%s"), ("%l", "%m"), ("%n", "%m")])
def test_sizes_that_come_as_arguments(raise_text: Callable, rows: str, keys: str) -> None:
    """They are one with the dims of the operands, or the product has no meaning: compared."""
    (site,) = raise_text(program(rows, keys))
    assert isinstance(site, AttentionSite)
    assert named(site) == 1 + (rows == "%n") + (keys == "%m")


def test_equality_known_at_compile_time(raise_text: Callable) -> None:
    """A product with a tensor of 5 rows makes the rows 5."""
    more = f"""%five = tensor.empty() : tensor<2x5x8xf32>
  %u = linalg.generic {{indexing_maps = [{ALL}, {ALL}], {SAME}}} ins(%q : {Q})
      outs(%five : tensor<2x5x8xf32>) {{
  ^bb0(%a: f32, %o: f32):
    linalg.yield %a : f32
  }} -> tensor<2x5x8xf32>"""
    (site,) = raise_text(program("%l", "%s", more))
    assert isinstance(site, AttentionSite)
    assert site.q_len == Extent(5)


def test_op_that_may_not_run_says_nothing(raise_text: Callable) -> None:
    """Inside of a branch: the sizes are equal only where it is taken."""
    more = f"""%x = scf.if %c -> {Q} {{
    %w = linalg.generic {{indexing_maps = [{ALL}, {ALL}], {SAME}}} ins(%q : {Q}) outs(%k : {Q}) {{
    ^bb0(%a: f32, %o: f32):
      linalg.yield %a : f32
    }} -> {Q}
    scf.yield %w : {Q}
  }} else {{
    scf.yield %k : {Q}
  }}"""
    (site,) = raise_text(program("%l", "%s", more))
    assert isinstance(site, AttentionSite)
    assert site.q_len != site.kv_len


def test_different_sizes_are_not_mixed_up(raise_text: Callable) -> None:
    """The other way around: rows and keys exchanged make them equal, which is checked."""
    (site,) = raise_text(program("%s", "%l"))
    assert isinstance(site, AttentionSite | Refusal)
    if isinstance(site, AttentionSite):
        assert site.q_len == site.kv_len
        assert named(site) == 2


ASKED = """%x = tensor.expand_shape %p [[0], [1], [2, 3]] output_shape [2, %l, %s, 1]
      : {S} into tensor<2x?x?x1xf32>
  %d = tensor.dim %x, %one : tensor<2x?x?x1xf32>
  "test.use"({used}) : ({kind}) -> ()"""


def test_probabilities_whose_size_is_asked_for(raise_text: Callable) -> None:
    """Behind a reshape that nothing else reads: nobody reads the probabilities."""
    after = ASKED.format(S=S, used="%d", kind="index")
    (site,) = raise_text(program("%l", "%s", after=after))
    assert isinstance(site, AttentionSite)
    assert site.weights is None


def test_probabilities_behind_a_reshape_are_weights(raise_text: Callable) -> None:
    after = ASKED.format(S=S, used="%x", kind="tensor<2x?x?x1xf32>")
    (site,) = raise_text(program("%l", "%s", after=after))
    assert isinstance(site, AttentionSite)
    assert site.weights is not None
