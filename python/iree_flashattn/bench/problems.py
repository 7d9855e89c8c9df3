"""The problem list against stock IREE, PyTorch and the machine's own limits, in one run."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .. import operands
from ..compiling import LOCAL, compile_module
from ..operands import Operands, from_storage
from ..problems import Problem, benchmark
from . import modules, running
from .machine import Machine

# Stock's fused op takes seconds for long sequences: it is timed up to this many multiplications.
STOCK_FLOPS = 20e9
UNGATED = {"IREE_FLASHATTN_GATE": "off"}


@dataclass
class Result:
    problem: str
    element: str
    flops: int
    read_bytes: int
    kernel: str
    error: float  # largest, against float64; NaN where the problem is too big for a reference
    seconds: dict[str, float]  # contender -> median

    def speedup(self, over: str) -> float | None:
        return self.seconds[over] / self.seconds["kernel"] if over in self.seconds else None

    @property
    def gflops(self) -> float:
        return self.flops / self.seconds["kernel"] / 1e9

    def as_json(self) -> dict[str, Any]:
        return asdict(self) | {"gflops": self.gflops}


def selected(only: str, elements: list[str]) -> list[Problem]:
    """The servable problems of the list whose name has ``only`` in it; 'tiny' has its own list."""
    rows = tiny() if only == "tiny" else [p for p in benchmark() if only in p.name]
    return [p.with_element(e) for e in elements for p in rows if modules.servable(p)]


def tiny() -> list[Problem]:
    """The shapes around the cost gate's limits."""
    return [
        Problem(f"tiny_h{heads}_s{length}_d{dim}", heads=heads, q_len=length, kv_len=length, dk=dim)
        for heads in (8, 96)
        for length in (1, 4, 8, 16, 32)
        for dim in (8, 32, 64)
    ]


def run(problems: list[Problem], seconds: float, stock: bool) -> Iterator[Result]:
    """One result at a time. Raises RuntimeError where a kernel's result is wrong."""
    for problem in problems:
        yield measure(problem, seconds, stock)


def measure(p: Problem, seconds: float, stock: bool) -> Result:
    made = operands.make(p, np.random.SeedSequence().entropy % 2**32)
    arguments = [running.on_device(x) for x in _arguments(made)]
    done = compile_module(modules.fused(p), LOCAL, options=UNGATED)
    (site,) = done.sites
    if not site["matched"]:
        raise RuntimeError(f"{p.name}: {site['rule']}: {site['reason']}")
    functions = {"kernel": running.load(done.vmfb)}
    if stock and p.flops <= STOCK_FLOPS:
        for name, spelling in (
            ("stock fused", modules.fused),
            ("stock spelled", modules.decomposed),
        ):
            functions[name] = running.load(compile_module(spelling(p), LOCAL, plugin=False).vmfb)
    error = _error(made, functions["kernel"](*arguments))
    calls: dict[str, Callable[[], object]] = {
        name: (lambda f=f: f(*arguments)) for name, f in functions.items()
    }
    if (theirs := torch_call(made)) is not None:
        calls["torch"] = theirs
    times = running.interleaved(calls, seconds, 5)
    return Result(
        p.name,
        p.element,
        p.flops,
        sum(x.buffer.nbytes for x in (made.q, made.k, made.v)),
        site["kernel"],
        error,
        {name: running.median(values) for name, values in times.items()},
    )


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


def _error(made: Operands, result: Any) -> float:
    p = made.problem
    if p.batch * p.heads * p.q_len * p.kv_len > 2**25:  # a float64 score matrix of 256 MB
        return float("nan")
    reference = made.reference().out
    error = float(np.abs(running.to_float(result) - reference).max())
    limit = {"f32": 2e-5, "f16": 5e-3, "bf16": 4e-2}[p.element]
    if not error <= limit * max(1.0, float(np.abs(reference).max())):
        raise RuntimeError(f"{p.name} {p.element}: wrong by {error:.3g}")
    return error


def torch_call(made: Operands) -> Callable[[], object] | None:
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


def limit(result: Result, machine: Machine) -> tuple[float, str]:
    """How much of what the machine can do was reached, and which limit it is."""
    seconds = result.seconds["kernel"]
    compute = result.flops / seconds / 1e9 / machine.fma_gflops
    memory = result.read_bytes / seconds / 1e9 / machine.read_gbps
    return (compute, "FMA peak") if compute >= memory else (memory, "bandwidth")
