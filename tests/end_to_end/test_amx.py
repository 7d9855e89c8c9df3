"""AMX: chosen for the runtime extension alone, and never in the way of a machine without it."""

from __future__ import annotations

import ctypes
import platform
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from iree_flashattn import catalog, oracle, resources
from iree_flashattn.bench import machine, modules
from iree_flashattn.compiling import compile_with_family
from iree_flashattn.problems import Problem, causal
from support.raw_modules import LIMITS, random_inputs, run

PLUGIN = {"IREE_FLASHATTN_CPU_LINK": "plugin"}
SAPPHIRE_RAPIDS = (
    "--iree-hal-target-device=local",
    "--iree-hal-local-target-device-backends=llvm-cpu",
    "--iree-llvmcpu-target-cpu=sapphirerapids",
)
# Blocks of rows of either kernel, whole and cut; and several blocks of keys.
PROBLEMS = [
    Problem("prefill", heads=2, q_len=300, kv_len=530, dk=40, dv=72, element="bf16"),
    Problem("gqa", batch=2, heads=4, kv_heads=2, q_len=75, kv_len=90, dk=64, element="bf16"),
    causal(Problem("causal", heads=2, q_len=610, kv_len=610, dk=64, element="bf16")),
]
ROW = catalog.find("fa_forward_bf16_amx")
pytestmark = pytest.mark.skipif(platform.machine() != "x86_64", reason="AMX is x86-64's")


def why_no_amx() -> str:
    """Why a process on this machine cannot use AMX, or ''."""
    absent = set(ROW.target["features"]) - machine.target_of().features
    if absent:
        return f"this machine has no {', '.join(sorted(absent))}"
    if sys.platform != "linux" or ctypes.CDLL(None).syscall(158, 0x1023, 18):
        return "the operating system does not let processes use AMX tiles"
    return ""


@pytest.fixture(params=PROBLEMS, ids=lambda p: p.name)
def problem(request: pytest.FixtureRequest) -> Problem:
    return request.param


def compiled(compile_served: Callable, problem: Problem, folder: Path) -> Path:
    done = compile_served(modules.fused(problem), flags=SAPPHIRE_RAPIDS, options=PLUGIN)
    assert [site["kernel"] for site in done.sites] == [ROW.name]
    path = folder / "module.vmfb"
    path.write_bytes(done.vmfb)
    return path


def through_extension(p: Problem, path: Path, inputs: list) -> np.ndarray:
    plugin = resources.native_dir() / "lib" / "libiree_flashattn_runtime.so"
    return run(p, path, inputs, path.parent, more=[f"--executable_plugin={plugin}"])


def fallback_result(p: Problem, inputs: list, folder: Path) -> np.ndarray:
    """What the best fallback of this machine computes in a module of its own."""
    features = machine.target_of().features
    name = next(n for n in ROW.extra["fallback"]
                if set(catalog.find(n).target["features"]) <= features)  # fmt: skip
    family = name.removeprefix("fa_forward_bf16_")
    path = folder / f"{family}.vmfb"
    path.write_bytes(compile_with_family(modules.fused(p), family).vmfb)
    return run(p, path, inputs, folder)


def check(p: Problem, inputs: list, result: np.ndarray) -> None:
    exact = oracle.attention(*inputs, scale=p.effective_scale, band_hi=p.band_hi).out
    np.testing.assert_allclose(result.astype(np.float64), exact, atol=LIMITS["bf16"])


def test_not_in_modules_that_hold_their_kernels(compile_served: Callable) -> None:
    """Nobody would ask the operating system: the module takes AVX-512."""
    flags = [*SAPPHIRE_RAPIDS, "--compile-to=preprocessing"]
    done = compile_served(modules.fused(PROBLEMS[0]), flags=flags)
    assert [site["kernel"] for site in done.sites] == ["fa_forward_bf16_avx512"]


@pytest.mark.skipif(not why_no_amx(), reason="this machine has AMX")
def test_fallback_without_amx(problem: Problem, compile_served: Callable, tmp_path: Path) -> None:
    """The import resolves to another kernel, whose very bits come out."""
    path = compiled(compile_served, problem, tmp_path)
    inputs = random_inputs(problem)
    result = through_extension(problem, path, inputs)
    check(problem, inputs, result)
    np.testing.assert_array_equal(result, fallback_result(problem, inputs, tmp_path))


@pytest.mark.skipif(bool(why_no_amx()), reason=why_no_amx())
def test_on_amx(problem: Problem, compile_served: Callable, tmp_path: Path) -> None:
    path = compiled(compile_served, problem, tmp_path)
    inputs = random_inputs(problem)
    result = through_extension(problem, path, inputs)
    check(problem, inputs, result)
    assert np.any(result != fallback_result(problem, inputs, tmp_path))
