"""Runs Vulkan kernels on the first Vulkan device, through the stock compiler and runtime.

A module takes the 32 constants and the workgroup counts as arguments and passes flat byte buffers
to one dispatch, so that one compiled module serves every problem.
"""

from __future__ import annotations

import atexit
from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray

from iree_flashattn import resources
from iree_flashattn.abi import WORD, WORD_COUNT
from iree_flashattn.catalog import Kernel, kernels
from iree_flashattn.operands import Operands
from support import devices
from support.devices import configuration, download
from support.devices import why_no_vulkan as why_no_device

TARGET = '#hal.executable.target<"vulkan-spirv", "vulkan-spirv-fb", {}>'
INPUTS = {"forward": 7, "partial": 6, "combine": 4}
IN_PLACE = ("forward", "combine")  # roles whose last input, the LSE, is written


def outputs_of(kernel: Kernel) -> int:
    return 2 if kernel.role == "partial" or "weights" in kernel.features else 1


def config():
    return configuration("vulkan")


def release() -> None:
    """Lets go of the device, and with it of the kernels that it has compiled."""
    _module.cache_clear()
    devices.release()


atexit.register(release)


def compile_text(text: str) -> bytes:
    from iree.compiler import compile_str

    return compile_str(
        text, extra_args=["--iree-hal-target-device=vulkan", "--iree-input-type=none"]
    )


class Program:
    """A compiled module whose function is @main, on the Vulkan device."""

    def __init__(self, vmfb: bytes) -> None:
        import iree.runtime as rt

        self.context = rt.SystemContext(config=config())
        module = rt.VmModule.copy_buffer(self.context.instance, vmfb)
        self.context.add_vm_module(module)
        self.function = module.lookup_function("main")

    def call(self, numbers: list[int], buffers: list) -> list:
        import iree.runtime as rt

        arguments, results = rt.VmVariantList(64), rt.VmVariantList(4)
        for number in numbers:
            arguments.push_int(number)
        for buffer in buffers:
            arguments.push_ref(buffer)
        self.context.vm_context.invoke(self.function, arguments, results)
        return [results.get_as_object(i, rt.HalBufferView) for i in range(len(results))]


@cache
def query(category: str, key: str) -> int:
    """What the device answers to ``hal.device.query``; 0 where it does not know the key."""
    program = Program(
        compile_text(f"""
util.func public @main() -> i32 {{
  %zero = arith.constant 0 : index
  %device = hal.devices.get %zero : !hal.device
  %ok, %value = hal.device.query<%device : !hal.device>
    key("{category}" :: "{key}") : i1, i32 = 0 : i32
  util.return %value : i32
}}""")
    )
    import iree.runtime as rt

    arguments, results = rt.VmVariantList(0), rt.VmVariantList(1)
    program.context.vm_context.invoke(program.function, arguments, results)
    return results.get_variant(0)


def why_not(kernel: Kernel) -> str:
    """Why the row cannot run on this machine, or an empty string."""
    if reason := why_no_device():
        return reason
    file = resources.native_dir() / "spirv" / f"{kernel.name}.spv"
    if not file.is_file():
        return f"not built: {file.name} (plugin/spirv/build.py says what is missing)"
    for key in kernel.target.get("device", ()):
        if query("vulkan.feature", key) != 1:
            return f"the device has no {key}"
    size = query("vulkan.device", "subgroup_size")
    if size not in kernel.target.get("subgroup", [size]):
        return f"the device has subgroups of {size}, not of {kernel.target['subgroup']}"
    return ""


@cache
def _module(name: str) -> Program:
    (kernel,) = (k for k in kernels("spirv") if k.name == name)
    inputs, outputs = INPUTS[kernel.role], outputs_of(kernel)
    in_place = kernel.role in IN_PLACE
    path = resources.kernel_file("spirv", f"{name}.spv")
    read = ["#hal.pipeline.binding<storage_buffer, ReadOnly>"] * (inputs - in_place)
    write = ["#hal.pipeline.binding<storage_buffer>"] * (outputs + in_place)
    bindings = ", ".join(read + write)
    layout = f"#hal.pipeline.layout<constants = {WORD_COUNT}, bindings = [{bindings}]>"
    returned = ", ".join(["!hal.buffer_view"] * (outputs + in_place))
    numbers = [f"%word{i}" for i in range(WORD_COUNT)]
    sizes = [f"%size{i}" for i in range(outputs)]
    views = [f"%view{i}" for i in range(inputs)]
    imports = "".join(
        f"  %dim{i} = hal.buffer_view.dim<%view{i} : !hal.buffer_view>[0] : index\n"
        f"  %in{i} = hal.tensor.import %view{i} : !hal.buffer_view -> tensor<?xi8>{{%dim{i}}}\n"
        for i in range(inputs)
    )
    types = ["i32"] * WORD_COUNT + [f"tensor<?xi8>{{%dim{i}}}" for i in range(inputs)]
    made = [f"tensor<?xi8>{{{size}}}" for size in sizes]
    last = inputs - 1
    tied = [f"%in{last}{{%dim{last}}}"] if in_place else []
    kinds = made + [f"tensor<?xi8>{{%dim{last}}}"] * in_place
    results = [f"%out{i}" for i in range(len(kinds))]
    exports = "".join(
        f"  %back{i} = hal.tensor.export %out{i} : {kind} -> !hal.buffer_view\n"
        for i, kind in enumerate(kinds)
    )
    return Program(
        compile_text(f"""
hal.executable private @kernel {{
  hal.executable.variant public @spirv target({TARGET})
      objects([#hal.executable.object<{{path = "{path}"}}>]) {{
    hal.executable.export public @{name} ordinal(0)
        layout({layout})
        count(%device: !hal.device, %x: index, %y: index, %z: index) -> (index, index, index) {{
      hal.return %x, %y, %z : index, index, index
    }}
  }}
}}
util.func public @main({", ".join(f"{n}: i32" for n in numbers)}, %x: index, %y: index, %z: index,
    {", ".join(f"{n}: index" for n in sizes)}, {", ".join(f"{n}: !hal.buffer_view" for n in views)})
    -> ({returned}) {{
{imports}
  {", ".join(results)} = flow.dispatch @kernel::@spirv::@{name}[%x, %y, %z](
      {", ".join(numbers + [f"%in{i}" for i in range(inputs)])}) : ({", ".join(types)})
      -> ({", ".join(made + tied)})
{exports}
  util.return {", ".join(f"%back{i}" for i in range(len(kinds)))} : {returned}
}}""")
    )


def upload(array: NDArray | None):
    """A byte buffer on the device; a few bytes stand for an operand that is absent or empty."""
    import iree.runtime as rt

    bytes_ = np.zeros(4, np.uint8)
    if array is not None and array.size:
        bytes_ = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
    return config().device.allocator.allocate_buffer_copy(
        memory_type=int(rt.MemoryType.DEVICE_LOCAL),
        allowed_usage=int(rt.BufferUsage.DEFAULT),
        device=config().device,
        buffer=bytes_,
        element_type=rt.HalElementType.SINT_8,
    )


@dataclass(frozen=True)
class Shape:
    words: NDArray[np.uint32]
    grid: tuple[int, ...]

    def numbers(self, sizes: list[int]) -> list[int]:
        return [int(w) for w in self.words.view(np.int32)] + list(self.grid) + sizes


def _shape(kernel: Kernel, made: Operands, splits: int) -> Shape:
    p, words = made.problem, made.words.copy()
    words[WORD["SPLITS"]] = splits
    sizes = {"batch": p.batch, "heads": p.heads, "kv_heads": p.kv_heads, "q_len": p.q_len}
    sizes["splits"] = splits
    return Shape(words, kernel.grid_size(sizes))


def run(kernel: Kernel, made: Operands, splits: int = 3) -> None:
    """Fills O, and P and the LSE where the problem has them: by a forward row, or by a partial row
    over ``splits`` ranges and its merge."""
    p = made.problem
    if p.q_len == 0:  # a dispatch without workgroups; its results are empty
        return
    given = [
        made.q.buffer,
        made.k.buffer,
        made.v.buffer,
        made.mask,
        made.bias,
        made.sinks,
        made.lse,
    ]
    buffers = [upload(x) for x in given]
    results = [made.o.buffer] + ([] if made.weights is None else [made.weights])
    sizes = [x.nbytes or 4 for x in results]
    if kernel.role == "forward":
        shape = _shape(kernel, made, 1)
        found = _module(kernel.name).call(shape.numbers(sizes), buffers)
    else:
        lines = splits * p.batch * p.heads * p.q_len
        shape = _shape(kernel, made, splits)
        numbers = shape.numbers([lines * p.dv * 4, lines * 8])
        parts = _module(kernel.name).call(numbers, buffers[:6])
        (merge,) = (k for k in kernels("spirv") if k.name == kernel.combine)
        numbers = _shape(merge, made, splits).numbers(sizes)
        found = _module(merge.name).call(numbers, [*parts, *buffers[5:]])
    if made.lse is not None:
        made.lse[...] = download(config().device, found[-1], np.float32).reshape(made.lse.shape)
    for array, view in zip(results, found, strict=False):
        if array.size:
            array[...] = download(config().device, view, array.dtype).reshape(array.shape)
