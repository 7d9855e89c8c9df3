"""Kernels touch their operands and their scratch memory and nothing else."""

from __future__ import annotations

import mmap
import os
import subprocess
import sys
from pathlib import Path

import cpu_native
import numpy as np
import pytest
from cpu_cases import attending

from iree_flashattn import operands, problems
from iree_flashattn.abi import WORD
from iree_flashattn.problems import Problem

HERE = Path(__file__).parent
PYTHON = Path(problems.__file__).parents[1]  # of the installation under test


def run_guarded(*arguments: str) -> subprocess.CompletedProcess[str]:
    paths = [str(PYTHON), str(HERE), os.environ.get("PYTHONPATH", "")]
    return subprocess.run(
        [sys.executable, str(HERE / "guarded_run.py"), *arguments],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths))},
        capture_output=True,
        text=True,
        timeout=300,
    )


@pytest.mark.parametrize("kernel", attending())
def test_nothing_outside_is_touched(kernel):
    result = run_guarded(kernel.name)
    assert result.returncode == 0, result.stderr[-3000:]
    served = [p for p in problems.small() if kernel.role == "forward" or not p.weights]
    assert result.stdout.strip() == f"{2 * len(served)} runs"


def test_the_guard_catches():
    code = "import guarded_run as g; a = g.guarded(100, 'end', 1); "
    code += "g.ctypes.memset(a.ctypes.data + 100, 0, 1)"
    paths = os.pathsep.join([str(PYTHON), str(HERE)])
    result = subprocess.run(
        [sys.executable, "-c", code], env={**os.environ, "PYTHONPATH": paths}, capture_output=True
    )
    assert result.returncode < 0  # ended by a signal


def test_offsets_beyond_32_bits():
    """Batches of K three billion elements apart (12 GB of address space, a few pages of memory)."""
    no_reserve, stride = 0x4000, 3_000_000_000
    kernel = next(p.values[0] for p in attending() if "_f16_" in p.id and not p.marks)
    made = operands.make(Problem("far", batch=3, q_len=20, kv_len=30, dk=16, element="f16"), 3)
    region = mmap.mmap(
        -1, (2 * stride + 30 * 16) * 2, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | no_reserve
    )
    far = np.frombuffer(region, np.float16)
    for b in range(3):
        far[b * stride : b * stride + 480] = made.k.view()[b].ravel()
    words = made.words.copy()
    words[WORD["K_STRIDE_B"]] = stride
    pointers = [x.ctypes.data for x in (made.q.buffer, far, made.v.buffer)] + [0, 0, 0]
    pointers += [made.o.buffer.ctypes.data, 0, 0]
    cpu_native.dispatch(kernel, pointers, words, cpu_native.sizes_of(made))
    np.testing.assert_allclose(made.result(), made.reference().out, atol=2e-3)
