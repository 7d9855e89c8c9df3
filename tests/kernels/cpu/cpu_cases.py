"""Shared by the CPU kernel tests: which kernels run here, and how errors are judged."""

from __future__ import annotations

import cpu_native
import numpy as np
import pytest
import torch

from iree_flashattn import catalog
from iree_flashattn.operands import Operands, from_storage
from iree_flashattn.problems import Problem

# On top of twice PyTorch's error, relative to the largest result (at least 1): a few roundings, for
# small problems in which PyTorch happens to make none.
TINY = {"f32": 1e-6, "f16": 2e-4, "bf16": 2e-3}
TORCH = {"f32": torch.float32, "f16": torch.float16, "bf16": torch.bfloat16}


def attending() -> list:
    """Every row that computes attention, skipped with its reason where the machine lacks it, and
    the doubles."""
    rows = []
    for kernel in (*catalog.kernels("cpu"), *cpu_native.doubles()):
        if kernel.role == "combine" or kernel.target["arch"] != cpu_native.machine():
            continue
        reason = cpu_native.why_not(kernel)
        marks = [pytest.mark.skip(reason=reason)] if reason else []
        rows.append(pytest.param(kernel, id=kernel.name, marks=marks))
    return rows


def serves(kernel: catalog.Kernel, problem: Problem) -> bool:
    if not problem.features <= kernel.features or not kernel.head_dim.serves(
        problem.dk, problem.dv
    ):
        return False
    return kernel.role == "forward" or not problem.weights


def torch_result(made: Operands) -> tuple[np.ndarray, ...]:
    """(O, P, LSE) by PyTorch on the same operands: f32 arithmetic and results of the element type,
    which is what its own SDPA does for the 16-bit types."""
    p = made.problem
    q, k, v = (
        torch.from_numpy(from_storage(x.view(), p.element).copy()) for x in (made.q, made.k, made.v)
    )
    group = p.heads // p.kv_heads
    k, v = k.repeat_interleave(group, 1), v.repeat_interleave(group, 1)
    s = q @ k.transpose(-1, -2) * p.effective_scale
    if p.softcap is not None:
        s = p.softcap * torch.tanh(s / p.softcap)
    bias = made.bias_values()
    if bias is not None and not p.bias_after_fill:
        s = s + torch.from_numpy(bias)
    distance = torch.arange(p.kv_len)[None, :] - torch.arange(p.q_len)[:, None]
    out = torch.zeros((p.q_len, p.kv_len), dtype=torch.bool)
    if p.band_lo is not None:
        out |= distance < p.band_lo
    if p.band_hi is not None:
        out |= distance > p.band_hi
    if made.mask is not None:
        out = out | torch.from_numpy((made.mask != 0) if p.mask == "drop" else (made.mask == 0))
    s = s.masked_fill(out, p.fill)
    if bias is not None and p.bias_after_fill:
        s = s + torch.from_numpy(bias)
    lse = torch.logsumexp(s, -1).numpy()
    if made.sinks is not None:
        sink = torch.from_numpy(made.sinks).reshape(1, -1, 1, 1).expand(*s.shape[:3], 1)
        weights = torch.softmax(torch.cat([s, sink], -1), -1)[..., :-1]
    else:
        weights = torch.softmax(s, -1)
    rounded = [x.to(TORCH[p.element]).float().numpy() for x in (weights @ v, weights)]
    return *rounded, lse


def check(made: Operands, kernel_name: str) -> None:
    """Maximum error at most twice PyTorch's, NaNs exactly where the reference has them."""
    p = made.problem
    theirs, reference = torch_result(made), made.reference()
    results = {"O": (made.result(), reference.out, theirs[0])}
    if p.weights:
        results["P"] = (made.result_weights(), reference.weights, theirs[1])
    if p.lse:
        results["LSE"] = (made.lse, reference.lse, theirs[2])
    for name, (got, exact, other) in results.items():
        np.testing.assert_array_equal(np.isnan(got), np.isnan(exact), err_msg=f"NaNs of {name}")
        np.testing.assert_array_equal(np.isinf(got), np.isinf(exact), err_msg=f"inf in {name}")
        finite = np.isfinite(exact)
        if not finite.any():
            continue
        element = "f32" if name == "LSE" else p.element
        got, exact, other = got[finite], exact[finite], other[finite]
        with np.errstate(invalid="ignore"):
            error = np.max(np.abs(got - exact))
            limit = 2 * np.nanmax(np.abs(other - exact), initial=0)
            limit += TINY[element] * np.max(np.abs(exact), initial=1)
        assert error <= limit, (
            f"{kernel_name} on {p}: error of {name} is {error:.3g}, "
            f"the limit (twice PyTorch's) {limit:.3g}"
        )
