"""One problem against stock IREE, PyTorch and the machine's own limits, all in turns."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .. import operands
from ..compiling import LOCAL, Compiled, CompileError, compile_module, compile_with_family
from ..operands import Operands, from_storage
from . import modules, running
from .goals import Case, Goal
from .machine import fma_probe, read_probe
from .results import Result

UNGATED = {"IREE_FLASHATTN_GATE": "off"}
SPELLINGS = {"stock fused": modules.fused, "stock spelled": modules.decomposed}
# Operations over which stock's forms are left out: the fused op computes 6e9 a second.
STOCK_FLOPS = {"stock fused": 40e9, "stock spelled": 200e9}
# Compared with float64: so many rows at the start and at the end.
CHECKED_ROWS = 16
LIMITS = {"f32": 2e-5, "f16": 5e-3, "bf16": 4e-2}
# Of few rows (decode) the time is that of reading K and V.
FEW_ROWS = 8

Call = Callable[[], Any]


def measure(goal: Goal, case: Case, seconds: float, stock: bool = True) -> Result:
    """Raises RuntimeError where the kernel's result is wrong or there is no kernel."""
    p = case.problem
    made = operands.make(p, np.random.SeedSequence().entropy % 2**32)
    done = compiled(case)
    calls: dict[str, Call] = {"kernel": iree_call(done.vmfb, made)}
    notes: list[str] = []
    if (theirs := torch_call(made)) is not None:
        calls["torch"] = theirs
    if stock and not case.family:
        for name, spelling in SPELLINGS.items():
            if p.flops > STOCK_FLOPS[name]:
                continue
            try:
                vmfb = compile_module(spelling(p), LOCAL, plugin=False).vmfb
            except CompileError:
                notes.append(f"{name} does not compile")
            else:
                calls[name] = iree_call(vmfb, made)
    expected = references(made)
    errors = {name: error_of(call(), expected) for name, call in calls.items()}
    for name in [name for name, error in errors.items() if not error <= LIMITS[p.element]]:
        if name == "kernel":
            raise RuntimeError(f"{case.name}: the kernel is wrong by {errors[name]:.3g}")
        notes.append(f"{name} is wrong by {errors[name]:.2g}")
        del calls[name]
    helpers, amount = _helpers(goal, case, made, done)
    times = running.interleaved(calls | helpers, seconds, 5)
    return Result(
        goal.name,
        case.name,
        done.sites[0]["kernel"],
        p.flops,
        sum(x.buffer.nbytes for x in (made.q, made.k, made.v)),
        {name: running.median(values) for name, values in times.items()},
        {name: running.ratio(times, name, "kernel") for name in times if name != "kernel"},
        amount,
        {name: float(f"{error:.3g}") for name, error in errors.items()},
        notes,
    )


def compiled(case: Case) -> Compiled:
    source = modules.fused(case.problem)
    if case.family:
        done = compile_with_family(source, case.family)
    else:
        done = compile_module(source, LOCAL, options=UNGATED | running.link_options())
    (site,) = done.sites
    if not site["matched"]:
        raise RuntimeError(f"{case.name}: {site['rule']}: {site['reason']}")
    return done


def _helpers(
    goal: Goal, case: Case, made: Operands, done: Compiled
) -> tuple[dict[str, Call], dict[str, float]]:
    """What the kernel is compared with besides other implementations, and what each does."""
    calls: dict[str, Call] = {}
    amount: dict[str, float] = {}
    if case.problem.q_len <= FEW_ROWS:
        calls["read"], amount["read"] = read_probe().call, read_probe().amount
    else:
        probe = fma_probe(case.family)
        calls["fma"], amount["fma"] = probe.call, probe.amount
    if case.baseline is not None:
        other = operands.make(case.baseline, 0)
        calls["baseline"] = iree_call(compiled(Case(case.baseline)).vmfb, other)
        amount["baseline"] = case.baseline.flops
    if "one worker" in goal.measures:
        calls["one worker"] = iree_call(done.vmfb, made, workers=1)
    return calls, amount


def iree_call(vmfb: bytes, made: Operands, workers: int = 0) -> Call:
    function = running.load(vmfb, workers=workers)
    arguments = [running.on_device(x, workers) for x in _arguments(made)]
    return lambda: function(*arguments)


def _arguments(made: Operands) -> list[NDArray]:
    p = made.problem
    found = [np.ascontiguousarray(x.view()) for x in (made.q, made.k, made.v)]
    if p.element == "bf16":
        import ml_dtypes

        found = [x.view(ml_dtypes.bfloat16) for x in found]
    if made.mask is not None:
        found.append(made.mask != 0)
    if made.bias is not None:
        found.append(made.bias)
    return found


def references(made: Operands) -> list[tuple[slice, NDArray[np.float64]]]:
    """The first and the last rows of the result, in float64."""
    parts = [slice(0, CHECKED_ROWS), slice(-CHECKED_ROWS, None)]
    if made.problem.q_len <= CHECKED_ROWS:
        del parts[1:]
    return [(rows, made.reference(rows).out) for rows in parts]


def error_of(result: Any, expected: list[tuple[slice, NDArray[np.float64]]]) -> float:
    """The largest error, in units of the largest value."""
    found = running.to_float(result) if hasattr(result, "to_host") else result.double().numpy()
    return max(
        float(np.abs(found[:, :, rows] - part).max() / max(1.0, np.abs(part).max()))
        for rows, part in expected
    )


def torch_call(made: Operands) -> Call | None:
    """PyTorch's SDPA on the same operands (its flash kernel), where PyTorch is installed."""
    try:
        import torch
    except ImportError:
        return None
    p = made.problem
    dtype = {"f32": torch.float32, "f16": torch.float16, "bf16": torch.bfloat16}[p.element]
    q, k, v = (
        torch.from_numpy(from_storage(x.view(), p.element).copy()).to(dtype)
        for x in (made.q, made.k, made.v)
    )
    options: dict[str, Any] = {"enable_gqa": p.heads != p.kv_heads, "scale": p.effective_scale}
    if p.band_hi == 0:
        options["is_causal"] = True
    elif made.mask is not None:
        options["attn_mask"] = torch.from_numpy(made.mask != 0)
    elif made.bias is not None:
        options["attn_mask"] = torch.from_numpy(np.array(made.bias_values())).to(dtype)
    sdpa = torch.nn.functional.scaled_dot_product_attention
    return lambda: sdpa(q, k, v, **options)
