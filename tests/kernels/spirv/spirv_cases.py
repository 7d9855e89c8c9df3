"""Which Vulkan kernels run here, and on what."""

from __future__ import annotations

import zlib
from dataclasses import replace

import numpy as np
import pytest
import spirv_device
from cpu_cases import torch_result

from iree_flashattn import catalog, operands
from iree_flashattn.operands import Operands
from iree_flashattn.problems import Problem, causal, small
from support.accuracy import TINY, largest_error


def attending() -> list:
    """Every row that computes attention, skipped with its reason where the device lacks it."""
    rows = []
    for kernel in catalog.kernels("spirv"):
        if kernel.role == "combine":
            continue
        reason = spirv_device.why_not(kernel)
        marks = [pytest.mark.skip(reason=reason)] if reason else []
        rows.append(pytest.param(kernel, id=kernel.name, marks=marks))
    spirv_device.release()  # every process that collects tests comes by
    return rows


def all_problems() -> list[Problem]:
    """The shared list, and shapes at the seams of these kernels' tiles."""
    P = Problem
    return [
        *small(),
        P("many_tiles", heads=2, q_len=130, kv_len=300, dk=64),
        causal(P("gqa_causal", batch=2, heads=4, kv_heads=2, q_len=70, kv_len=160, dk=64, dv=32),
               align="bottom-right"),
        P("negative_scale", heads=2, q_len=20, kv_len=140, dk=32, scale=-0.3),
        P("dim_128", batch=2, heads=2, q_len=70, kv_len=100, dk=128, layout="bshd"),
        P("decode_group", batch=2, heads=10, kv_heads=2, q_len=3, kv_len=200, dk=64),
        P("weights_window", batch=2, heads=2, q_len=70, kv_len=130, dk=64, band_hi=60, band_lo=31,
          weights=True),
        P("weights_wide", heads=4, kv_heads=2, q_len=20, kv_len=70, dk=200, dv=136, weights=True),
        P("weights_sinks", heads=2, q_len=35, kv_len=67, dk=16, band_hi=40, fill=-2.0, sinks=True,
          weights=True),
        P("weights_empty_nan", heads=2, q_len=25, kv_len=74, dk=16, mask="drop", mask_dims="q",
          empty_row_nan=True, weights=True, lse="nan"),
        P("decode_lse", batch=2, heads=4, kv_heads=2, q_len=3, kv_len=200, dk=64, sinks=True,
          band_hi=-2, lse="inf"),
        P("decode_band", heads=4, kv_heads=1, q_len=5, kv_len=300, dk=64, band_hi=290, band_lo=20),
        replace(P("decode_everything", heads=4, kv_heads=2, q_len=2, kv_len=90, dk=64), mask="keep",
                mask_dims="bk", bias="element", softcap=4.0, sinks=True, band_hi=80, band_lo=3),
    ]  # fmt: skip


def serves(kernel: catalog.Kernel, problem: Problem) -> bool:
    p = problem
    if not p.features <= kernel.features or not kernel.head_dim.serves(p.dk, p.dv):
        return False
    if "weights" in kernel.features and not p.weights:  # such a row has one more binding
        return False
    return p.q_len <= (kernel.rows_max or p.q_len)


def fits(kernel: catalog.Kernel, made: Operands) -> bool:
    """What depends on the operands as they lie in memory."""
    unit = kernel.extra.get("unit_bytes", 0) // made.k.buffer.itemsize
    if unit and any(
        x.transposed or any(step % unit for step in (*x.strides, x.offset, x.shape[-1]))
        for x in (made.k, made.v)
    ):
        return False
    if not kernel.extra.get("whole_words"):
        return True
    buffers = [x.buffer for x in (made.q, made.k, made.v, made.o)]
    buffers += [made.mask, made.bias, made.weights]
    return all(x is None or x.nbytes % 4 == 0 for x in buffers)


def check_problems(kernel: catalog.Kernel) -> None:
    """The row is right on every problem of the list that it serves, and those are not few."""
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
    assert served >= 5, f"{kernel.name} serves next to nothing of the list"


def check(made: Operands, kernel_name: str) -> None:
    """Errors of O, P and LSE at most twice PyTorch's. (Vulkan allows exp2 an error of several ULP,
    hence the end-to-end tests' tiny term.) NaNs exactly where the reference has them."""
    exact, theirs = made.reference(), torch_result(made)
    results = {"O": (made.result(), exact.out, theirs[0])}
    if made.weights is not None:
        results["P"] = (made.result_weights(), exact.weights, theirs[1])
    if made.lse is not None:
        results["LSE"] = (made.lse, exact.lse, theirs[2])
    for name, (got, wanted, other) in results.items():
        known = np.isfinite(wanted) & np.isfinite(other)  # PyTorch may have NaN where we promise 0
        limit = 2 * largest_error(other[known], wanted[known])
        tiny = TINY["f32" if name == "LSE" else made.problem.element]
        error = largest_error(got, wanted)
        assert error <= limit + tiny * max(1.0, np.max(np.abs(wanted[known]), initial=0)), (
            f"{kernel_name} on {made.problem}: error of {name} is {error:.3g}, twice PyTorch's"
            f" {limit:.3g}"
        )
