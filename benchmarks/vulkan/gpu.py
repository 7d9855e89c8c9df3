"""Vulkan kernels on a GPU, without the cost of a call: chains of dispatches of two lengths.

    python benchmarks/vulkan/gpu.py compile FOLDER      needs the compiler and built kernels, no GPU
    python benchmarks/vulkan/gpu.py run FOLDER          needs the runtime and a Vulkan device

A module runs one kernel N times, each dispatch reading (as an operand that the kernel ignores) the
result before it, so that they follow one another. The time of a dispatch is the difference of a
long and a short chain over the difference of their lengths: allocation and submission, which take
milliseconds a call with this runtime, drop out. Where PyTorch has a GPU, its fused attention and
a device copy are timed in the same run.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from functools import cache
from pathlib import Path

import numpy as np

CHAINS = {"forward": (3, 19), "partial": (5, 45)}  # dispatches in a short and a long chain
SIZES = (
    (4096, 4, 16, False),
    (4096, 4, 16, True),
    (16384, 1, 16, False),
)  # length, batch, heads, causal
DECODE = (
    (16384, 16, 4),
    (16384, 16, 8),
    (16384, 16, 16),
    (131072, 1, 64),
)  # keys, batch, key ranges; 32 heads over 8
KERNELS = {
    "fa_forward_f16_matrix_d128": 128,
    "fa_forward_bf16_matrix_d128": 128,
    "fa_forward_f16_matrix_d64": 64,
    "fa_forward_f16_tile_d128": 128,
    "fa_partial_f16_team16_d128": 128,
}
WITH_MERGE = ("fa_partial_f16_team16_d128",)


def module(names: list[str], length: int) -> str:
    """``length`` turns of one row, or of a split row and its merge.

    Byte tensors, constants, and for every row its grid and the bytes of its results are arguments.
    """
    from iree_flashattn import catalog, resources
    from iree_flashattn.abi import WORD_COUNT
    from iree_flashattn.emitting.interface import interface

    rows = [catalog.find(name) for name in names]
    shapes = [interface(row.role, False, False) for row in rows]
    words = [f"%word{i}" for i in range(WORD_COUNT)]
    grids = [[f"%grid{r}_{axis}" for axis in "xyz"] for r in range(len(rows))]
    sizes = [[f"%size{r}_{i}" for i in range(shape.outputs)] for r, shape in enumerate(shapes)]
    views = [f"%view{i}" for i in range(shapes[0].inputs)]
    lines = []
    for i in range(len(views)):
        lines += [
            f"%dim{i} = hal.buffer_view.dim<%view{i} : !hal.buffer_view>[0] : index",
            f"%in{i} = hal.tensor.import %view{i} : !hal.buffer_view -> tensor<?xi8>{{%dim{i}}}",
        ]
    inputs = [(f"%in{i}", f"tensor<?xi8>{{%dim{i}}}") for i in range(len(views))]
    sinks = inputs[5]
    for turn in range(length):
        given = inputs
        for r, (row, shape) in enumerate(zip(rows, shapes, strict=True)):
            names_, types = zip(*[(w, "i32") for w in words], *given, strict=True)
            made = [f"%out{turn}_{r}_{i}" for i in range(shape.outputs)]
            results = [f"tensor<?xi8>{{{size}}}" for size in sizes[r]]
            lines.append(
                f"{', '.join(made)} = flow.dispatch"
                f" @kernel{r}::@spirv::@{row.name}[{', '.join(grids[r])}]"
                f"({', '.join(names_)}) : ({', '.join(types)}) -> ({', '.join(results)})"
            )
            parts = [*zip(made, results, strict=True)]
            given = [*parts, sinks, parts[0]]
        inputs[5] = (made[0], results[0])  # the sinks, which no flag asks for
    for i, (value, size) in enumerate(zip(made, sizes[-1], strict=True)):
        lines.append(
            f"%back{i} = hal.tensor.export {value} : tensor<?xi8>{{{size}}} -> !hal.buffer_view"
        )
    back = ", ".join(f"%back{i}" for i in range(len(made)))
    kinds = ", ".join(["!hal.buffer_view"] * len(made))
    numbers = [x for r in range(len(rows)) for x in (*grids[r], *sizes[r])]
    body = "\n  ".join(lines)

    def path(row) -> Path:
        return resources.kernel_file("spirv", f"{row.name}.spv")

    executables = "".join(
        f"""
hal.executable private @kernel{r} {{
  hal.executable.variant public @spirv
      target(#hal.executable.target<"vulkan-spirv", "vulkan-spirv-fb", {{}}>)
      objects([#hal.executable.object<{{path = "{path(row)}"}}>]) {{
    hal.executable.export public @{row.name} ordinal(0) layout({shape.layout})
        count(%device: !hal.device, %x: index, %y: index, %z: index) -> (index, index, index) {{
      hal.return %x, %y, %z : index, index, index
    }}
  }}
}}"""
        for r, (row, shape) in enumerate(zip(rows, shapes, strict=True))
    )
    return f"""{executables}
util.func public @main({", ".join(f"{w}: i32" for w in words)},
    {", ".join(f"{x}: index" for x in numbers)},
    {", ".join(f"{v}: !hal.buffer_view" for v in views)}) -> ({kinds}) {{
  {body}
  util.return {back} : {kinds}
}}"""


def compile_all(folder: Path) -> None:
    from iree.compiler import compile_str

    from iree_flashattn import catalog

    flags = ["--iree-hal-target-device=vulkan", "--iree-input-type=none"]
    about = {}
    for name, dim in KERNELS.items():
        kernel = catalog.find(name)
        contenders = {name: [name]}
        if name in WITH_MERGE:
            contenders[f"{name}_merged"] = [name, kernel.combine]
        for contender, names in contenders.items():
            about[contender] = {"dim": dim, "role": kernel.role, "tile": kernel.q_tile}
            about[contender]["rows"] = len(names)
            for length in CHAINS[kernel.role]:
                vmfb = compile_str(module(names, length), extra_args=flags)
                (folder / f"{contender}_{length}.vmfb").write_bytes(vmfb)
    (folder / "about.json").write_text(json.dumps(about))


class Chain:
    def __init__(self, path: Path, config) -> None:
        import iree.runtime as rt

        self.context = rt.SystemContext(config=config)
        module = rt.VmModule.copy_buffer(self.context.instance, path.read_bytes())
        self.context.add_vm_module(module)
        self.function = module.lookup_function("main")

    def call(self, numbers: list[int], buffers: list) -> None:
        import iree.runtime as rt

        arguments, results = rt.VmVariantList(64), rt.VmVariantList(2)
        for number in numbers:
            arguments.push_int(number)
        for buffer in buffers:
            arguments.push_ref(buffer)
        self.context.vm_context.invoke(self.function, arguments, results)


def upload(config, array):
    import iree.runtime as rt

    return config.device.allocator.allocate_buffer_copy(
        memory_type=int(rt.MemoryType.DEVICE_LOCAL),
        allowed_usage=int(rt.BufferUsage.DEFAULT),
        device=config.device,
        buffer=array.view(np.uint8).reshape(-1),
        element_type=rt.HalElementType.SINT_8,
    )


def constants(batch, heads, kv_heads, rows, keys, dim, causal, splits) -> list[int]:
    from iree_flashattn.abi import FLAG, WORD, WORD_COUNT

    words = np.zeros(WORD_COUNT, np.uint32)
    words[WORD["Q_LEN"]], words[WORD["KV_LEN"]], words[WORD["SPLITS"]] = rows, keys, splits
    words[WORD["HEADS"]], words[WORD["HEAD_DIMS"]] = heads | kv_heads << 16, dim | dim << 16
    words[WORD["SCALE"]] = np.float32(1 / math.sqrt(dim)).view(np.uint32)
    words[WORD["FILL"]] = np.float32(-np.inf).view(np.uint32)
    words[WORD["FLAGS"]] = FLAG["BAND_HI"] * causal
    for x, count, length in (
        ("Q", heads, rows),
        ("K", kv_heads, keys),
        ("V", kv_heads, keys),
        ("O", heads, rows),
    ):
        words[WORD[f"{x}_STRIDE_B"]] = count * length * dim
        words[WORD[f"{x}_STRIDE_H"]], words[WORD[f"{x}_STRIDE_X"]] = length * dim, dim
    return [int(w) for w in words.view(np.int32)]


def per_dispatch(chains, lengths, numbers: list[int], buffers: list) -> float:
    """Seconds of one turn: shortest times of both chains, taken in turns after a warm-up."""
    times: tuple[list[float], list[float]] = ([], [])
    for _ in range(2):
        chains[1].call(numbers, buffers)
    for _ in range(7):
        for chain, taken in zip(chains, times, strict=True):
            start = time.perf_counter()
            chain.call(numbers, buffers)
            taken.append(time.perf_counter() - start)
    return (min(times[1]) - min(times[0])) / (lengths[1] - lengths[0])


def run_all(folder: Path, only: str = "") -> None:
    import iree.runtime as rt

    config = rt.Config(device=rt.get_device("vulkan"))
    block = np.random.default_rng().standard_normal(1 << 22, np.float32).astype(np.float16)
    few = upload(config, np.zeros(64, np.float32))

    @cache
    def random(count: int, _operand: str):
        # Any bits of common size will do for time: f16 and bf16 alike are read as 16 bits.
        return upload(config, np.resize(block, count))

    for name, about in json.loads((folder / "about.json").read_text()).items():
        if only not in name:
            continue
        lengths = CHAINS[about["role"]]
        chains = [Chain(folder / f"{name}_{n}.vmfb", config) for n in lengths]
        dim, tile = about["dim"], about["tile"]
        if about["role"] == "forward":
            for length, batch, heads, causal in SIZES:
                count = batch * heads * length * dim
                words = constants(batch, heads, heads, length, length, dim, causal, 1)
                numbers = [*words, -(-length // tile), heads, batch, 2 * count]
                buffers = [random(count, x) for x in "qkv"] + [few] * 4
                seconds = per_dispatch(chains, lengths, numbers, buffers)
                flops = 4 * count * length / (2 if causal else 1)
                print(f"{name} S{length} B{batch} H{heads} causal={causal}: {seconds * 1e3:.3f} ms,"
                      f" {flops / seconds / 1e12:.1f} TFLOP/s", flush=True)  # fmt: skip
        else:
            heads, kv_heads = 32, 8
            for keys, batch, splits in DECODE:
                count, lines = batch * kv_heads * keys * dim, splits * batch * heads
                words = constants(batch, heads, kv_heads, 1, keys, dim, False, splits)
                blocks = -(-heads // kv_heads // tile)
                numbers = [*words, blocks, kv_heads, batch * splits, lines * dim * 4, lines * 8]
                if about["rows"] == 2:  # the merge: a workgroup a row
                    numbers += [1, heads, batch, batch * heads * dim * 2]
                buffers = [random(batch * heads * dim, "q"), random(count, "k"), random(count, "v")]
                seconds = per_dispatch(chains, lengths, numbers, [*buffers, *[few] * 3])
                print(f"{name} keys {keys} B{batch} ranges {splits}: {seconds * 1e6:.0f} us,"
                      f" {4 * count / seconds / 1e12:.3f} TB/s of K and V", flush=True)  # fmt: skip


def baselines() -> None:
    try:
        import torch
        from torch.nn.attention import SDPBackend, sdpa_kernel
        from torch.nn.functional import scaled_dot_product_attention as sdpa
    except ImportError:
        return
    if not torch.cuda.is_available():
        return

    def seconds(call, *arguments, **options) -> float:
        times = []
        for _ in range(12):
            start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            start.record()
            call(*arguments, **options)
            end.record()
            torch.cuda.synchronize()
            times.append(start.elapsed_time(end) / 1e3)
        return sorted(times)[6]

    for dim in (128, 64):
        for length, batch, heads, causal in SIZES:
            q, k, v = (
                torch.randn(batch, heads, length, dim, device="cuda", dtype=torch.float16)
                for _ in "qkv"
            )
            flops = 4 * q.numel() * length / (2 if causal else 1)
            for backend in (SDPBackend.FLASH_ATTENTION, SDPBackend.CUDNN_ATTENTION):
                with sdpa_kernel(backend):
                    taken = seconds(sdpa, q, k, v, is_causal=causal)
                rate = flops / taken / 1e12
                print(f"torch {backend.name} S{length} D{dim} causal={causal}: {rate:.1f} TFLOP/s")
    source = torch.randn(1 << 28, device="cuda")
    copy = torch.empty_like(source)
    print(f"copy: {8 * source.numel() / seconds(copy.copy_, source) / 1e12:.3f} TB/s")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("step", choices=("compile", "run"))
    parser.add_argument("folder", type=Path)
    parser.add_argument("--only", default="", help="run only contenders with this substring")
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    if options.step == "compile":
        compile_all(options.folder)
    else:
        run_all(options.folder, options.only)
        baselines()


if __name__ == "__main__":
    main()
