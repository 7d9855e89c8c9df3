"""Runs CUDA kernel sources on the CPU: builds a row of the table over the test double.

double/ implements the primitives that the kernels are written on; here a kernel becomes a host
library and is launched over NumPy buffers, one block after the other.
"""

from __future__ import annotations

import ctypes
import importlib.util
import shutil
import subprocess
import sys
from functools import cache
from math import prod
from pathlib import Path

import numpy as np

from iree_flashattn import catalog
from iree_flashattn.operands import Operands, words

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[2]


@cache
def build_module():
    """plugin/cuda/build.py, which knows a row's macros."""
    path = ROOT / "plugin" / "cuda" / "build.py"
    spec = importlib.util.spec_from_file_location("flashattn_cuda_build", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def compiler() -> list[str]:
    """A C++20 compiler: the system's, or that of the ``ziglang`` package."""
    for name in ("g++", "clang++"):
        if found := shutil.which(name):
            return [found]
    return [sys.executable, "-m", "ziglang", "c++"]


def compile_row(row: catalog.Kernel, directory: Path, sources: Path | None = None) -> ctypes.CDLL:
    """The row as a host library in ``directory``; ``sources`` replaces plugin/cuda/src."""
    library = directory / f"{row.name}.so"
    if not library.exists():
        command = [
            *(*compiler(), "-std=c++20", "-O1", "-fPIC", "-shared", "-w", f"-I{HERE / 'double'}"),
            *([f"-I{sources}"] if sources else []),
            *build_module().include_flags(),
            *(f"-D{define}" for define in build_module().defines(row)),
            f'-DFA_SOURCE="{row.source}"',
            *(str(HERE / "double" / "launch.cpp"), "-o", str(library)),
        ]
        result = subprocess.run(command, capture_output=True, text=True)
        assert result.returncode == 0, result.stderr
    return ctypes.CDLL(str(library))


def _launch(
    library: ctypes.CDLL, row: catalog.Kernel, sizes: dict[str, int], bindings: list, constants
) -> None:
    blocks = prod(row.grid_size(sizes))
    pointers = (ctypes.c_void_p * len(bindings))(*(b.ctypes.data for b in bindings))
    library.fa_double_launch.restype = ctypes.c_char_p
    error = library.fa_double_launch(
        ctypes.c_uint32(blocks),
        ctypes.c_int(row.workgroup[0]),
        ctypes.c_uint32(row.scratch_bytes),
        pointers,
        np.ascontiguousarray(constants, np.uint32).ctypes.data_as(ctypes.c_void_p),
    )
    assert not error, f"{row.name}: {error.decode()}"


def run(
    row: catalog.Kernel,
    library: ctypes.CDLL,
    made: Operands,
    splits: int = 1,
    combine: tuple[catalog.Kernel, ctypes.CDLL] | None = None,
) -> np.ndarray:
    """O as f32 [batch, heads, q_len, dv]; O and P are poisoned beforehand, LSE is filled."""
    p = made.problem
    results = made.poisoned_results()
    nothing = np.zeros(1, np.uint8)
    inputs = [made.q.buffer, made.k.buffer, made.v.buffer]
    given = (made.mask, made.bias, made.sinks, made.lse)
    *optional, lse = [nothing if x is None else x for x in given]
    sizes = {"batch": p.batch, "heads": p.heads, "kv_heads": p.kv_heads, "q_len": p.q_len,
             "splits": splits}  # fmt: skip
    constants = words(made, splits)
    if row.role == "forward":
        _launch(library, row, sizes, [*inputs, *optional, lse, *results], constants)
    else:
        shape = (splits, p.batch, p.heads, p.q_len)
        partial_o = np.full((*shape, p.dv), np.nan, np.float32)
        partial_ml = np.full((*shape, 2), np.nan, np.float32)
        _launch(library, row, sizes, [*inputs, *optional, partial_o, partial_ml], constants)
        merged = [partial_o, partial_ml, optional[2], lse, *results]
        _launch(combine[1], combine[0], sizes, merged, constants)
    return made.result()
