"""Device time of one attention inside a module that the stock IREE runtime runs.

    python benchmarks/cuda/through_iree.py compile FOLDER      needs the compiler, no GPU
    python benchmarks/cuda/through_iree.py run FOLDER          needs the runtime and a GPU

A module chains 1 or 9 attentions (the output of one is the Q of the next); the slope between the
two is the time of one dispatch, free of what a call costs. With and without the plugin.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path
from statistics import median

import numpy as np

ROOT = Path(__file__).resolve().parents[2]
sys.path += [str(ROOT / "python"), str(ROOT / "tests" / "kernels" / "cuda")]

from carried import FLAGS, Runtime  # noqa: E402

SHAPES = {"d128": (2, 16, 8192, 128), "d64": (2, 32, 8192, 64)}  # batch, heads, length, head dim
COUNTS = (1, 9)


def module(shape: tuple[int, ...], count: int) -> str:
    kind = f"tensor<{'x'.join(map(str, shape))}xf16>"
    maps = ", ".join(
        f"affine_map<(b, h, m, n, k, s) -> ({dims})>"
        for dims in ("b, h, m, k", "b, h, s, k", "b, h, s, n", "", "b, h, m, n")
    )
    lines = [
        f"%r{i + 1} = iree_linalg_ext.attention <indexing_maps = [{maps}]>"
        f" ins(%r{i}, %k, %v, %scale : {kind}, {kind}, {kind}, f32) outs(%init : {kind})"
        f" {{ ^bb0(%s: f32): iree_linalg_ext.yield %s : f32 }} -> {kind}"
        for i in range(count)
    ]
    body = "\n  ".join(lines)
    return f"""func.func @attention(%r0: {kind}, %k: {kind}, %v: {kind}) -> {kind} {{
  %scale = arith.constant {shape[-1] ** -0.5:.8f} : f32
  %init = tensor.empty() : {kind}
  {body}
  return %r{count} : {kind}
}}"""


def compile_all(folder: Path) -> None:
    from iree_flashattn.compiling import compile_module

    folder.mkdir(parents=True, exist_ok=True)
    for name, shape in SHAPES.items():
        for count in COUNTS:
            for plugin in (True, False):
                done = compile_module(module(shape, count), FLAGS, plugin)
                kind = "ours" if plugin else "stock"
                (folder / f"{name}_{count}_{kind}.vmfb").write_bytes(done.vmfb)
                print(name, count, kind, {site["kernel"] for site in done.sites})


def seconds(runtime: Runtime, vmfb: Path, shape: tuple[int, ...], rounds: int) -> float:
    rng = np.random.default_rng(0)
    inputs = [
        runtime.upload(rng.standard_normal(shape, np.float32).astype(np.float16), "f16")
        for _ in range(3)
    ]
    call = runtime.function(vmfb)
    times = []
    for _ in range(rounds + 1):
        start = time.perf_counter()
        call(inputs)
        times.append(time.perf_counter() - start)
    return median(times[1:])


def run_all(folder: Path, device: str) -> None:
    runtime = Runtime(device)
    for name, shape in SHAPES.items():
        for kind, rounds in (("ours", 15), ("stock", 3)):
            one, many = (
                seconds(runtime, folder / f"{name}_{n}_{kind}.vmfb", shape, rounds) for n in COUNTS
            )
            each = (many - one) / (COUNTS[1] - COUNTS[0])
            flops = 4 * shape[0] * shape[1] * shape[2] ** 2 * shape[3]
            print(f"{name} {kind}: {each * 1e3:.3f} ms a dispatch, {flops / each / 1e12:.1f} TF/s")
            print(f"    {one * 1e3:.3f} ms a call of one")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=("compile", "run"))
    parser.add_argument("folder", type=Path)
    parser.add_argument("--device", default="cuda")
    options = parser.parse_args()
    if options.what == "compile":
        compile_all(options.folder)
    else:
        run_all(options.folder, options.device)


if __name__ == "__main__":
    main()
