"""Kernels touch their operands and their scratch memory and nothing else."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from cpu_cases import attending
from iree_flashattn import problems

HERE = Path(__file__).parent
PYTHON = HERE.parents[2] / "python"


def run_guarded(*arguments: str) -> subprocess.CompletedProcess[str]:
    paths = [str(PYTHON), str(HERE), os.environ.get("PYTHONPATH", "")]
    return subprocess.run(
        [sys.executable, str(HERE / "guarded_run.py"), *arguments],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths))},
        capture_output=True,
        text=True,
        timeout=300,
    )


@pytest.mark.parametrize("side", ["start", "end"])
@pytest.mark.parametrize("kernel", attending())
def test_nothing_outside_is_touched(kernel, side):
    result = run_guarded(kernel.name, side)
    assert result.returncode == 0, result.stderr[-3000:]
    served = [p for p in problems.small() if kernel.role == "forward" or not p.weights]
    assert result.stdout.strip() == f"{len(served)} problems"


def test_the_guard_catches():
    code = "import guarded_run as g; a = g.guarded(100, 'end', 1); g.ctypes.memset(a.ctypes.data + 100, 0, 1)"
    paths = os.pathsep.join([str(PYTHON), str(HERE)])
    result = subprocess.run(
        [sys.executable, "-c", code], env={**os.environ, "PYTHONPATH": paths}, capture_output=True
    )
    assert result.returncode < 0  # ended by a signal
