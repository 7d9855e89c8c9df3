"""Properties of attention, on random sizes: they need no reference."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import spirv_device
from hypothesis import given, settings
from hypothesis import strategies as st
from spirv_cases import attending, check

from iree_flashattn import operands
from iree_flashattn.problems import Problem

# One kernel of each source: the others differ in tile sizes and element types.
NAMES = ("fa_forward_f32_tile_d64", "fa_forward_f32_lane8_d64", "fa_partial_f32_team8_d64")
KERNELS = [p for p in attending() if p.values[0].name in NAMES]
TOLERANCE = 1e-5


def result(kernel, made):
    spirv_device.run(kernel, made)
    return made.result().copy()


@pytest.mark.parametrize("kernel", KERNELS)
@settings(max_examples=15, deadline=None)
@given(data=st.data())
def test_random_sizes(kernel, data):
    step = kernel.head_dim.multiple_of
    kv_heads = data.draw(st.integers(1, 3))
    problem = Problem(
        "random",
        batch=data.draw(st.integers(1, 2)),
        heads=kv_heads * data.draw(st.integers(1, 3)),
        kv_heads=kv_heads,
        q_len=data.draw(st.integers(1, kernel.rows_max or 70)),
        kv_len=data.draw(st.integers(0, 90)),
        dk=data.draw(st.integers(1, 64 // step)) * step,
        dv=data.draw(st.integers(1, 64 // step)) * step,
        band_hi=data.draw(st.one_of(st.none(), st.integers(-20, 90))),
        band_lo=data.draw(st.one_of(st.none(), st.integers(-90, 20))),
        mask=data.draw(st.sampled_from([None, "keep", "drop"])),
        layout=data.draw(st.sampled_from(["bhsd", "bshd"])),
    )
    made = operands.make(problem, data.draw(st.integers(0, 2**32 - 1)))
    spirv_device.run(kernel, made)
    check(made, kernel.name)


@pytest.mark.parametrize("kernel", KERNELS)
def test_order_of_keys_does_not_matter(kernel):
    made = operands.make(Problem("order", heads=2, q_len=7, kv_len=77, dk=32), 1)
    before = result(kernel, made)
    order = np.random.default_rng(2).permutation(77)
    for x in (made.k, made.v):
        x.view()[...] = x.view()[:, :, order].copy()
    np.testing.assert_allclose(result(kernel, made), before, atol=TOLERANCE)


@pytest.mark.parametrize("kernel", KERNELS)
def test_output_is_linear_in_v(kernel):
    made = operands.make(Problem("linear", heads=2, q_len=7, kv_len=77, dk=32), 3)
    before = result(kernel, made)
    made.v.view()[...] *= -2
    np.testing.assert_allclose(result(kernel, made), -2 * before, atol=TOLERANCE)


@pytest.mark.parametrize("kernel", KERNELS)
def test_masked_keys_have_no_influence(kernel):
    problem = Problem("masked", heads=2, q_len=8, kv_len=60, dk=32, mask="keep", mask_dims="k")
    made = operands.make(problem, 4)
    before = result(kernel, made)
    hidden = made.mask[0, 0, 0] == 0
    assert hidden.any()
    for x in (made.k, made.v):
        x.view()[:, :, hidden] = 1e3
    np.testing.assert_allclose(result(kernel, made), before, atol=TOLERANCE)


@pytest.mark.parametrize("kernel", KERNELS)
def test_causal_is_the_mask_that_says_so(kernel):
    plain = Problem("causal", heads=2, q_len=8, kv_len=60, dk=32)
    band = operands.make(replace(plain, band_hi=52), 5)
    mask = operands.make(replace(plain, mask="keep", mask_dims="qk"), 5)
    for x in "qkv":
        getattr(mask, x).buffer[...] = getattr(band, x).buffer
    mask.mask[...] = np.tri(8, 60, 52, dtype=np.uint8)
    np.testing.assert_allclose(result(kernel, band), result(kernel, mask), atol=TOLERANCE)
