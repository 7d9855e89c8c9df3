"""Vulkan on a CPU (Mesa's lavapipe) beside the CPU back end and stock code, in one run.

    python benchmarks/vulkan/cpu_device.py [--length 1024] [--heads 8] [--dim 64] [--seconds 20]

Contenders: the plugin's kernel on the first Vulkan device; attention written out as two matrix
products and a softmax, by stock code generation on the same device (the only form that stock
compiles there); the plugin's AVX2 kernel on local-task. They take turns; the table has the fastest
turn of each, in wall time.

Two threads of IREE's Vulkan driver keep a core busy each while they wait for lavapipe. On a machine
with more than two cores ``LP_NUM_THREADS=2`` and ``--workers 2`` give both sides two cores, beside
those.
"""

from __future__ import annotations

import argparse

import numpy as np

from iree_flashattn.bench import running
from iree_flashattn.compiling import compile_module, compile_with_family

VULKAN = ("--iree-hal-target-device=vulkan",)


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


def caller(vmfb: bytes, arrays: list[np.ndarray], driver: str = ""):
    """A function that runs @main and returns when the result is there; without a driver on
    local-task."""
    import iree.runtime as rt

    config = rt.Config(device=rt.get_device(driver)) if driver else running.configuration()
    context = rt.SystemContext(config=config)
    context.add_vm_module(rt.VmModule.copy_buffer(context.instance, vmfb))
    (name,) = [n for n in context.modules if n != "hal"]
    function = context.modules[name]["main"]
    inputs = [rt.asdevicearray(config.device, array) for array in arrays]
    return lambda: function(*inputs)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--length", type=int, default=1024)
    parser.add_argument("--heads", type=int, default=8)
    parser.add_argument("--dim", type=int, default=64)
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--workers", type=int, default=0, help="of local-task (0: one a core)")
    options = parser.parse_args()
    if options.workers:
        running.use_workers(options.workers)
    heads, length, dim = options.heads, options.length, options.dim
    shape, scores = f"{heads}x{length}x{dim}xf32", f"{heads}x{length}x{length}xf32"
    rng = np.random.default_rng()
    arrays = [rng.standard_normal((heads, length, dim), np.float32) for _ in range(3)]
    source = attention(shape)
    served = compile_module(source, VULKAN, options={"IREE_FLASHATTN_GATE": "off"})
    stock = compile_module(written_out(shape, scores), VULKAN, plugin=False)
    avx2 = compile_with_family(source, "avx2")
    print(f"kernels: {served.sites[0]['kernel']}, {avx2.sites[0]['kernel']}")
    calls = {
        "Vulkan, plugin": caller(served.vmfb, arrays, "vulkan"),
        "Vulkan, stock, written out": caller(stock.vmfb, arrays, "vulkan"),
        "CPU, plugin, AVX2": caller(avx2.vmfb, arrays),
    }
    for call in calls.values():
        call()
    times = running.interleaved(calls, options.seconds)
    best = {name: min(found) for name, found in times.items()}
    flops = 4 * heads * length * length * dim
    for name, seconds in best.items():
        print(
            f"{name:28s} {seconds * 1e3:9.2f} ms {flops / seconds / 1e9:8.2f} GFLOP/s,"
            f" {best['CPU, plugin, AVX2'] / seconds:6.3f} of the AVX2 kernel's speed"
            f" ({len(times[name])} turns)"
        )


if __name__ == "__main__":
    main()
