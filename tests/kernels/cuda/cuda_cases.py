"""The problems that each CUDA kernel is tried on, by the host double and on a GPU."""

from __future__ import annotations

from dataclasses import replace

import pytest

from iree_flashattn import catalog
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
        P("decode_band", heads=4, kv_heads=1, q_len=5, kv_len=300, dk=64, band_hi=290, band_lo=20),
    ]


def serves(row: catalog.Kernel, p: Problem) -> bool:
    if row.role == "partial" and p.q_len > 40:
        return False
    if not row.head_dim.serves(p.dk, p.dv) or p.features - row.features:
        return False
    # A wide kernel only repeats what the narrow one shows, at a price.
    width = int(row.defines[0].removeprefix("DK="))
    return p.q_len > 0 and (width <= 64 or max(p.dk, p.dv) * 4 > width)


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
