"""The aarch64 kernels, run whole under qemu-user: one emulator process a kernel and step."""

from __future__ import annotations

import io
import shutil
import struct
import subprocess
from dataclasses import dataclass
from pathlib import Path

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


@dataclass
class Job:
    """One dispatch: a kernel, its 9 buffers (the last three are results), constants and sizes."""

    kernel: catalog.Kernel
    buffers: list[np.ndarray | None]
    constants: np.ndarray
    sizes: dict[str, int]


def dispatch(program: Path, jobs: list[Job]) -> list[tuple[bytes, ...]]:
    """Like cpu_native.dispatch, in the emulator; the result buffers of every job."""
    message, lengths = [], []
    for job in jobs:
        raw = [b"" if b is None else np.ascontiguousarray(b).tobytes() for b in job.buffers]
        lengths.append([len(x) for x in raw[6:]])
        grid = job.kernel.grid_size(job.sizes)
        header = struct.pack("<13Q", *map(len, raw), *grid, job.kernel.scratch_bytes)
        name = job.kernel.name.encode().ljust(64, b"\0")
        message += [name, header, job.constants.tobytes(), *raw]
    done = subprocess.run(
        [QEMU, str(program)], input=b"".join(message), capture_output=True, timeout=240, check=True
    ).stdout
    assert len(done) == sum(map(sum, lengths))
    stream = io.BytesIO(done)
    return [tuple(stream.read(n) for n in sizes) for sizes in lengths]


@pytest.mark.parametrize(
    "kernel", [k for k in KERNELS if k.role != "combine"], ids=lambda k: k.name
)
def test_small_problems(program, kernel):
    splits = 3 if kernel.role == "partial" else 1
    cases = [p.with_element(kernel.element) for p in problems.small()]
    cases = [operands.make(p, 21) for p in cases if serves(kernel, p)]
    assert len(cases) > 30
    jobs = []
    for made in cases:
        p = made.problem
        results = [made.o.buffer, made.weights, made.lse]
        if kernel.role == "partial":
            rows = splits * p.batch * p.heads * p.q_len
            results = [np.full((rows, n), np.nan, np.float32) for n in (p.dv, 2)]
            results.append(None)
        inputs = [made.q.buffer, made.k.buffer, made.v.buffer, made.mask, made.bias, made.sinks]
        sizes = cpu_native.sizes_of(made, splits)
        jobs.append(Job(kernel, [*inputs, *results], words(made, splits), sizes))
    results = dispatch(program, jobs)
    if kernel.role == "partial":
        combine = catalog.find(kernel.combine)
        steps = []
        for made, job, result in zip(cases, jobs, results, strict=True):
            inputs = [*(np.frombuffer(x, np.uint8) for x in result[:2]), None, None, None]
            buffers = [*inputs, made.sinks, made.o.buffer, None, made.lse]
            steps.append(Job(combine, buffers, job.constants, job.sizes))
        results = dispatch(program, steps)
    for made, (o, *others) in zip(cases, results, strict=True):
        made.o.buffer[...] = np.frombuffer(o, made.o.buffer.dtype)
        for array, read in zip((made.weights, made.lse), others, strict=True):
            if array is not None:
                array[...] = np.frombuffer(read, array.dtype).reshape(array.shape)
        check(made, kernel.name)
