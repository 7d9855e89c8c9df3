"""The cases that IREE tests its attention ops with, compiled with the flag: exact in float64.

The kinds of the compiler's own end-to-end tests: tiny ramps and random tensors, boolean masks
(causal, all true, packed to bits), a softcap region, the online op, sizes known at run time.
Added: transposed operands, float masks, groups of heads, f16 and bf16.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from iree_flashattn.bench import running
from iree_flashattn.compiling import Compiled, compile_module
from support.accuracy import assert_accurate
from support.attention_op import CAUSAL, SOFTCAP, Case

UNGATED = {"IREE_FLASHATTN_GATE": "off"}
C = Case
CASES = [
    C("ramp_3", ramp=True),
    C("ramp_4", rows=4, keys=4, ramp=True),
    C("ramp_causal", ramp=True, mask="causal"),
    C("ramp_all_true", rows=4, keys=4, ramp=True, mask="ones"),
    C("three_batches", batch=3),
    C("softcap", scale=1.0, region=SOFTCAP),
    C("softcap_scaled", batch=2, rows=17, keys=33, dim=16, scale=0.25, region=SOFTCAP),
    C("dynamic_ramp", ramp=True, dynamic="bmk"),
    C("dynamic", batch=3, rows=5, keys=9, columns=8, dynamic="bmk"),
    C("dynamic_mask", batch=2, rows=5, keys=9, dynamic="bmk", mask="random"),
    C("long", batch=2, rows=130, keys=190, dim=64, columns=64, scale=0.125),
    C("one_row", batch=4, rows=1, keys=300, dim=32, columns=16),
    C("odd", batch=2, rows=13, keys=37, dim=20, columns=12),
    C("values_transposed", batch=2, rows=9, keys=21, loops=("bmd", "bkd", "bnk")),
    C("keys_transposed", batch=2, rows=9, keys=21, dim=8, loops=("bmd", "bdk", "bkn")),
    C("queries_transposed", batch=2, rows=9, keys=21, dim=8, loops=("bdm", "bkd", "bkn")),
    C("sequence_first", batch=2, rows=9, keys=21, loops=("mbd", "kbd", "kbn"), out="mbn"),
    C("result_transposed", batch=2, rows=9, keys=21, out="bnm"),
    C("random_mask", batch=2, rows=9, keys=21, mask="random"),
    C("mask_of_rows", batch=2, rows=9, keys=21, mask="random", mask_loops="mk"),
    C("causal_mask", batch=2, rows=9, keys=21, mask="causal"),
    C("additive_mask", batch=2, rows=9, keys=21, mask="f32"),
    C("additive_of_rows", batch=2, rows=9, keys=21, mask="f32", mask_loops="mk"),
    C("groups", batch=2, group=3, rows=9, keys=21, dim=8, out="bgmn",
      loops=("bgmd", "bkd", "bkn")),
    C("groups_mask", batch=2, group=4, rows=9, keys=21, dim=8, out="bgmn",
      loops=("bgmd", "bkd", "bkn"), mask="random", mask_loops="bgmk"),
    C("groups_dynamic", batch=2, group=3, rows=9, keys=21, dim=8, out="bgmn",
      loops=("bgmd", "bkd", "bkn"), dynamic="bmk"),
    C("causal_region", batch=2, rows=17, keys=17, dim=8, region=CAUSAL),
    C("causal_region_groups", batch=2, group=2, rows=9, keys=9, dim=8, out="bgmn",
      loops=("bgmd", "bkd", "bkn"), region=CAUSAL),
    C("f16", batch=3, rows=9, keys=21, dim=16, element="f16"),
    C("f16_long", batch=2, rows=40, keys=150, dim=64, columns=64, scale=0.125, element="f16"),
    C("f16_mask", batch=2, rows=9, keys=21, element="f16", mask="random"),
    C("f16_additive", batch=2, rows=9, keys=21, element="f16", mask="element"),
    C("f16_values_transposed", batch=2, rows=9, keys=21, element="f16",
      loops=("bmd", "bkd", "bnk")),
    C("f16_softcap", batch=2, rows=9, keys=21, scale=1.0, element="f16", region=SOFTCAP),
    C("bf16", batch=3, rows=9, keys=21, dim=16, element="bf16"),
]  # fmt: skip


@pytest.fixture(scope="module")
def functions(compile_served: Callable[..., Compiled]) -> Callable:
    """One module with all cases: compiling takes the time."""
    text = "".join(case.text() for case in CASES)
    return running.load_all(compile_served(text, sites=len(CASES)).vmfb)


@pytest.mark.parametrize("case", CASES, ids=lambda c: c.name)
def test_case(case: Case, functions: Callable) -> None:
    check(case, functions[case.name])


def check(case: Case, function: Callable) -> None:
    arrays = case.inputs(np.random.default_rng())
    wanted, error = case.expected(arrays)
    result = running.to_float(function(*arrays))
    assert_accurate(result, wanted, error, case.element, case.name)


def test_head_dim_known_at_run_time() -> None:
    """No kernel takes it: stock code does, and the reason says what to change."""
    case = Case("attention", batch=2, rows=5, keys=9, columns=8, dynamic="bmndk")
    done = compile_module(case.text(), options=UNGATED)
    (site,) = done.sites
    assert not site["matched"]
    assert "known only at run time; export it with a static size" in site["reason"]
    check(case, running.load(done.vmfb))


def test_mask_packed_to_bits() -> None:
    """Eight elements to a byte: declined, since kernels read a byte for each."""
    case = Case("attention", batch=2, rows=4, keys=8, mask="random")
    kind = "tensor<2x4x8xi1"
    packed = f"{kind}, #iree_encoding.packed_storage>"
    text = case.text().replace(f"%mask: {kind}>", "%bits: tensor<8xi8>").replace(f"{kind}>", packed)
    cast = f"  %mask = flow.tensor.bitcast %bits : tensor<8xi8> -> {packed}\n  %scale ="
    done = compile_module(text.replace("  %scale =", cast, 1), options=UNGATED)
    (site,) = done.sites
    assert not site["matched"]
    assert site["subject"] == "#iree_encoding.packed_storage"
    *arrays, mask = case.inputs(np.random.default_rng())
    mask |= ~mask.any(axis=-1, keepdims=True)  # stock has NaN where a row may read nothing
    bits = np.packbits(mask, bitorder="little").view(np.int8)
    wanted, error = case.expected([*arrays, mask])
    result = running.to_float(running.load(done.vmfb)(*arrays, bits))
    assert_accurate(result, wanted, error, "f32")


def online(mask: bool, swapped: bool) -> str:
    """``@attention(q, k, v[, mask])``: the op that keeps maxima and sums, and the division by sums.

    ``swapped``: sums before accumulators in the division.
    """
    loops = ["b, m, d", "b, k, d", "b, k, n", "", *(["b, m, k"] if mask else []),
             "b, m, n", "b, m", "b, m"]  # fmt: skip
    maps = ", ".join(f"affine_map<(b, m, n, d, k) -> ({x})>" for x in loops)
    row, full = "affine_map<(b, m, n) -> (b, m)>", "affine_map<(b, m, n) -> (b, m, n)>"
    argument = ", %mask: tensor<2x5x7xi1>" if mask else ""
    operand, kind = (", %mask", ", tensor<2x5x7xi1>") if mask else ("", "")
    parts = [("%o#0", "tensor<2x5x4xf32>", full, "%a"), ("%o#2", "tensor<2x5xf32>", row, "%t")]
    if swapped:
        parts.reverse()
    return f"""
func.func @attention(%q: tensor<2x5x8xf32>, %k: tensor<2x7x8xf32>, %v: tensor<2x7x4xf32>{argument})
    -> tensor<2x5x4xf32> {{
  %scale = arith.constant 0.5 : f32
  %zero = arith.constant 0.0 : f32
  %one = arith.constant 1.0 : f32
  %low = arith.constant 0xFF800000 : f32
  %e = tensor.empty() : tensor<2x5x4xf32>
  %r = tensor.empty() : tensor<2x5xf32>
  %acc = linalg.fill ins(%zero : f32) outs(%e : tensor<2x5x4xf32>) -> tensor<2x5x4xf32>
  %top = linalg.fill ins(%low : f32) outs(%r : tensor<2x5xf32>) -> tensor<2x5xf32>
  %sum = linalg.fill ins(%zero : f32) outs(%r : tensor<2x5xf32>) -> tensor<2x5xf32>
  %o:3 = iree_linalg_ext.online_attention <indexing_maps = [{maps}]>
      ins(%q, %k, %v, %scale{operand} : tensor<2x5x8xf32>, tensor<2x7x8xf32>, tensor<2x7x4xf32>,
          f32{kind})
      outs(%acc, %top, %sum : tensor<2x5x4xf32>, tensor<2x5xf32>, tensor<2x5xf32>) {{
  ^bb0(%s: f32):
    iree_linalg_ext.yield %s : f32
  }} -> tensor<2x5x4xf32>, tensor<2x5xf32>, tensor<2x5xf32>
  %n = linalg.generic {{indexing_maps = [{parts[0][2]}, {parts[1][2]}, {full}],
      iterator_types = ["parallel", "parallel", "parallel"]}}
      ins({parts[0][0]}, {parts[1][0]} : {parts[0][1]}, {parts[1][1]})
      outs(%e : tensor<2x5x4xf32>) {{
  ^bb0({parts[0][3]}: f32, {parts[1][3]}: f32, %z: f32):
    %i = arith.divf %one, %t : f32
    %p = arith.mulf %a, %i : f32
    linalg.yield %p : f32
  }} -> tensor<2x5x4xf32>
  return %n : tensor<2x5x4xf32>
}}
"""


@pytest.mark.parametrize("swapped", [False, True])
@pytest.mark.parametrize("mask", [False, True])
def test_online_op(mask: bool, swapped: bool, compile_served: Callable) -> None:
    case = Case("attention", batch=2, rows=5, keys=7, dim=8, mask="causal" if mask else "")
    check(case, running.load(compile_served(online(mask, swapped)).vmfb))


def test_lse_of_flex_attention(compile_served: Callable) -> None:
    """PyTorch's: the natural one. (The stock compiler adds logarithms of two bases.)"""
    row = "affine_map<(b, m) -> (b, m)>"
    loops = 'iterator_types = ["parallel", "parallel"]'
    kind = "tensor<2x5xf32>"
    text = online(mask=True, swapped=False)
    text = text.replace("    -> tensor<2x5x4xf32> {", f"    -> (tensor<2x5x4xf32>, {kind}) {{", 1)
    text = text.replace("  return %n : tensor<2x5x4xf32>", f"""
  %ln2 = arith.constant 0.6931471805599453 : f32
  %l2 = linalg.generic {{indexing_maps = [{row}, {row}, {row}], {loops}}}
      ins(%o#2, %o#1 : {kind}, {kind}) outs(%r : {kind}) {{
  ^bb0(%t: f32, %m: f32, %z: f32):
    %g = math.log %t : f32
    %x = arith.addf %g, %m : f32
    linalg.yield %x : f32
  }} -> {kind}
  %lse = linalg.generic {{indexing_maps = [{row}, {row}], {loops}}}
      ins(%l2 : {kind}) outs(%r : {kind}) {{
  ^bb0(%t: f32, %z: f32):
    %x = arith.mulf %t, %ln2 : f32
    linalg.yield %x : f32
  }} -> {kind}
  return %n, %lse : tensor<2x5x4xf32>, {kind}""")  # fmt: skip
    done = compile_served(text)
    (site,) = done.sites
    assert site["lse"]
    case = Case("attention", batch=2, rows=5, keys=7, dim=8, mask="causal")
    q, k, v, mask = case.inputs(np.random.default_rng(3))
    mask[1, 2] = False
    with np.errstate(divide="ignore", invalid="ignore"):
        scores = 0.5 * q.astype(np.float64) @ k.astype(np.float64).swapaxes(1, 2)
        exponentials = np.exp(scores) * mask
        total = exponentials.sum(-1)
        wanted = np.nan_to_num((exponentials @ v) / total[..., None]), np.log(total)
    got = running.load(done.vmfb)(q, k, v, mask)
    for found, right in zip(got, wanted, strict=True):
        np.testing.assert_allclose(np.asarray(found), right, rtol=1e-5, atol=1e-5)
