"""The attention ops of IREE: maps, masks, score regions, the online form."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from iree_flashattn.refusal import Refusal
from iree_flashattn.site import AttentionSite

MAPS = {
    "q": "affine_map<(b, m, n, d, k) -> (b, m, d)>",
    "k": "affine_map<(b, m, n, d, k) -> (b, k, d)>",
    "v": "affine_map<(b, m, n, d, k) -> (b, k, n)>",
    "vt": "affine_map<(b, m, n, d, k) -> (b, n, k)>",
    "s": "affine_map<(b, m, n, d, k) -> ()>",
    "mask": "affine_map<(b, m, n, d, k) -> (b, m, k)>",
    "o": "affine_map<(b, m, n, d, k) -> (b, m, n)>",
}
PLAIN = "^bb0(%s: f32):\n    iree_linalg_ext.yield %s : f32"


def module(
    mask: str = "", region: str = PLAIN, v: str = "v", v_type: str = "2x7x4", scale: str = "0.25"
) -> str:
    names = ["q", "k", v, "s", *(["mask"] if mask else []), "o"]
    maps = ", ".join(MAPS[n] for n in names)
    operand, kind = (", %m", f", tensor<2x5x7x{mask}>") if mask else ("", "")
    argument = f", %m: tensor<2x5x7x{mask}>" if mask else ""
    return f"""
func.func @main(%q: tensor<2x5x8xf32>, %k: tensor<2x7x8xf32>, %v: tensor<{v_type}xf32>{argument})
    -> tensor<2x5x4xf32> {{
  %c = arith.constant {scale} : f32
  %two = arith.constant 2.0 : f32
  %e = tensor.empty() : tensor<2x5x4xf32>
  %o = iree_linalg_ext.attention <indexing_maps = [{maps}]>
      ins(%q, %k, %v, %c{operand} : tensor<2x5x8xf32>, tensor<2x7x8xf32>, tensor<{v_type}xf32>,
          f32{kind})
      outs(%e : tensor<2x5x4xf32>) {{
  {region}
  }} -> tensor<2x5x4xf32>
  return %o : tensor<2x5x4xf32>
}}
"""


def one(raise_text: Callable, text: str) -> AttentionSite | Refusal:
    (found,) = raise_text(text)
    return found


def test_plain(raise_text: Callable) -> None:
    site = one(raise_text, module())
    assert isinstance(site, AttentionSite), site
    assert (site.batch * site.heads, site.q_len, site.kv_len, site.dk, site.dv) == (2, 5, 7, 8, 4)
    assert (site.scale, site.empty_row) == (0.25, "zero")


def test_transposed_values(raise_text: Callable) -> None:
    site = one(raise_text, module(v="vt", v_type="2x4x7"))
    assert isinstance(site, AttentionSite), site
    assert site.v.strides[2:] == (1, 7)


def test_boolean_and_additive_mask(raise_text: Callable) -> None:
    keeps, adds = one(raise_text, module("i1")), one(raise_text, module("f32"))
    assert isinstance(keeps, AttentionSite)
    assert isinstance(adds, AttentionSite)
    assert keeps.mask is not None
    assert not keeps.mask_drops
    assert adds.bias is not None
    assert adds.mask is None


def test_mask_packed_to_bits(raise_text: Callable) -> None:
    """The type of a mask may say that eight elements share a byte: no stride can read it."""
    found = one(raise_text, module("i1, #iree_encoding.packed_storage"))
    assert isinstance(found, Refusal)
    assert (found.rule, found.subject) == ("views", "#iree_encoding.packed_storage")


def test_score_region_sees_plain_scores(raise_text: Callable) -> None:
    region = (
        "^bb0(%s: f32):\n    %a = arith.divf %s, %two : f32\n    %t = math.tanh %a : f32\n"
        "    %r = arith.mulf %t, %two : f32\n    iree_linalg_ext.yield %r : f32"
    )
    site = one(raise_text, module(region=region))
    assert isinstance(site, AttentionSite), site
    assert (site.softcap, site.scale) == (2.0, 0.25)


def test_region_that_no_kernel_has(raise_text: Callable) -> None:
    region = "^bb0(%s: f32):\n    %r = math.sin %s : f32\n    iree_linalg_ext.yield %r : f32"
    found = one(raise_text, module(region=region))
    assert isinstance(found, Refusal)
    assert (found.rule, found.subject) == ("scores", "sin")


def test_region_that_drops_the_scores(raise_text: Callable) -> None:
    region = "^bb0(%s: f32):\n    iree_linalg_ext.yield %two : f32"
    assert isinstance(one(raise_text, module(region=region)), Refusal)


def online(divided_by: str, more: str = "", result: str = "") -> str:
    maps = ", ".join(
        f"affine_map<(h, m, k, d, n) -> ({r})>"
        for r in ("h, m, d", "h, k, d", "h, k, n", "", "h, m, n", "h, m", "h, m")
    )
    row, full = "affine_map<(h, m, n) -> (h, m)>", "affine_map<(h, m, n) -> (h, m, n)>"
    kind = f", {LSE}" if result else ""
    return f"""
func.func @main(%q: tensor<2x5x8xf32>, %k: tensor<2x7x8xf32>, %v: tensor<2x7x4xf32>)
    -> (tensor<2x5x4xf32>{kind}) {{
  %c = arith.constant 0.25 : f32
  %zero = arith.constant 0.0 : f32
  %one = arith.constant 1.0 : f32
  %low = arith.constant -3.40282347E+38 : f32
  %e = tensor.empty() : tensor<2x5x4xf32>
  %r = tensor.empty() : tensor<2x5xf32>
  %acc = linalg.fill ins(%zero : f32) outs(%e : tensor<2x5x4xf32>) -> tensor<2x5x4xf32>
  %max = linalg.fill ins(%low : f32) outs(%r : tensor<2x5xf32>) -> tensor<2x5xf32>
  %sum = linalg.fill ins(%zero : f32) outs(%r : tensor<2x5xf32>) -> tensor<2x5xf32>
  %o:3 = iree_linalg_ext.online_attention <indexing_maps = [{maps}]>
      ins(%q, %k, %v, %c : tensor<2x5x8xf32>, tensor<2x7x8xf32>, tensor<2x7x4xf32>, f32)
      outs(%acc, %max, %sum : tensor<2x5x4xf32>, tensor<2x5xf32>, tensor<2x5xf32>) {{
  ^bb0(%s: f32):
    iree_linalg_ext.yield %s : f32
  }} -> tensor<2x5x4xf32>, tensor<2x5xf32>, tensor<2x5xf32>
  %n = linalg.generic {{indexing_maps = [{row}, {full}, {full}],
      iterator_types = ["parallel", "parallel", "parallel"]}}
      ins({divided_by}, %o#0 : tensor<2x5xf32>, tensor<2x5x4xf32>)
      outs(%e : tensor<2x5x4xf32>) {{
  ^bb0(%x: f32, %y: f32, %z: f32):
    %i = arith.divf %one, %x : f32
    %p = arith.mulf %i, %y : f32
    linalg.yield %p : f32
  }} -> tensor<2x5x4xf32>
  {more}
  return %n{result} : tensor<2x5x4xf32>{kind}
}}
"""


def test_online_form(raise_text: Callable) -> None:
    site = one(raise_text, online("%o#2"))
    assert isinstance(site, AttentionSite), site
    assert site.scale == 0.25


def test_online_form_divided_by_its_maxima(raise_text: Callable) -> None:
    found = one(raise_text, online("%o#1"))
    assert isinstance(found, Refusal)
    assert "row maxima" in found.reason


LSE = "tensor<2x5xf32>"


def flex_lse(
    op: str = "addf", sums: str = "%o#2", maxima: str = "%o#1", swapped: bool = False,
    factor: float = 0.6931471805599453, read: str = "h, m",
) -> str:  # fmt: skip
    """What torch's flex_attention returns as its LSE, as its export arrives."""
    maps = [f"affine_map<(h, m) -> ({x})>" for x in ("h, m", read, "h, m")]
    args = ["%x: f32", "%y: f32"]
    values = [sums, maxima]
    if swapped:
        args.reverse()
        values.reverse()
    both = f"outs(%r : {LSE}) {{"
    loops = 'iterator_types = ["parallel", "parallel"]'
    return f"""
  %ln2 = arith.constant {factor:.9e} : f32
  %l2 = linalg.generic {{indexing_maps = [{", ".join(maps)}], {loops}}}
      ins({", ".join(values)} : {LSE}, {LSE}) {both}
  ^bb0({", ".join(args)}, %z: f32):
    %g = math.log %x : f32
    %t = arith.{op} %g, %y : f32
    linalg.yield %t : f32
  }} -> {LSE}
  %lse = linalg.generic {{indexing_maps = [{maps[0]}, {maps[0]}], {loops}}}
      ins(%l2 : {LSE}) {both}
  ^bb0(%x: f32, %z: f32):
    %t = arith.mulf %x, %ln2 : f32
    linalg.yield %t : f32
  }} -> {LSE}"""


@pytest.mark.parametrize("swapped", [False, True])
def test_lse_of_flex_attention(raise_text: Callable, swapped: bool) -> None:
    site = one(raise_text, online("%o#2", flex_lse(swapped=swapped), ", %lse"))
    assert isinstance(site, AttentionSite), site
    assert site.lse is not None
    assert site.lse_empty == "inf"
    assert [int(n) for n in site.lse.strides[1:3]] == [5, 1]


@pytest.mark.parametrize(
    "other",
    [
        {"op": "subf"},
        {"maxima": "%o#2"},
        {"sums": "%o#1"},
        {"maxima": "%max"},
        {"factor": 0.5},
    ],
    ids=["difference", "two sums", "two maxima", "initial maxima", "factor"],
)
def test_what_resembles_an_lse_stays(raise_text: Callable, other: dict) -> None:
    site = one(raise_text, online("%o#2", flex_lse(**other), ", %lse"))
    assert isinstance(site, AttentionSite), site
    assert site.lse is None


def test_logarithm_without_the_factor_stays(raise_text: Callable) -> None:
    """In which base it is meant is not to be told."""
    text = flex_lse().partition("  %lse =")[0]
    site = one(raise_text, online("%o#2", text, ", %l2"))
    assert isinstance(site, AttentionSite), site
    assert site.lse is None
