"""Which Vulkan kernels run here, and on what."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import spirv_device
from cpu_cases import torch_result

from iree_flashattn import catalog
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
        P("decode_band", heads=4, kv_heads=1, q_len=5, kv_len=300, dk=64, band_hi=290, band_lo=20),
        replace(P("decode_everything", heads=4, kv_heads=2, q_len=2, kv_len=90, dk=64), mask="keep",
                mask_dims="bk", bias="element", softcap=4.0, sinks=True, band_hi=80, band_lo=3),
    ]  # fmt: skip


def serves(kernel: catalog.Kernel, problem: Problem) -> bool:
    p = problem
    if not p.features <= kernel.features or not kernel.head_dim.serves(p.dk, p.dv):
        return False
    if p.q_len > (kernel.rows_max or p.q_len):
        return False
    return not kernel.extra.get("aligned") or p.padding % 8 == 0


def fits(kernel: catalog.Kernel, made: Operands) -> bool:
    """What depends on the operands as they lie in memory."""
    if not kernel.extra.get("whole_words"):
        return True
    buffers = [made.q.buffer, made.k.buffer, made.v.buffer, made.o.buffer, made.mask, made.bias]
    return all(x is None or x.nbytes % 4 == 0 for x in buffers)


def check(made: Operands, kernel_name: str) -> None:
    """Error of O at most twice PyTorch's. (Vulkan allows exp2 an error of several ULP, hence the
    end-to-end tests' tiny term.) NaNs exactly where the reference has them."""
    exact = made.reference().out
    theirs, known = torch_result(made)[0], np.isfinite(exact)
    known &= np.isfinite(theirs)  # PyTorch may have NaN where we promise 0
    limit = 2 * largest_error(theirs[known], exact[known])
    error = largest_error(made.result(), exact)
    assert error <= limit + TINY[made.problem.element], (
        f"{kernel_name} on {made.problem}: error of O is {error:.3g}, twice PyTorch's {limit:.3g}"
    )
