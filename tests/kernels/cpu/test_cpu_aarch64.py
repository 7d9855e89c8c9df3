"""The aarch64 kernels, run whole under qemu-user."""

from __future__ import annotations

import shutil
import struct
import subprocess

import cpu_native
import numpy as np
import pytest
from cpu_cases import check, serves
from iree_flashattn import catalog, operands, problems
from iree_flashattn.operands import words

QEMU = shutil.which("qemu-aarch64-static") or shutil.which("qemu-aarch64")
KERNELS = [k for k in catalog.kernels("cpu") if k.target["arch"] == "aarch64"]
pytestmark = [
    pytest.mark.aarch64,
    pytest.mark.skipif(QEMU is None, reason="qemu-aarch64 (Debian's qemu-user-static) is missing"),
]


@pytest.fixture(scope="module")
def program(tmp_path_factory):
    path = tmp_path_factory.mktemp("aarch64") / "driver"
    return cpu_native.link(path, [k.name for k in KERNELS], target="aarch64-linux-none", main=True)


def dispatch(program, kernel, buffers, constants, sizes):
    """Like cpu_native.dispatch, in the emulator; returns the two result buffers as bytes."""
    raw = [b"" if b is None else np.ascontiguousarray(b).tobytes() for b in buffers]
    header = [len(b) for b in raw] + [*kernel.grid_size(sizes), kernel.scratch_bytes]
    message = kernel.name.encode().ljust(64, b"\0") + struct.pack("<12Q", *header)
    done = subprocess.run(
        [QEMU, str(program)], input=message + constants.tobytes() + b"".join(raw),
        capture_output=True, timeout=120, check=True,
    ).stdout  # fmt: skip
    return done[: len(raw[6])], done[len(raw[6]) :]


@pytest.mark.parametrize("problem", problems.small(), ids=lambda p: p.name)
@pytest.mark.parametrize("kernel", [k for k in KERNELS if k.role != "combine"], ids=lambda k: k.name)
def test_problem(program, kernel, problem):
    problem = problem.with_element(kernel.element)
    if not serves(kernel, problem):
        return
    made = operands.make(problem, 21)
    inputs = [made.q.buffer, made.k.buffer, made.v.buffer, made.mask, made.bias, made.sinks]
    if kernel.role == "forward":
        o, weights = dispatch(
            program, kernel, [*inputs, made.o.buffer, made.weights], made.words,
            cpu_native.sizes_of(made),
        )  # fmt: skip
        if made.weights is not None:
            made.weights[...] = np.frombuffer(weights, made.weights.dtype).reshape(made.weights.shape)
    else:
        splits, p = 3, problem
        rows = splits * p.batch * p.heads * p.q_len
        constants, sizes = words(made, splits), cpu_native.sizes_of(made, splits)
        empty = [np.zeros((rows, n), np.float32) for n in (p.dv, 2)]
        partial_o, ml = dispatch(program, kernel, [*inputs, *empty], constants, sizes)
        operands_ = [np.frombuffer(x, np.uint8) for x in (partial_o, ml)]
        o, _ = dispatch(
            program, catalog.find(kernel.combine),
            [*operands_, None, None, None, made.sinks, made.o.buffer, None], constants, sizes,
        )  # fmt: skip
    made.o.buffer[...] = np.frombuffer(o, made.o.buffer.dtype)
    check(made, kernel.name)
