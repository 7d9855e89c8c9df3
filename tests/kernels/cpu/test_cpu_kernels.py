"""Every CPU kernel that this machine can run, on small problems, against the float64 oracle."""

from __future__ import annotations

import zlib
from dataclasses import replace

import cpu_native
import numpy as np
import pytest
from cpu_cases import attending, check, serves

from iree_flashattn import operands, problems
from iree_flashattn.problems import Problem

KERNELS = attending()


@pytest.mark.parametrize("problem", problems.small(), ids=lambda p: p.name)
@pytest.mark.parametrize("kernel", KERNELS)
def test_problem(kernel, problem):
    problem = problem.with_element(kernel.element)
    if not serves(kernel, problem):
        excused = kernel.role == "partial" and problem.weights
        assert excused, f"{kernel.name} should serve {problem}"
        return
    made = operands.make(problem, zlib.crc32(f"{kernel.name} {problem.name}".encode()))
    made.o.buffer[...] = 77
    before = made.o.buffer.copy()
    cpu_native.run(kernel, made)
    check(made, kernel.name)
    # Nothing but O is written: the gaps between its rows keep their value.
    made.o.view()[...] = 77
    np.testing.assert_array_equal(made.o.buffer, before)


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("dk", [63, 64, 65, 127, 129, 130])
@pytest.mark.parametrize("kv_len", [16, 32, 33])
def test_rows_of_q_around_a_chunk(kernel, dk, kv_len):
    """Q is packed in chunks of 64 words, and read where it lies for up to 32 keys."""
    problem = Problem("chunk", heads=2, q_len=29, kv_len=kv_len, dk=dk, dv=20,
                      element=kernel.element)  # fmt: skip
    made = operands.make(problem, dk * kv_len)
    cpu_native.run(kernel, made)
    check(made, kernel.name)


@pytest.mark.parametrize("kernel", KERNELS)
def test_same_bits_for_any_number_of_workers(kernel):
    problem = problems.causal(
        Problem("workers", batch=2, heads=4, kv_heads=2, q_len=300, kv_len=700, dk=40,
                element=kernel.element)
    )  # fmt: skip
    made = operands.make(problem, 5)
    results = []
    for workers in (1, 2, 8):
        made.o.buffer[...] = 0
        cpu_native.run(kernel, made, workers=workers)
        results.append(made.o.buffer.copy())
    assert results[0].any()
    np.testing.assert_array_equal(results[0], results[1])
    np.testing.assert_array_equal(results[0], results[2])


@pytest.mark.parametrize("kernel", KERNELS)
def test_a_row_does_not_depend_on_its_batch(kernel):
    problem = Problem(
        "batch", batch=3, heads=2, q_len=40, kv_len=150, dk=32, element=kernel.element
    )
    made = operands.make(problem, 6)
    cpu_native.run(kernel, made)
    for b in range(3):
        alone = operands.make(replace(problem, batch=1), 0)
        for x in "qkv":
            getattr(alone, x).view()[0] = getattr(made, x).view()[b]
        cpu_native.run(kernel, alone)
        np.testing.assert_array_equal(alone.o.view()[0], made.o.view()[b])


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("rows", [3, 30], ids=["few-rows", "many-rows"])
def test_a_bad_query_stays_in_its_row(kernel, value, rows):
    problem = Problem("bad", heads=2, q_len=rows, kv_len=60, dk=16, element=kernel.element)
    made = operands.make(problem, 7)
    bad = made.q.view()
    bad[0, 1, 2, 5] = operands.to_storage(np.array(value), kernel.element)
    cpu_native.run(kernel, made)
    got = made.result()
    assert np.isnan(got[0, 1, 2]).all()
    got[0, 1, 2] = 0
    assert np.isfinite(got).all()
    check(made, kernel.name)


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("magnitude", [1e4, 1e30, 1.5e38])
def test_scores_up_to_the_float_limit(kernel, magnitude):
    """q·k of size `magnitude`: the largest score takes the whole weight and nothing overflows."""
    problem = Problem("limit", q_len=20, kv_len=200, dk=4, scale=1.0, element=kernel.element)
    made = operands.make(problem, 8)
    made.q.view()[...] = 0
    made.k.view()[...] = 0
    made.q.view()[..., 0] = operands.to_storage(np.array(100.0), kernel.element)
    signs = np.random.default_rng(3).permutation(200) * 0.005
    size = min(magnitude / 100, 3e4) if kernel.element == "f16" else magnitude / 100
    made.k.view()[0, 0, :, 0] = operands.to_storage((signs * 2 - 1) * size, kernel.element)
    if kernel.element == "f16":  # the rest of the magnitude comes through the scale
        made.words[:] = operands.words(
            operands.Operands(
                replace(problem, scale=magnitude / 100 / size), made.q, made.k, made.v, made.o
            )
        )
        object.__setattr__(problem, "scale", magnitude / 100 / size)
    cpu_native.run(kernel, made)
    reference = made.reference().out
    assert np.isfinite(made.result()).all()
    np.testing.assert_allclose(made.result(), reference, atol=2e-2 if magnitude == 1e4 else 1e-2)


@pytest.mark.parametrize("kernel", KERNELS)
def test_a_bias_of_infinity_excludes(kernel):
    problem = Problem("inf_bias", q_len=10, kv_len=50, dk=8, bias="f32", element=kernel.element)
    made = operands.make(problem, 9)
    made.bias[..., 13:] = -np.inf
    made.bias[0, 0, 4, :] = -np.inf
    cpu_native.run(kernel, made)
    assert (made.result()[0, 0, 4] == 0).all()
    check_rows = made.reference().out
    np.testing.assert_allclose(
        made.result(), check_rows, atol=2e-2 if kernel.element == "bf16" else 2e-3
    )


@pytest.mark.parametrize("kernel", KERNELS)
def test_many_small_weights_beside_a_large_one(kernel):
    """One visible key with most of the weight, then hundreds of equal small weights (a finite
    fill): added one by one to the large sum, each would be rounded the same way."""
    problem = Problem("small_weights", heads=5, kv_heads=1, q_len=4, kv_len=300, dk=1, dv=256,
                      bias="f32", bias_dims="", band_hi=0, fill=-3.0,
                      element=kernel.element)  # fmt: skip
    made = operands.make(problem, 0)
    cpu_native.run(kernel, made, splits=1)
    check(made, kernel.name)


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("kv_len", [256, 250], ids=["whole-panels", "ragged"])
def test_an_additive_mask_alone(kernel, kv_len):
    """It is added at the end of the product where keys fill panels, else in a pass of its own."""
    problem = Problem("additive", heads=4, kv_heads=2, q_len=70, kv_len=kv_len, dk=24, bias="f32",
                      bias_dims="hqk", element=kernel.element)  # fmt: skip
    made = operands.make(problem, 12)
    cpu_native.run(kernel, made)
    check(made, kernel.name)


def test_the_check_can_fail():
    here = (p.values[0] for p in KERNELS if not p.marks)
    kernel = next(k for k in here if k.element == "f32")  # 16-bit types are stored by their bits
    made = operands.make(problems.find("odd").with_element("f32"), 1)
    cpu_native.run(kernel, made)
    made.o.view()[0, 1, 2, 3] += 1
    with pytest.raises(AssertionError, match="error of O"):
        check(made, kernel.name)
