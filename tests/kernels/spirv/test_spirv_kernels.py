"""Every Vulkan kernel that this machine's device can run, on every problem it serves."""

from __future__ import annotations

import os
import subprocess
import sys

import numpy as np
import pytest
import spirv_device
from spirv_cases import attending, check, check_problems

from iree_flashattn import operands, problems
from iree_flashattn.problems import Problem

KERNELS = attending()


@pytest.mark.parametrize("kernel", KERNELS)
def test_problems(kernel):
    """One test a kernel: a device compiles a kernel once, which takes longer than all problems."""
    check_problems(kernel)


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
    problem = Problem("bad", heads=2, q_len=30, kv_len=60, dk=16, element=kernel.element,
                      weights="weights" in kernel.features)  # fmt: skip
    made = operands.make(problem, 7)
    made.q.view()[0, 1, 2, 5] = operands.to_storage(np.array(value), kernel.element)
    spirv_device.run(kernel, made)
    got = made.result()
    assert np.isnan(got[0, 1, 2]).all()
    got[0, 1, 2] = 0
    assert np.isfinite(got).all()


# Row, keys and head dim for which lavapipe has too few turns of loops, given a mask.
LONG = {
    "fa_forward_f32_lane8_units_d64": (70_000, 8),
    "fa_forward_f32_lane8_d64": (70_000, 8),
    "fa_forward_f32_lane8_d64_weights": (40_000, 8),
    "fa_forward_f32_tile_d256": (5_000, 256),
    "fa_partial_f32_packed_d256": (5_000, 256),
}


@pytest.mark.parametrize("kernel", [k for k in KERNELS if k.values[0].name in LONG])
def test_too_many_keys_are_right_or_not_a_number(kernel):
    keys, dim = LONG[kernel.name]
    problem = Problem("long", q_len=3, kv_len=keys, dk=dim, mask="keep", mask_dims="k",
                      weights="weights" in kernel.features, lse="inf")  # fmt: skip
    made = operands.make(problem.with_element(kernel.element), 11)
    spirv_device.run(kernel, made, 1)
    if np.isnan(made.result()).all() and np.isnan(made.lse).all():
        assert not problem.weights or np.isnan(made.result_weights()[..., 0]).all()
    else:
        check(made, kernel.name)


FOUR_LANES = """
import sys, spirv_device
from spirv_cases import check_problems
from iree_flashattn import catalog
for kernel in map(catalog.find, sys.argv[1:]):
    if reason := spirv_device.why_not(kernel):
        sys.exit(reason)
    check_problems(kernel)
"""


def test_rows_for_four_lanes():
    """lavapipe has subgroups of 4 where vectors have 128 bits, which can be asked for."""
    if reason := spirv_device.why_no_device():
        pytest.skip(reason)
    names = ["fa_forward_f32_lane4_d64", "fa_forward_f16_lane4_d64_weights"]
    spirv_device.release()  # it would take the other process's time
    variables = {"LP_NATIVE_VECTOR_WIDTH": "128", "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(
        [sys.executable, "-c", FOUR_LANES, *names],
        env=os.environ | variables,
        capture_output=True,
        text=True,
        timeout=600,
    )
    if "not of [4]" in done.stderr:
        pytest.skip(done.stderr.strip())
    assert done.returncode == 0, done.stderr


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
