"""One module for several instruction sets: every machine runs the best kernel that it can."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from iree_flashattn import oracle
from iree_flashattn.bench import machine, modules
from iree_flashattn.compiling import compile_with_family
from iree_flashattn.problems import Problem
from support.raw_modules import LIMITS, random_inputs, run

LOCAL = ("--iree-hal-target-device=local", "--iree-hal-local-target-device-backends=llvm-cpu")
PREFILL = Problem("prefill", 1, 2, 2, 65, 130, 40, 24)
DECODE = Problem("decode", 1, 2, 1, 1, 2100, 32, 32)
PROBLEMS = [p.with_element(e) for p in (PREFILL, DECODE) for e in ("f32", "f16", "bf16")]
QEMU = shutil.which("qemu-x86_64-static") or shutil.which("qemu-x86_64")


@pytest.fixture(scope="module", params=["generic", "haswell"])
def target_cpu(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(scope="module", params=PROBLEMS, ids=lambda p: p.name)
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


def run_and_compare(p: Problem, path: Path, folder: Path, emulator=()) -> None:
    inputs = random_inputs(p)
    result = run(p, path, inputs, folder, emulator)
    expected = oracle.attention(*inputs, scale=p.effective_scale).out
    np.testing.assert_allclose(result.astype(np.float64), expected, atol=LIMITS[p.element])


def test_on_this_machine(module: tuple, tmp_path: Path) -> None:
    run_and_compare(*module, tmp_path)


@pytest.mark.skipif(QEMU is None, reason="qemu-x86_64 (Debian's qemu-user-static) is missing")
@pytest.mark.parametrize("machine", ["Nehalem", "Haswell"])
def test_on_machines_with_fewer_instructions(
    module: tuple, target_cpu: str, machine: str, tmp_path: Path
) -> None:
    """An instruction that the emulated machine lacks ends the process."""
    if target_cpu == "haswell" and machine == "Nehalem":
        pytest.skip("a module for Haswell does not run on Nehalem")
    run_and_compare(*module, tmp_path, [QEMU, "-cpu", machine])


@pytest.mark.parametrize("problem", [PREFILL, DECODE], ids=lambda p: p.name)
def test_the_machines_own_instructions_are_used(
    problem: Problem, compile_served: Callable, tmp_path: Path
) -> None:
    """A generic module has the bits of the machine's best kernels: each instruction set adds in
    an order of its own."""
    features = machine.target_of().features
    if "avx2" not in features:
        pytest.skip("this machine has no AVX2: it runs what any machine does")
    best, other = ("avx512_small", "avx2") if "avx512vl" in features else ("avx2", "sse2")
    source = modules.fused(problem)
    flags = [*LOCAL, "--iree-llvmcpu-target-cpu=generic"]
    modules_of = {"generic": compile_served(source, flags=flags)}
    modules_of |= {family: compile_with_family(source, family) for family in (best, other)}
    inputs = random_inputs(problem)
    results = {}
    for name, done in modules_of.items():
        path = tmp_path / f"{name}.vmfb"
        path.write_bytes(done.vmfb)
        results[name] = run(problem, path, inputs, tmp_path)
    assert modules_of[best].sites[0]["kernel"].endswith(best)
    assert modules_of[other].sites[0]["kernel"].endswith(other)
    np.testing.assert_array_equal(results["generic"], results[best])
    assert np.any(results["generic"] != results[other])
