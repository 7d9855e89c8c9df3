"""Kernels that want more scratch memory than a module's get it from the runtime extension."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from iree_flashattn import catalog

HERE = Path(__file__).resolve().parent
SOURCES = HERE.parents[1] / "plugin" / "runtime"
KERNELS = "X(fa_own, fa_own, 2, 1048576, 1)\nX(fa_module, fa_module, 1, 0, 1)\n"


@pytest.mark.skipif(sys.platform != "linux", reason="the program uses barriers of POSIX threads")
def test_memory_of_threads(tmp_path: Path) -> None:
    """Each thread's own, freed when it ends or the plugin goes; no memory fails the call."""
    (tmp_path / "kernels.inc").write_text(KERNELS)
    program = tmp_path / "own_scratch"
    command = [sys.executable, "-m", "ziglang", "cc", "-std=gnu11", "-O1", "-g", "-pthread"]
    command += [f"-I{SOURCES}", f"-I{tmp_path}", str(HERE / "own_scratch.c"), "-o", str(program)]
    subprocess.run(command, check=True, capture_output=True, text=True)
    result = subprocess.run([program], capture_output=True, text=True, timeout=60)
    assert (result.returncode, result.stdout) == (0, "passed\n")


def test_rows_that_have_some() -> None:
    """Nobody but the extension could give it."""
    rows = [k for k in catalog.kernels("cpu") if "own_scratch_bytes" in k.extra]
    assert rows
    for row in rows:
        assert row.extra["link"] == "plugin"
        assert row.working_bytes > row.scratch_bytes
