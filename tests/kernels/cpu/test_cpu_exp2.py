"""The kernels' exponential, over its whole range, against float64."""

from __future__ import annotations

import ctypes
import re
import subprocess
from pathlib import Path

import cpu_native
import numpy as np
import pytest

from iree_flashattn import catalog

HERE = Path(__file__).resolve().parent
SOURCES = HERE.parents[2] / "plugin" / "cpu"
SETS = ["fa_forward_f32_avx512", "fa_forward_f32_avx2", "fa_forward_f32_sse2"]


@pytest.fixture(scope="module", params=SETS)
def exp2(request, tmp_path_factory):
    """Name, x -> y, as the kernel's compiler and flags make it."""
    kernel = catalog.find(request.param)
    if reason := cpu_native.why_not(kernel):
        pytest.skip(reason)
    folder = tmp_path_factory.mktemp("exp2")
    settings = re.findall(r"#define (FA_\w+) ?(\d*)", (SOURCES / kernel.source).read_text())
    source = folder / "exp2.cc"
    lines = [f"#define {name} {value}" for name, value in settings]
    source.write_text("\n".join([*lines, (HERE / "exp2.cc").read_text()]))
    object_file = folder / "exp2.o"
    command = cpu_native.build_script().compile_command(kernel, object_file, source=source)
    subprocess.run(command, check=True, capture_output=True, text=True)
    shared = folder / "exp2.so"
    link = [*cpu_native.ZIG, "cc", "-O2", "-shared", "-fPIC", "-fno-sanitize=all"]
    subprocess.run([*link, str(object_file), "-o", str(shared)], check=True)
    library = ctypes.CDLL(str(shared))

    def call(name: str, x: np.ndarray) -> np.ndarray:
        y = np.empty_like(x)
        pointers = [ctypes.c_void_p(a.ctypes.data) for a in (x, y)]
        getattr(library, f"{name}_all")(*pointers, ctypes.c_int64(x.size))
        return y

    return call


@pytest.mark.parametrize(("name", "limit"), [("exp2", 2e-7), ("exp2_coarse", 7.6e-5)])
def test_relative_error(exp2, name, limit):
    """The lowest exponents, where fractions are coarse, the highest, where they are fine, and both
    sides of every whole and half number."""
    rng = np.random.default_rng(3)
    near = np.arange(0, -126, -0.5)[:, None] * (1 + np.arange(-8, 9) * 2.0**-23)
    x = np.concatenate([-rng.random(1 << 20) * 126, -rng.random(1 << 20) * 2, near.ravel()])
    x = np.minimum(np.maximum(x, -126), 0).astype(np.float32)
    x = np.pad(x, (0, -x.size % 16))
    exact = np.exp2(x.astype(np.float64))
    error = np.abs(exp2(name, x) / exact - 1).max()
    assert limit / 3 < error < limit


@pytest.mark.parametrize("name", ["exp2", "exp2_coarse"])
def test_ends_of_the_range(exp2, name):
    """Nothing subnormal comes out; infinity counts nothing, NaN stays."""
    below = np.nextafter(np.float32(-126), np.float32(-np.inf))
    x = np.resize(np.array([below, -127, -150, -3e38, -np.inf], np.float32), 16)
    np.testing.assert_array_equal(exp2(name, x), 0)
    assert np.isnan(exp2(name, np.full(16, np.nan, np.float32))).all()


def test_zero_is_exact(exp2):
    np.testing.assert_array_equal(exp2("exp2", np.zeros(16, np.float32)), 1)
