"""Every Vulkan kernel that this machine's device can run, on every problem it serves."""

from __future__ import annotations

import zlib

import numpy as np
import pytest
import spirv_device
from spirv_cases import all_problems, attending, check, fits, serves

from iree_flashattn import operands, problems
from iree_flashattn.problems import Problem

KERNELS = attending()


@pytest.mark.parametrize("kernel", KERNELS)
def test_problems(kernel):
    """One test a kernel: a device compiles a kernel once, which takes longer than all problems."""
    served = 0
    for problem in all_problems():
        problem = problem.with_element(kernel.element)
        if not serves(kernel, problem):
            continue
        made = operands.make(problem, zlib.crc32(f"{kernel.name} {problem.name}".encode()))
        if not fits(kernel, made):
            continue
        served += 1
        spirv_device.run(kernel, made)
        check(made, kernel.name)
    assert served >= 5, "the row serves next to nothing of the list"


@pytest.mark.parametrize("kernel", [k for k in KERNELS if k.values[0].role == "partial"])
@pytest.mark.parametrize("splits", [1, 2, 7, 64])
def test_any_number_of_ranges(kernel, splits):
    problem = Problem("splits", batch=2, heads=4, kv_heads=2, q_len=2, kv_len=101, dk=40,
                      sinks=True, element=kernel.element)  # fmt: skip
    made = operands.make(problem, splits)
    spirv_device.run(kernel, made, splits)
    check(made, kernel.name)


@pytest.mark.parametrize("kernel", [k for k in KERNELS if k.values[0].role == "forward"])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_bad_query_stays_in_its_row(kernel, value):
    problem = Problem("bad", heads=2, q_len=30, kv_len=60, dk=16, element=kernel.element)
    made = operands.make(problem, 7)
    made.q.view()[0, 1, 2, 5] = operands.to_storage(np.array(value), kernel.element)
    spirv_device.run(kernel, made)
    got = made.result()
    assert np.isnan(got[0, 1, 2]).all()
    got[0, 1, 2] = 0
    assert np.isfinite(got).all()


LANE = [k for k in KERNELS if k.values[0].name == "fa_forward_f32_lane8_d64"]


@pytest.mark.parametrize("kernel", LANE)
def test_too_many_keys_are_right_or_not_a_number(kernel):
    """With a mask, which costs the most turns of loops, of which lavapipe has a limited number."""
    problem = Problem("long", q_len=3, kv_len=70_000, dk=8, mask="keep", mask_dims="k")
    made = operands.make(problem.with_element(kernel.element), 11)
    spirv_device.run(kernel, made)
    if not np.isnan(made.result()).all():
        check(made, kernel.name)


def test_the_check_can_fail():
    kernel = next(p.values[0] for p in KERNELS if not p.marks) if _any() else None
    if kernel is None:
        pytest.skip("no Vulkan kernel runs here")
    made = operands.make(problems.find("tiny_issue").with_element(kernel.element), 1)
    spirv_device.run(kernel, made)
    made.o.view()[0, 1, 2, 3] += 1
    with pytest.raises(AssertionError, match="error of O"):
        check(made, kernel.name)


def _any() -> bool:
    return any(not p.marks for p in KERNELS)
