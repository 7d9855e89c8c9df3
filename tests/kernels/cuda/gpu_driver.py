"""Launches CUDA kernels as IREE's CUDA HAL does, straight through the driver: no IREE, no toolkit.

Module images are those that plugin/cuda/build.py writes. Also used by benchmarks/cuda.
"""

from __future__ import annotations

import ctypes
from functools import cache
from math import prod
from pathlib import Path

import numpy as np

from iree_flashattn import catalog
from iree_flashattn.operands import Operands, words

_MAX_DYNAMIC_SHARED = 8  # CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES


class CudaError(RuntimeError):
    """A driver call failed; the message names the call and the driver's word for the error."""


@cache
def _library() -> ctypes.CDLL:
    return ctypes.CDLL("libcuda.so.1")


def call(name: str, *arguments: object) -> None:
    code = getattr(_library(), name)(*arguments)
    if code:
        text = ctypes.c_char_p()
        _library().cuGetErrorName(code, ctypes.byref(text))
        raise CudaError(f"{name}: {(text.value or b'?').decode()} ({code})")


@cache
def capability() -> tuple[int, int]:
    """Compute capability of device 0, whose primary context becomes current."""
    call("cuInit", 0)
    context, major, minor = ctypes.c_void_p(), ctypes.c_int(), ctypes.c_int()
    call("cuDevicePrimaryCtxRetain", ctypes.byref(context), 0)
    call("cuCtxSetCurrent", context)
    call("cuDeviceGetAttribute", ctypes.byref(major), 75, 0)
    call("cuDeviceGetAttribute", ctypes.byref(minor), 76, 0)
    return major.value, minor.value


def why_no_gpu() -> str | None:
    """Why kernels cannot run here, or None."""
    try:
        found = capability()
    except (OSError, CudaError) as error:
        return f"no usable NVIDIA GPU: {error}"
    return None if found >= (8, 0) else f"compute capability {found} is below 8.0"


def why_not(row: catalog.Kernel) -> str | None:
    """Why this GPU cannot run the row, or None."""
    major, minor = capability()
    if 10 * major + minor < row.target["sm"]:
        return f"needs sm_{row.target['sm']}, the GPU is sm_{major}{minor}"
    if row.target.get("only") and 10 * major != row.target["sm"]:
        return f"is for sm_{row.target['sm']} alone, the GPU is sm_{major}{minor}"
    return None


class Kernel:
    """A loaded row of the table."""

    def __init__(self, row: catalog.Kernel, image: Path) -> None:
        capability()
        self.row = row
        module, self.function = ctypes.c_void_p(), ctypes.c_void_p()
        call("cuModuleLoadData", ctypes.byref(module), image.read_bytes() + b"\0")
        call("cuModuleGetFunction", ctypes.byref(self.function), module, row.name.encode())
        call("cuFuncSetAttribute", self.function, _MAX_DYNAMIC_SHARED, row.scratch_bytes)

    def launch(
        self, sizes: dict[str, int], pointers: list[int], constants: np.ndarray, stream: int = 0
    ) -> None:
        """One launch; arguments are a pointer for each binding and a word for each constant."""
        values = [ctypes.c_uint64(p) for p in pointers]
        values += [ctypes.c_uint32(int(c)) for c in constants]
        parameters = (ctypes.c_void_p * len(values))(*(ctypes.addressof(v) for v in values))
        call(
            "cuLaunchKernel", self.function, *self.row.grid_size(sizes),
            self.row.workgroup[0], 1, 1, self.row.scratch_bytes, ctypes.c_void_p(stream),
            parameters, None,
        )  # fmt: skip


class Buffer:
    """Device memory, filled from an array (16 bytes and more, so that none is empty)."""

    def __init__(self, array: np.ndarray) -> None:
        self.array = np.ascontiguousarray(array)
        pointer = ctypes.c_uint64()
        call("cuMemAlloc_v2", ctypes.byref(pointer), max(self.array.nbytes, 16))
        self.pointer = pointer.value
        if self.array.nbytes:
            call("cuMemcpyHtoD_v2", pointer, self.array.ctypes.data_as(ctypes.c_void_p),
                 ctypes.c_size_t(self.array.nbytes))  # fmt: skip

    def read(self) -> np.ndarray:
        out = np.empty_like(self.array)
        if out.nbytes:
            call("cuMemcpyDtoH_v2", out.ctypes.data_as(ctypes.c_void_p),
                 ctypes.c_uint64(self.pointer), ctypes.c_size_t(out.nbytes))  # fmt: skip
        return out

    def free(self) -> None:
        call("cuMemFree_v2", ctypes.c_uint64(self.pointer))


def sizes_of(problem, splits: int) -> dict[str, int]:
    return {"batch": problem.batch, "heads": problem.heads, "kv_heads": problem.kv_heads,
            "q_len": problem.q_len, "splits": splits}  # fmt: skip


def run(
    kernel: Kernel, made: Operands, splits: int = 1, combine: Kernel | None = None
) -> np.ndarray:
    """O as f32 [batch, heads, q_len, dv]; every result is poisoned beforehand."""
    p = made.problem
    if prod(kernel.row.grid_size(sizes_of(p, splits))) == 0:
        return made.result()
    nothing = np.zeros(1, np.uint8)
    optional = [nothing if x is None else x for x in (made.mask, made.bias, made.sinks)]
    wanted = made.poisoned_results()
    buffers = [Buffer(x) for x in (made.q.buffer, made.k.buffer, made.v.buffer, *optional)]
    results = [Buffer(x) for x in wanted]
    lse = Buffer(nothing if made.lse is None else made.lse)
    out = [b.pointer for b in results]
    constants, sizes = words(made, splits), sizes_of(p, splits)
    inputs = [b.pointer for b in buffers]
    if combine is None:
        kernel.launch(sizes, [*inputs, lse.pointer, *out], constants)
    else:
        shape = (splits, p.batch, p.heads, p.q_len)
        partial = [Buffer(np.full((*shape, n), np.nan, np.float32)) for n in (p.dv, 2)]
        buffers += partial
        merged = [b.pointer for b in partial]
        kernel.launch(sizes, [*inputs, *merged], constants)
        combine.launch(sizes, [*merged, inputs[5], lse.pointer, *out], constants)
    call("cuCtxSynchronize")
    for array, buffer in zip(wanted, results, strict=True):
        array[...] = buffer.read()
    if made.lse is not None:
        made.lse[...] = lse.read()
    for buffer in (*buffers, *results, lse):
        buffer.free()
    return made.result()
