"""CPU kernels beside PyTorch's SDPA and the machine's own limits, measured in one run.

    python benchmarks/cpu_kernels.py [--problems REGEX] [--element f32] [--threads 1] [--json OUT]

Kernels are called through their C signature, without IREE. Rounds alternate between the kernel
and PyTorch; the table has the fastest round of each and the median ratio. With one thread the
clock is the thread's CPU time, which other processes on the machine disturb least.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "python"), str(ROOT / "tests" / "kernels" / "cpu")]

import cpu_native  # noqa: E402

from iree_flashattn import catalog, operands, problems  # noqa: E402
from iree_flashattn.choosing import splitting  # noqa: E402

READ_BYTES = 512 << 20  # larger than any cache


def clock(threads: int) -> Callable[[], float]:
    return time.thread_time if threads == 1 else time.perf_counter


class Peaks:
    """FMA rates in GFLOP/s and read bandwidth in GB/s, per thread."""

    def __init__(self) -> None:
        self.folder = tempfile.TemporaryDirectory()
        path = Path(self.folder.name) / "peaks.so"
        source = Path(__file__).with_name("peaks.c")
        command = [*cpu_native.ZIG, "cc", "-O3", "-shared", "-fPIC", str(source), "-o", str(path)]
        subprocess.run(command, check=True, capture_output=True)
        self.lib = ctypes.CDLL(str(path))

    def rate(self, name: str, amount: int, *arguments: object) -> float:
        function = getattr(self.lib, name)
        function.restype = ctypes.c_double
        sink = (ctypes.c_float * 64)()
        best = 0.0
        for _ in range(5):
            start = time.thread_time()
            done = function(*arguments, ctypes.c_uint64(amount), sink)
            best = max(best, done / (time.thread_time() - start))
        return best / 1e9

    def measure(self) -> dict[str, float]:
        flags = cpu_native.cpu_flags()
        names = ["fma_neon"] if cpu_native.machine() == "aarch64" else ["fma_avx2"]
        names += ["fma_avx512"] if "avx512f" in flags else []
        names += ["dot_bf16"] if "avx512bf16" in flags else []
        found = {name: self.rate(name, 20_000_000) for name in names}
        data = np.ones(READ_BYTES + 64, np.uint8)
        aligned = data.ctypes.data + -data.ctypes.data % 64
        found["read_gb_s"] = self.rate("read_bytes", READ_BYTES, ctypes.c_void_p(aligned))
        return found


def kernel_call(problem: problems.Problem, made: operands.Operands, variant: str,
                threads: int) -> tuple[str, Callable[[], None]]:  # fmt: skip
    """The kernel that would be chosen, and a call of it with everything allocated beforehand."""
    name = f"fa_forward_{problem.element}_{variant}"
    rows = {row.name: row for row in catalog.kernels("cpu")}
    partial = rows.get(name.replace("forward", "partial"))
    p = problem
    splits = (
        1
        if partial is None
        else splitting.key_ranges(
            partial,
            batch=p.batch,
            heads=p.heads,
            kv_heads=p.kv_heads,
            q_len=p.q_len,
            kv_len=p.kv_len,
        )
    )
    if splits > 1:
        memory = [cpu_native.Scratch.of(partial.working_bytes) for _ in range(threads)]
        return partial.name, lambda: cpu_native.run(
            partial, made, splits=splits, workers=threads, scratch=memory
        )
    kernel = catalog.find(name)
    pointers = [x.buffer.ctypes.data for x in (made.q, made.k, made.v)]
    pointers += [0 if x is None else x.ctypes.data for x in (made.mask, made.bias, made.sinks)]
    pointers += [made.o.buffer.ctypes.data, 0, 0]
    scratch = [cpu_native.Scratch.of(kernel.working_bytes) for _ in range(threads)]
    sizes, lib = cpu_native.sizes_of(made), cpu_native.library()
    return name, lambda: cpu_native.dispatch(
        kernel, pointers, made.words, sizes, threads, scratch, lib
    )


def torch_call(problem: problems.Problem, made: operands.Operands) -> Callable[[], None]:
    import torch

    p = problem
    dtype = {"f32": torch.float32, "f16": torch.float16, "bf16": torch.bfloat16}[p.element]
    q, k, v = (
        torch.from_numpy(operands.from_storage(x.view(), p.element).copy()).to(dtype)
        for x in (made.q, made.k, made.v)
    )
    keywords: dict[str, object] = {"enable_gqa": p.heads != p.kv_heads, "scale": p.effective_scale}
    if p.band_hi == 0:
        keywords["is_causal"] = True
    if made.mask is not None:
        keywords["attn_mask"] = torch.from_numpy((made.mask != 0) == (p.mask == "keep"))
    if made.bias is not None:
        keywords["attn_mask"] = torch.from_numpy(made.bias_values()).to(dtype)

    def call() -> None:
        with torch.inference_mode():
            torch.nn.functional.scaled_dot_product_attention(q, k, v, **keywords)

    return call


def compare(
    calls: dict[str, Callable[[], None]], threads: int, rounds: int
) -> dict[str, list[float]]:
    """Seconds a call, per round; rounds alternate."""
    now = clock(threads)
    repeats = {}
    for name, call in calls.items():
        call()
        start = time.perf_counter()
        call()
        repeats[name] = max(1, int(0.02 / max(time.perf_counter() - start, 1e-6)))
    times: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(rounds):
        for name, call in calls.items():
            start = now()
            for _ in range(repeats[name]):
                call()
            times[name].append((now() - start) / repeats[name])
    return times


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--problems", default="", help="regular expression on problem names")
    parser.add_argument("--element", default="f32", choices=catalog.ELEMENTS)
    parser.add_argument("--variant", default="avx512", help="avx512, avx512bf16, avx2, sse2, neon")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    try:
        import torch

        torch.set_num_threads(options.threads)
    except ImportError:
        torch = None
    machine = Peaks()
    peaks = machine.measure()
    instruction = {"avx512": "fma_avx512", "avx512bf16": "fma_avx512", "neon": "fma_neon"}
    instruction = instruction.get(options.variant, "fma_avx2")
    bandwidth = options.threads * peaks["read_gb_s"]
    print(f"peaks of one thread: {', '.join(f'{k} {v:.0f}' for k, v in peaks.items())}")
    print(
        f"{'problem':22} {'GFLOP/s':>8} {'% FMA':>6} {'GB/s':>6} {'% read':>6} "
        f"{'torch':>8} {'ratio':>6}"
    )
    rows = []
    for problem in problems.benchmark():
        if not re.search(options.problems, problem.name):
            continue
        problem = problem.with_element(options.element)
        made = operands.make(problem, 1)
        name, call = kernel_call(problem, made, options.variant, options.threads)
        calls = {"ours": call}
        if torch is not None:
            calls["torch"] = torch_call(problem, made)
        # The clock moves by a tenth within minutes: the peak is that of the problem's own time.
        peak = machine.rate(instruction, 2_000_000)
        times = compare(calls, options.threads, options.rounds)
        peak = options.threads * max(peak, machine.rate(instruction, 2_000_000))
        ours = min(times["ours"])
        gflops, gbs = (
            problem.flops / ours / 1e9,
            (made.k.buffer.nbytes + made.v.buffer.nbytes) / ours / 1e9,
        )
        row = {
            "problem": problem.name, "kernel": name, "threads": options.threads,
            "seconds": times, "gflops": gflops, "of_fma_peak": gflops / peak,
            "kv_gb_s": gbs, "of_read_peak": gbs / bandwidth,
        }  # fmt: skip
        theirs = ""
        if "torch" in times:
            ratio = statistics.median(
                t / o for t, o in zip(times["torch"], times["ours"], strict=True)
            )
            row["torch_ratio"] = ratio
            theirs = f"{problem.flops / min(times['torch']) / 1e9:8.1f} {ratio:6.2f}"
        rows.append(row)
        ours_text = f"{gflops:8.1f} {gflops / peak:6.0%} {gbs:6.1f} {gbs / bandwidth:6.0%}"
        print(f"{problem.name:22} {ours_text} {theirs}", flush=True)
    if options.json:
        options.json.write_text(
            json.dumps({"peaks": peaks, "rows": rows}, indent=1), encoding="utf-8"
        )


if __name__ == "__main__":
    main()
