"""Every CUDA kernel on the GPU of this machine, against the float64 reference."""

from __future__ import annotations

import zlib

import gpu_driver
import pytest
from cuda_cases import FAR_MASKS, cases, compare, far_masks

from iree_flashattn import catalog, operands, resources

pytestmark = [
    pytest.mark.cuda,
    pytest.mark.skipif(gpu_driver.why_no_gpu() is not None, reason=str(gpu_driver.why_no_gpu())),
]
_loaded: dict[str, gpu_driver.Kernel] = {}


def load(row: catalog.Kernel) -> gpu_driver.Kernel:
    if row.name not in _loaded:
        suffix = "cubin" if row.target.get("only") else "ptx"
        image = resources.kernel_file("cuda", f"{row.name}.{suffix}")
        _loaded[row.name] = gpu_driver.Kernel(row, image)
    return _loaded[row.name]


@pytest.mark.parametrize(("row", "problem", "splits"), cases(catalog.kernels("cuda")))
def test_matches_float64(row, problem, splits):
    if reason := gpu_driver.why_not(row):
        pytest.skip(f"{row.name} {reason}")
    made = operands.make(problem, seed=zlib.crc32(problem.name.encode()))
    combine = load(catalog.find(row.combine)) if row.combine else None
    got = gpu_driver.run(load(row), made, splits, combine)
    compare(made, got)


@pytest.mark.parametrize("row", FAR_MASKS, ids=lambda row: row.name)
def test_far_masks_stay_apart(row):
    if reason := gpu_driver.why_not(row):
        pytest.skip(f"{row.name} {reason}")
    made = far_masks(row)
    combine = load(catalog.find(row.combine)) if row.combine else None
    compare(made, gpu_driver.run(load(row), made, 1, combine))
