"""Runs modules of one attention problem in a process of their own, in any element type."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from pathlib import Path

import iree.runtime
import ml_dtypes
import numpy as np
from numpy.typing import NDArray

from iree_flashattn.problems import Problem

TYPES = {"f32": np.float32, "f16": np.float16, "bf16": ml_dtypes.bfloat16}
# PyTorch's own errors on small sizes are as large.
LIMITS = {"f32": 3e-6, "f16": 2e-3, "bf16": 1.6e-2}
RUN_MODULE = Path(iree.runtime.__file__).parents[1] / "_runtime_libs" / "iree-run-module"


def random_inputs(p: Problem) -> list[NDArray]:
    shapes = [
        (p.batch, p.heads, p.q_len, p.dk),
        (p.batch, p.kv_heads, p.kv_len, p.dk),
        (p.batch, p.kv_heads, p.kv_len, p.dv),
    ]
    rng = np.random.default_rng()
    return [rng.standard_normal(shape).astype(TYPES[p.element]) for shape in shapes]


def run(
    p: Problem,
    path: Path,
    inputs: list[NDArray],
    folder: Path,
    emulator: Sequence[str] = (),
    more: Sequence[str] = (),
) -> NDArray:
    """The module's result, in a process of its own. Files are raw: NumPy's know no bf16."""
    flags = []
    for i, array in enumerate(inputs):
        file = folder / f"{i}.bin"
        file.write_bytes(array.tobytes())
        flags.append(f"--input={'x'.join(map(str, array.shape))}x{p.element}=@{file}")
    output = folder / "out.bin"
    command = [*emulator, str(RUN_MODULE), f"--module={path}", "--device=local-sync"]
    command += [*more, *flags, f"--output=@{output}"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return np.frombuffer(output.read_bytes(), TYPES[p.element]).reshape(
        p.batch, p.heads, p.q_len, p.dv
    )
