"""Random programs through iree-compile, with the flag and without, and the runtime."""

from __future__ import annotations

from dataclasses import dataclass, field

import iree.runtime as rt
import numpy as np

from fuzzing.cases import Case, make_case
from iree_flashattn.compiling import compile_module


@dataclass
class Outcome:
    substituted: int = 0
    wrong: list[str] = field(default_factory=list)


def run_compiled(first: int, count: int, dynamic: bool = False) -> Outcome:
    """Compiles ``count`` programs as one module, runs each, and compares with NumPy's float64."""
    seeds = list(range(first, first + count))
    cases = [make_case(seed, dynamic) for seed in seeds]
    text = "module {\n" + "".join(c.net.function(c.results) for c in cases) + "}\n"
    fast = compile_module(text, options={"IREE_FLASHATTN_GATE": "off"})
    stock = compile_module(text, plugin=False)
    outcome = Outcome(sum(site["matched"] for site in fast.sites))
    got = _run(fast.vmfb, cases)
    plain = _run(stock.vmfb, cases)
    for seed, case, with_flag, without in zip(seeds, cases, got, plain, strict=True):
        for i, (value, other, wanted) in enumerate(
            zip(with_flag, without, case.results, strict=True)
        ):
            problem = _difference(value, other, wanted.array)
            if problem:
                outcome.wrong.append(f"seed {seed}, result {i}: {problem} {case.notes}")
    return outcome


def _run(vmfb: bytes, cases: list[Case]) -> list[list[np.ndarray]]:
    config = rt.Config("local-sync")
    context = rt.SystemContext(config=config)
    context.add_vm_module(rt.VmModule.copy_buffer(config.vm_instance, vmfb))
    module = next(m for name, m in context.modules.items() if name != "hal")
    found = []
    for case in cases:
        kinds = {"i1": np.bool_, "f32": np.float32}
        inputs = [
            int(x.array) if x.dtype == "index" else x.array.astype(kinds[x.dtype])
            for x in case.net.inputs
        ]
        outputs = module[case.net.name](*inputs)
        outputs = outputs if isinstance(outputs, tuple | list) else [outputs]
        found.append([np.asarray(o.to_host(), dtype=np.float64) for o in outputs])
    return found


def _difference(value: np.ndarray, stock: np.ndarray, wanted: np.ndarray) -> str:
    """The result is as close to float64 as the stock compiler's, and finite in the same places.

    Where f32 overflows and float64 does not, the stock program decides.
    """
    finite = np.isfinite(wanted) & np.isfinite(stock)
    if not np.isfinite(value[finite]).all():
        return "not finite where stock and NumPy are"
    if not finite.any():
        return ""
    scale = max(1.0, float(np.abs(wanted[finite]).max()))
    error = float(np.abs(value - wanted)[finite].max()) / scale
    usual = float(np.abs(stock - wanted)[finite].max()) / scale
    return "" if error <= 2 * usual + 2e-5 else f"error {error:.2g}, stock {usual:.2g}"
