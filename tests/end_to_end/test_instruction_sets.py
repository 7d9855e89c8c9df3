"""One module for several instruction sets: every machine runs the best kernel that it can."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import iree.runtime
import numpy as np
import pytest

from iree_flashattn import oracle
from iree_flashattn.bench import modules
from iree_flashattn.problems import Problem

LOCAL = ("--iree-hal-target-device=local", "--iree-hal-local-target-device-backends=llvm-cpu")
PREFILL = Problem("prefill", 1, 2, 2, 65, 130, 40, 24)
DECODE = Problem("decode", 1, 2, 1, 1, 2100, 32, 32)
QEMU = shutil.which("qemu-x86_64-static") or shutil.which("qemu-x86_64")
RUN_MODULE = Path(iree.runtime.__file__).parents[1] / "_runtime_libs" / "iree-run-module"


@pytest.fixture(scope="module", params=["generic", "haswell"])
def target_cpu(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(scope="module", params=[PREFILL, DECODE], ids=lambda p: p.name)
def module(
    request: pytest.FixtureRequest,
    target_cpu: str,
    compile_served: Callable,
    tmp_path_factory: pytest.TempPathFactory,
) -> tuple[Problem, Path]:
    flags = [*LOCAL, f"--iree-llvmcpu-target-cpu={target_cpu}"]
    done = compile_served(modules.fused(request.param), flags=flags)
    path = tmp_path_factory.mktemp("sets") / "module.vmfb"
    path.write_bytes(done.vmfb)
    return request.param, path


def run(problem: Problem, path: Path, folder: Path, emulator: list[str]) -> tuple:
    """(result, expected) of the module on fresh inputs, in a process of its own."""
    rng = np.random.default_rng()
    shapes = [
        (problem.batch, problem.heads, problem.q_len, problem.dk),
        (problem.batch, problem.kv_heads, problem.kv_len, problem.dk),
        (problem.batch, problem.kv_heads, problem.kv_len, problem.dv),
    ]
    inputs = [rng.standard_normal(shape, np.float32) for shape in shapes]
    flags = []
    for i, array in enumerate(inputs):
        np.save(folder / f"{i}.npy", array)
        flags.append(f"--input=@{folder / f'{i}.npy'}")
    output = folder / "out.npy"
    command = [*emulator, str(RUN_MODULE), f"--module={path}", "--device=local-sync", *flags]
    done = subprocess.run([*command, f"--output=@{output}"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    expected = oracle.attention(*inputs, scale=problem.effective_scale).out
    return np.load(output), expected


def test_on_this_machine(module: tuple, tmp_path: Path) -> None:
    result, expected = run(*module, tmp_path, [])
    np.testing.assert_allclose(result, expected, atol=3e-6)


@pytest.mark.skipif(QEMU is None, reason="qemu-x86_64 (Debian's qemu-user-static) is missing")
@pytest.mark.parametrize("machine", ["Nehalem", "Haswell"])
def test_on_machines_with_fewer_instructions(
    module: tuple, target_cpu: str, machine: str, tmp_path: Path
) -> None:
    """An instruction that the emulated machine lacks ends the process."""
    if target_cpu == "haswell" and machine == "Nehalem":
        pytest.skip("a module for Haswell does not run on Nehalem")
    result, expected = run(*module, tmp_path, [QEMU, "-cpu", machine])
    np.testing.assert_allclose(result, expected, atol=3e-6)
