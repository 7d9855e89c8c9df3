"""Tiny shapes, kernels against stock IREE's two forms: what the cost gate's limits are set by.

    python benchmarks/cpu_gate.py --modules DIR [--seconds 0.4] [--only REGEX]

All shapes are functions of three modules (kernels without the gate, stock fused, stock spelled
out), which DIR keeps: ``--seconds 0`` compiles them and measures nothing, so that the machine can
be quiet for the rest. Contenders take turns of a few milliseconds. The table has the time that a
quarter of the calls stayed below (other work on the machine only ever adds), how many times faster
than each form of stock's the kernel is, what the gate says of a site in that form, and "!" where by
more than 5 % it should say the opposite.
"""

from __future__ import annotations

import argparse
import re
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "python"))

from iree_flashattn import operands
from iree_flashattn.bench import machine, modules, running
from iree_flashattn.bench.problems import UNGATED
from iree_flashattn.choosing import gate
from iree_flashattn.compiling import LOCAL, compile_module
from iree_flashattn.problems import Problem

HEADS = (1, 8, 32, 96)
DIMS = (32, 64, 128)
SIZES = [(n, n) for n in (1, 4, 8, 16, 32, 64)] + [(1, n) for n in (8, 32, 128, 512)]
TURN_SECONDS = 0.003
LONG_SECONDS = 0.05
CALLS = 20
CONTENDERS: dict[str, Callable[[Problem, str], str]] = {
    "kernel": modules.fused,
    "fused": modules.fused,
    "spelled": modules.decomposed,
}


def shapes(only: str) -> list[Problem]:
    found = [
        Problem(f"h{heads}_q{q}_k{k}_d{dim}", heads=heads, q_len=q, kv_len=k, dk=dim, element="f32")
        for heads in HEADS
        for q, k in SIZES
        for dim in DIMS
    ]
    return [p for p in found if re.search(only, p.name)]


def compiled(name: str, problems: list[Problem], folder: Path) -> bytes:
    file = folder / f"{name}.vmfb"
    if not file.is_file():
        source = "\n".join(CONTENDERS[name](p, p.name) for p in problems)
        done = compile_module(source, LOCAL, plugin=name == "kernel", options=UNGATED)
        if name == "kernel" and not all(site["matched"] for site in done.sites):
            raise RuntimeError("a shape is not served")
        file.write_bytes(done.vmfb)
    return file.read_bytes()


def wrong(p: Problem, ratio: dict[str, float], wide: bool) -> str:
    """What the gate says of each form; "!" behind it where it should say the opposite."""
    size = (p.batch * p.heads, p.q_len, p.kv_len, p.dk + p.dv, wide)
    found = []
    for name, faster in (("fused", gate.fused_is_faster), ("spelled", gate.spelled_is_faster)):
        stock = faster(*size)
        mark = "!" if (ratio[name] > 1.05 if stock else ratio[name] < 0.95) else " "
        found.append(f"{ratio[name]:7.2f} {'stock' if stock else 'kernel':6}{mark}")
    return " ".join(found)


def quarters(calls: dict[str, Callable[[], object]], seconds: float) -> dict[str, float]:
    """The lower quartile of each contender's calls; of one that takes long a single call."""
    found: dict[str, list[float]] = {}
    for name, call in calls.items():
        call()
        found[name] = [timed(call)]
    short = [name for name, times in found.items() if times[0] < LONG_SECONDS]
    start = time.perf_counter()
    while time.perf_counter() - start < seconds or len(found["kernel"]) < CALLS:
        for name in short:
            turn = time.perf_counter()
            while time.perf_counter() - turn < TURN_SECONDS:
                found[name].append(timed(calls[name]))
    return {name: float(np.quantile(times, 0.25)) for name, times in found.items()}


def timed(call: Callable[[], object]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def measure(p: Problem, loaded: dict[str, Any], seconds: float) -> str:
    made = operands.make(p, 1)
    arguments = [
        running.on_device(np.ascontiguousarray(x.view())) for x in (made.q, made.k, made.v)
    ]
    calls = {name: lambda f=module[p.name]: f(*arguments) for name, module in loaded.items()}
    times = quarters(calls, seconds)
    ratio = {name: times[name] / times["kernel"] for name in ("fused", "spelled")}
    micro = " ".join(f"{times[name] * 1e6:9.1f}" for name in CONTENDERS)
    macs = p.q_len * p.kv_len * (p.dk + p.dv)
    wide = "avx512f" in machine.target_of().features
    return f"{p.name:18} {p.batch * p.heads:5} {macs:8} {micro} {wrong(p, ratio, wide)}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--modules", type=Path, required=True)
    parser.add_argument("--seconds", type=float, default=0.4)
    parser.add_argument("--only", default="")
    parser.add_argument("--workers", type=int, default=0)
    options = parser.parse_args()
    options.modules.mkdir(parents=True, exist_ok=True)
    vmfbs = {name: compiled(name, shapes(""), options.modules) for name in CONTENDERS}
    if not options.seconds:
        return
    if options.workers:
        running.use_workers(options.workers)
    running.yield_to_workers()
    loaded = {name: running.load_all(vmfb) for name, vmfb in vmfbs.items()}
    names = " ".join(f"{name:>9}" for name in CONTENDERS)
    print(f"{'shape':18} heads     macs {names}  x fused, gate   x spelled, gate")
    for p in shapes(options.only):
        print(measure(p, loaded, options.seconds), flush=True)


if __name__ == "__main__":
    main()
