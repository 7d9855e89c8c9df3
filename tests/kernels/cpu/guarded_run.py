"""A program: runs problems with every buffer between two inaccessible pages, so that the first
byte read or written outside ends it with a fault. Argument: the kernel's name. Every problem runs
twice: buffers touch the guard with their start, then with their end."""

from __future__ import annotations

import ctypes
import itertools
import mmap
import sys

import cpu_native
import numpy as np

from iree_flashattn import operands, problems

PAGE = mmap.PAGESIZE
LIBC = ctypes.CDLL(None, use_errno=True)
_KEEP = []


def guarded(size: int, side: str, align: int) -> np.ndarray:
    """`size` bytes that touch an inaccessible page at their start or (up to `align`) their end."""
    pages = -(-max(size, 1) // PAGE)
    region = mmap.mmap(-1, (pages + 2) * PAGE)
    _KEEP.append(region)
    whole = np.frombuffer(region, np.uint8)
    for page in (0, pages + 1):
        address = ctypes.c_void_p(whole.ctypes.data + page * PAGE)
        if LIBC.mprotect(address, ctypes.c_size_t(PAGE), 0):
            raise OSError(ctypes.get_errno(), "mprotect")
    room = pages * PAGE - size
    start = PAGE + (room // align * align if side == "end" else 0)
    return whole[start : start + size]


def protect(array: np.ndarray | None, side: str) -> np.ndarray | None:
    if array is None:
        return None
    flat = np.ascontiguousarray(array)
    copy = guarded(flat.nbytes, side, flat.itemsize).view(flat.dtype).reshape(flat.shape)
    copy[...] = flat
    return copy


def main() -> None:
    kernel = cpu_native.find(sys.argv[1])
    if reason := cpu_native.why_not(kernel):  # asking is what lets a process use AMX
        raise SystemExit(reason)
    ran = 0
    for side, problem in itertools.product(("start", "end"), problems.small()):
        cpu_native.Scratch.of = staticmethod(
            lambda size, side=side: cpu_native.Scratch(guarded(size, side, 64))
        )
        problem = problem.with_element(kernel.element)
        if kernel.role == "partial" and problem.weights:
            continue
        made = operands.make(problem, 11)
        for name in "qkvo":
            operand = getattr(made, name)
            operand.buffer = protect(operand.buffer, side)
        made.mask, made.bias = protect(made.mask, side), protect(made.bias, side)
        made.sinks, made.weights = protect(made.sinks, side), protect(made.weights, side)
        made.lse = protect(made.lse, side)
        cpu_native.run(kernel, made)
        reference, got = made.reference().out, made.result()
        np.testing.assert_allclose(got, reference, atol=2e-2 if kernel.element == "bf16" else 4e-3)
        ran += 1
        del made
    print(f"{ran} runs")


if __name__ == "__main__":
    main()
