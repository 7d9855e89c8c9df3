"""The problems that each CUDA kernel is tried on, by the host double and on a GPU."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from iree_flashattn import catalog, operands
from iree_flashattn.operands import Operands
from iree_flashattn.problems import Problem, causal, small

EPSILON = {"f32": 2.0**-20, "f16": 2.0**-11, "bf16": 2.0**-8}


def extra_problems() -> list[Problem]:
    """Shapes at the seams of these kernels' tiles."""
    P = Problem
    many = P("many_tiles", heads=2, q_len=130, kv_len=700, dk=64)
    gqa = P("gqa_causal", batch=2, heads=4, kv_heads=2, q_len=150, kv_len=260, dk=64, dv=32)
    return [
        many,
        causal(gqa, align="bottom-right"),
        replace(causal(P("window_tiles", heads=1, q_len=300, kv_len=300, dk=16), window=70)),
        P("negative_scale", heads=2, q_len=20, kv_len=140, dk=32, scale=-0.3),
        P("zero_scale", heads=2, q_len=20, kv_len=140, dk=32, scale=0.0, band_hi=3),
        P("unaligned_dim", heads=2, q_len=70, kv_len=200, dk=56, dv=24, layout="bshd"),
        P("dim_128", heads=1, q_len=70, kv_len=300, dk=128),
        P("dim_256", heads=1, q_len=70, kv_len=100, dk=256),
        P("decode_group", batch=2, heads=10, kv_heads=2, q_len=3, kv_len=400, dk=64),
        P("weights_128", heads=2, q_len=70, kv_len=141, dk=128, weights=True),
        P("weights_256", heads=2, kv_heads=1, q_len=20, kv_len=70, dk=256, dv=136, weights=True),
        replace(causal(P("weights_window", heads=2, q_len=150, kv_len=260, dk=64, weights=True),
                       window=30), batch=2),
        P("weights_empty_nan", heads=2, q_len=25, kv_len=75, dk=16, mask="drop", mask_dims="q",
          empty_row_nan=True, weights=True),
        P("weights_empty", heads=2, q_len=90, kv_len=33, dk=16, band_hi=-57, weights=True),
        P("weights_fill", heads=2, q_len=70, kv_len=200, dk=16, band_hi=40, fill=-2.0, sinks=True,
          weights=True),
        P("weights_decode", batch=2, heads=4, kv_heads=2, q_len=1, kv_len=333, dk=64,
          weights=True),
        P("decode_mask", heads=4, kv_heads=2, q_len=2, kv_len=300, dk=64, mask="keep",
          mask_dims="bk"),
        P("decode_band", heads=4, kv_heads=1, q_len=5, kv_len=300, dk=64, band_hi=290, band_lo=20),
    ]  # fmt: skip


def serves(row: catalog.Kernel, p: Problem) -> bool:
    if row.role == "partial" and p.q_len > 40:
        return False
    if not row.head_dim.serves(p.dk, p.dv) or p.features - row.features:
        return False
    if "weights" in row.features and not p.weights:  # such rows have one more binding
        return False
    # A wide kernel only repeats what the narrow one shows, at a price.
    width = int(row.defines[0].removeprefix("DK="))
    return p.q_len > 0 and (width <= 64 or max(p.dk, p.dv) * 4 > width)


def assert_close(p: Problem, got: np.ndarray, want: np.ndarray, bound: float) -> None:
    """NaN where the reference has NaN, elsewhere within a few roundings of ``bound``."""
    assert np.array_equal(np.isnan(got), np.isnan(want))
    error = np.nanmax(np.abs(got - want), initial=0.0)
    assert error <= 3 * EPSILON[p.element] * bound


def compare(made: Operands, got: np.ndarray) -> None:
    """O, and P and LSE where the problem has them, against float64."""
    want = made.reference()
    # P and O are rounded once each; V is N(0, 1), so a row's error stays near epsilon.
    assert_close(made.problem, got, want.out, max(1.0, np.nanmax(np.abs(want.out), initial=0.0)))
    if made.weights is not None:
        assert_close(made.problem, made.result_weights(), want.weights, 1.0)
    if made.lse is not None:
        finite = np.isfinite(want.lse)
        np.testing.assert_array_equal(made.lse[~finite], want.lse[~finite])
        np.testing.assert_allclose(made.lse[finite], want.lse[finite], rtol=2e-6, atol=4e-6)


FAR_MASKS = [
    catalog.find(f"fa_{kind}_{element}_{rest}")
    for kind, element, rest in (
        ("forward", "f32", "sm80_d64_general"),
        ("forward", "f16", "sm90a_d64_general"),
        ("partial", "bf16", "sm80_d64_general"),
    )
]


def far_masks(row: catalog.Kernel) -> Operands:
    """Rows that have nothing but masked keys, filled with different numbers near the lowest f32,
    which overflow in log2 units: the keys with the highest number share the row."""
    problem = Problem("far_masks", heads=2, q_len=9, kv_len=40, dk=16, bias="f32", bias_dims="qk")
    made = operands.make(problem.with_element(row.element), 5)
    fills = np.float32([-3.4028234663852886e38, -3.4e38, -3.3e38, -2.1e38, -1.9e38, -1e30])
    which = np.random.default_rng(5).integers(0, len(fills), made.bias.shape)
    # row i has the first i + 1 of them
    made.bias[...] = fills[np.minimum(which, np.arange(9)[:, None])]
    return made


def cases(rows) -> list:
    """(row, problem, splits) for every problem that a row serves."""
    problems = small() + extra_problems()
    return [
        pytest.param(row, p.with_element(row.element), splits, id=f"{row.name}-{p.name}-{splits}")
        for row in rows
        if row.role != "combine"
        for p in problems
        if serves(row, p)
        for splits in ((1, 3) if row.role == "partial" else (1,))
    ]
