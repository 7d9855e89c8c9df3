"""Vulkan on a CPU (Mesa's lavapipe) beside the CPU back end and stock code, in one run.

    python benchmarks/vulkan/cpu_device.py [--length 512] [--heads 4] [--dim 64] [--seconds 4]

Contenders: the plugin's kernel on the first Vulkan device; attention written out as two matrix
products and a softmax, by stock code generation on the same device (the only form that stock
compiles there); the plugin's AVX2 kernel on local-task. Prints the shortest time of each, and the
least processor time, which other work on the machine disturbs less.
"""

from __future__ import annotations

import argparse
import time

import numpy as np

from iree_flashattn.compiling import compile_module

VULKAN = ("--iree-hal-target-device=vulkan",)
AVX2 = (
    "--iree-hal-target-device=local",
    "--iree-hal-local-target-device-backends=llvm-cpu",
    "--iree-llvmcpu-target-cpu=haswell",
)


def attention(shape: str) -> str:
    maps = ", ".join(
        f"affine_map<(b, m, n, k1, k2) -> ({dims})>"
        for dims in ("b, m, k1", "b, k2, k1", "b, k2, n", "", "b, m, n")
    )
    return f"""
func.func @main(%q: tensor<{shape}>, %k: tensor<{shape}>, %v: tensor<{shape}>) -> tensor<{shape}> {{
  %scale = arith.constant 0.125 : f32
  %empty = tensor.empty() : tensor<{shape}>
  %out = iree_linalg_ext.attention <{{indexing_maps = [{maps}]}}>
    ins(%q, %k, %v, %scale : tensor<{shape}>, tensor<{shape}>, tensor<{shape}>, f32)
    outs(%empty : tensor<{shape}>) {{
  ^bb0(%score: f32):
    iree_linalg_ext.yield %score : f32
  }} -> tensor<{shape}>
  return %out : tensor<{shape}>
}}"""


def written_out(shape: str, scores: str) -> str:
    heads, length, dim, element = shape.split("x")
    transposed = "x".join([heads, dim, length, element])
    return f"""
func.func @main(%q: tensor<{shape}>, %k: tensor<{shape}>, %v: tensor<{shape}>) -> tensor<{shape}> {{
  %zero = arith.constant 0.0 : f32
  %scale = arith.constant 0.125 : f32
  %kt_init = tensor.empty() : tensor<{transposed}>
  %kt = linalg.transpose ins(%k : tensor<{shape}>) outs(%kt_init : tensor<{transposed}>)
      permutation = [0, 2, 1]
  %s_init = tensor.empty() : tensor<{scores}>
  %s_zero = linalg.fill ins(%zero : f32) outs(%s_init : tensor<{scores}>) -> tensor<{scores}>
  %s = linalg.batch_matmul ins(%q, %kt : tensor<{shape}>, tensor<{transposed}>)
      outs(%s_zero : tensor<{scores}>) -> tensor<{scores}>
  %scaled = linalg.generic {{
      indexing_maps = [affine_map<(b, m, n) -> (b, m, n)>, affine_map<(b, m, n) -> (b, m, n)>],
      iterator_types = ["parallel", "parallel", "parallel"]}}
      ins(%s : tensor<{scores}>) outs(%s_init : tensor<{scores}>) {{
  ^bb0(%in: f32, %out: f32):
    %x = arith.mulf %in, %scale : f32
    linalg.yield %x : f32
  }} -> tensor<{scores}>
  %p = linalg.softmax dimension(2) ins(%scaled : tensor<{scores}>)
      outs(%s_init : tensor<{scores}>) -> tensor<{scores}>
  %o_init = tensor.empty() : tensor<{shape}>
  %o_zero = linalg.fill ins(%zero : f32) outs(%o_init : tensor<{shape}>) -> tensor<{shape}>
  %o = linalg.batch_matmul ins(%p, %v : tensor<{scores}>, tensor<{shape}>)
      outs(%o_zero : tensor<{shape}>) -> tensor<{shape}>
  return %o : tensor<{shape}>
}}"""


def caller(vmfb: bytes, driver: str, arrays: list[np.ndarray]):
    """A function that runs @main and returns when the result is there."""
    import iree.runtime as rt

    config = rt.Config(device=rt.get_device(driver))
    context = rt.SystemContext(config=config)
    context.add_vm_module(rt.VmModule.copy_buffer(context.instance, vmfb))
    (name,) = [n for n in context.modules if n != "hal"]
    function = context.modules[name]["main"]
    inputs = [rt.asdevicearray(config.device, array) for array in arrays]
    return lambda: function(*inputs)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--length", type=int, default=512)
    parser.add_argument("--heads", type=int, default=4)
    parser.add_argument("--dim", type=int, default=64)
    parser.add_argument("--seconds", type=float, default=4.0)
    options = parser.parse_args()
    heads, length, dim = options.heads, options.length, options.dim
    shape, scores = f"{heads}x{length}x{dim}xf32", f"{heads}x{length}x{length}xf32"
    rng = np.random.default_rng()
    arrays = [rng.standard_normal((heads, length, dim), np.float32) for _ in range(3)]
    ungated = {"IREE_FLASHATTN_GATE": "off"}
    served = compile_module(attention(shape), flags=VULKAN, options=ungated)
    print(f"Vulkan kernel: {served.sites[0]['kernel']}")
    calls = {
        "Vulkan, plugin": caller(served.vmfb, "vulkan", arrays),
        "Vulkan, stock, written out": caller(
            compile_module(written_out(shape, scores), flags=VULKAN, plugin=False).vmfb,
            "vulkan",
            arrays,
        ),
        "CPU, plugin, AVX2": caller(
            compile_module(attention(shape), flags=AVX2, options=ungated).vmfb,
            "local-task",
            arrays,
        ),
    }
    times: dict[str, list[float]] = {name: [] for name in calls}
    work: dict[str, list[float]] = {name: [] for name in calls}
    for call in calls.values():
        call()
    end = time.perf_counter() + options.seconds
    while time.perf_counter() < end or len(times["Vulkan, plugin"]) < 3:
        for name, call in calls.items():
            start, busy = time.perf_counter(), time.process_time()
            call()
            times[name].append(time.perf_counter() - start)
            work[name].append(time.process_time() - busy)
    flops = 4 * heads * length * length * dim
    for name, taken in times.items():
        best, busy = min(taken), min(work[name])
        print(
            f"{name:28s} {best * 1e3:9.2f} ms {flops / best / 1e9:8.2f} GFLOP/s,"
            f" {busy * 1e3:9.2f} ms of processor time ({len(taken)} runs)"
        )


if __name__ == "__main__":
    main()
