"""Random shapes, layouts, features and types: whatever the ABI can say, the kernels compute."""

from __future__ import annotations

import cpu_native
import pytest
from cpu_cases import attending, check, serves
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from iree_flashattn import operands
from iree_flashattn.problems import Problem

FILLS = [float("-inf"), -3.4028234663852886e38, -1e9, -1e4, -3.0, 0.0]


@st.composite
def any_problem(draw: st.DrawFn) -> Problem:
    kv_heads = draw(st.integers(1, 3))
    q_len, kv_len = draw(st.integers(0, 90)), draw(st.integers(0, 300))
    bound = st.none() | st.integers(-q_len - 2, kv_len + 2)
    mask, bias = (
        draw(st.sampled_from([None, "keep", "drop"])),
        draw(st.sampled_from([None, "f32", "element"])),
    )
    dims = st.sets(st.sampled_from("bhqk")).map(lambda x: "".join(sorted(x)))
    return Problem(
        "any",
        batch=draw(st.integers(1, 2)),
        heads=kv_heads * draw(st.integers(1, 5)),
        kv_heads=kv_heads,
        q_len=q_len,
        kv_len=kv_len,
        dk=draw(st.integers(1, 70) | st.sampled_from([128, 192, 256])),
        dv=draw(st.integers(1, 70) | st.sampled_from([128, 256])),
        scale=draw(st.sampled_from([None, 0.1])),
        mask=mask,
        mask_dims=draw(dims),
        bias=bias,
        bias_dims=draw(dims),
        bias_after_fill=draw(st.booleans()) if bias else False,
        band_lo=draw(bound),
        band_hi=draw(bound),
        fill=draw(st.sampled_from(FILLS)),
        softcap=draw(st.sampled_from([None, 2.0, 30.0])),
        sinks=draw(st.booleans()),
        empty_row_nan=draw(st.booleans()),
        weights=draw(st.booleans()),
        lse=draw(st.sampled_from([None, "inf", "nan"])),
        layout=draw(st.sampled_from(["bhsd", "bshd"])),
        transposed="".join(sorted(draw(st.sets(st.sampled_from("qkvo"))))),
        padding=draw(st.sampled_from([0, 0, 3])),
        shared_kv=draw(st.booleans()),
    )


@pytest.mark.parametrize("kernel", attending())
@settings(max_examples=12, deadline=None, suppress_health_check=list(HealthCheck), database=None)
@given(problem=any_problem(), seed=st.integers(0, 2**16), splits=st.integers(1, 9))
def test_any_problem(kernel, problem, seed, splits):
    problem = problem.with_element(kernel.element)
    if not serves(kernel, problem):
        assert kernel.role == "partial"
        return
    made = operands.make(problem, seed)
    cpu_native.run(kernel, made, splits=splits)
    check(made, f"{kernel.name} splits={splits}")
