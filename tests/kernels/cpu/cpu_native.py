"""Calls CPU kernels through their C signature: links the built objects and runs workgroups.

Also used by the kernel benchmark. Objects come from the build tree (or are built on first use).
"""

from __future__ import annotations

import ctypes
import importlib.util
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from types import ModuleType

import numpy as np

from iree_flashattn import catalog, resources
from iree_flashattn.operands import Operands, words

HERE = Path(__file__).resolve().parent
ZIG = [sys.executable, "-m", "ziglang"]


@cache
def cpu_flags() -> frozenset[str]:
    """Instruction sets of this machine, in the spelling of the kernel tables."""
    flags: set[str] = set()
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith(("flags", "Features")):
            flags |= set(line.split(":", 1)[1].split())
    spelling = {"avx512_bf16": "avx512bf16", "amx_tile": "amx-tile", "amx_bf16": "amx-bf16"}
    return frozenset(spelling.get(f, f) for f in flags)


@cache
def machine() -> str:
    import platform

    return platform.machine()


def why_not(kernel: catalog.Kernel) -> str | None:
    """Why this machine cannot run the kernel, or None."""
    if kernel.target["arch"] != machine():
        return f"{kernel.name} is for {kernel.target['arch']}, this machine is {machine()}"
    missing = set(kernel.target.get("features", [])) - cpu_flags()
    if missing:
        return f"{kernel.name} needs {', '.join(sorted(missing))}"
    if "amx-tile" in kernel.target.get("features", []) and not tiles_are_granted():
        return f"{kernel.name} needs AMX tiles, which the operating system refuses"
    return None


@cache
def tiles_are_granted() -> bool:
    """Asks Linux to let this process use AMX's tile registers."""
    arch_prctl, request, tile_data = 158, 0x1023, 18
    return ctypes.CDLL(None).syscall(arch_prctl, request, tile_data) == 0


@cache
def doubles() -> tuple[catalog.Kernel, ...]:
    """The kernels for AMX as ones for this machine: the same sources, with tiles in memory."""
    found = []
    for kernel in catalog.kernels("cpu"):
        if "amx-tile" in kernel.target.get("features", []):
            rows = [k for k in map(catalog.find, kernel.extra["fallback"]) if why_not(k) is None]
            target = rows[0].target if rows else {"arch": machine(), "features": []}
            found.append(replace(kernel, name=f"{kernel.name}_double", target=target))
    return tuple(found)


def find(name: str) -> catalog.Kernel:
    """The kernel of that name, also a double."""
    return next((k for k in doubles() if k.name == name), None) or catalog.find(name)


def build_script() -> ModuleType:
    path = HERE.parents[2] / "plugin" / "cpu" / "build.py"
    spec = importlib.util.spec_from_file_location("flashattn_cpu_build", path)
    build = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(build)
    return build


def build_double(kernel: catalog.Kernel, out: Path) -> Path:
    command = build_script().compile_command(kernel, out / f"{kernel.name}.o")
    at = next(i for i, word in enumerate(command) if word.startswith("-I"))
    command.insert(at, f"-I{HERE / 'double'}")
    subprocess.run(command, check=True, capture_output=True, text=True)
    return out / f"{kernel.name}.o"


def objects(names: list[str], directory: Path | None = None) -> list[Path]:
    if directory is None:
        return [resources.kernel_file("cpu", f"{name}.o") for name in names]
    return [directory / f"{name}.o" for name in names]


def link(
    out: Path,
    names: list[str],
    *,
    target: str | None = None,
    main: bool = False,
    directory: Path | None = None,
    doubled: tuple[catalog.Kernel, ...] = (),
) -> Path:
    """driver.c with the named kernels: a shared library, or with ``main`` a static program that
    needs no C library."""
    program = ["-DFA_MAIN", "-static", "-nostdlib", "-ffreestanding", "-fno-stack-protector"]
    kinds = [*program, "-fno-sanitize=all"] if main else ["-shared", "-fPIC"]
    command = [*ZIG, "cc", *(["-target", target] if target else []), "-O2", *kinds]
    listed = [*names, *(k.name for k in doubled)]
    command += [f"-DFA_KERNELS={' '.join(f'X({n})' for n in listed)}", str(HERE / "driver.c")]
    built = [*objects(names, directory), *(build_double(k, out.parent) for k in doubled)]
    command += [*map(str, built), "-o", str(out)]
    subprocess.run(command, check=True, capture_output=True, text=True)
    return out


@cache
def library(directory: Path | None = None) -> ctypes.CDLL:
    """All kernels of this architecture, and doubles. The folder lives as long as the process."""
    folder = tempfile.TemporaryDirectory(prefix="flashattn-kernels-")
    names = [k.name for k in catalog.kernels("cpu") if k.target["arch"] == machine()]
    out = Path(folder.name) / "kernels.so"
    lib = ctypes.CDLL(str(link(out, names, directory=directory, doubled=doubles())))
    lib.kernel_named.restype = ctypes.c_void_p
    lib.folder = folder
    return lib


def _pointer(array: np.ndarray | None) -> int:
    return 0 if array is None else array.ctypes.data


@dataclass
class Scratch:
    memory: np.ndarray

    @staticmethod
    def of(size: int) -> Scratch:
        raw = np.full(size + 64, 0xFF, np.uint8)  # NaNs: nothing may be read before it is written
        start = -raw.ctypes.data % 64
        return Scratch(raw[start : start + size])


def dispatch(
    kernel: catalog.Kernel,
    pointers: list[int],
    constants: np.ndarray,
    sizes: dict,
    workers: int = 1,
    scratch: list[Scratch] | None = None,
    lib: ctypes.CDLL | None = None,
) -> None:
    """Runs the whole grid on ``workers`` threads, worker w taking every workers-th workgroup."""
    lib = lib or library()
    entry = lib.kernel_named(kernel.name.encode())
    if not entry:
        raise KeyError(kernel.name)
    grid = (ctypes.c_uint32 * 3)(*kernel.grid_size(sizes))
    table = (ctypes.c_void_p * 9)(*pointers)
    scratch = scratch or [Scratch.of(kernel.working_bytes) for _ in range(workers)]

    def work(w: int) -> None:
        lib.run_workgroups(
            ctypes.c_void_p(entry), table, ctypes.c_void_p(constants.ctypes.data), grid,
            ctypes.c_uint64(w), ctypes.c_uint64(workers),
            ctypes.c_void_p(scratch[w].memory.ctypes.data),
        )  # fmt: skip

    if workers == 1:
        work(0)
        return
    with ThreadPoolExecutor(workers) as pool:
        list(pool.map(work, range(workers)))


def sizes_of(made: Operands, splits: int = 1) -> dict[str, int]:
    p = made.problem
    return {
        "batch": p.batch,
        "heads": p.heads,
        "kv_heads": p.kv_heads,
        "q_len": p.q_len,
        "splits": splits,
    }


def run(
    kernel: catalog.Kernel,
    made: Operands,
    *,
    splits: int = 3,
    workers: int = 1,
    scratch: list[Scratch] | None = None,
) -> None:
    """Runs a forward kernel, or a partial kernel and its combine; the result is in ``made.o``.
    ``scratch``: memory of each worker, enough for both, made here if not given."""
    q, k, v = (x.buffer for x in (made.q, made.k, made.v))
    operands = [_pointer(x) for x in (q, k, v, made.mask, made.bias, made.sinks)]
    if kernel.role == "forward":
        results = [_pointer(x) for x in (made.o.buffer, made.weights, made.lse)]
        dispatch(kernel, operands + results, words(made), sizes_of(made), workers, scratch)
        return
    p = made.problem
    rows = splits * p.batch * p.heads * p.q_len
    partial_o, ml = (
        np.full((rows, p.dv), np.nan, np.float32),
        np.full((rows, 2), np.nan, np.float32),
    )
    constants, sizes = words(made, splits), sizes_of(made, splits)
    pointers = [*operands, _pointer(partial_o), _pointer(ml), 0]
    dispatch(kernel, pointers, constants, sizes, workers, scratch)
    combine = catalog.find(kernel.combine)
    pointers = [
        _pointer(partial_o),
        _pointer(ml),
        0,
        0,
        0,
        _pointer(made.sinks),
        _pointer(made.o.buffer),
        0,
        _pointer(made.lse),
    ]
    dispatch(combine, pointers, constants, sizes, workers, scratch)
