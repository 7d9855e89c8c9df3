"""Every CUDA kernel on the CPU: the sources of plugin/cuda over the host double.

This covers what does not depend on a GPU: tile ranges, masks, tails, strides, splits, the order of
barriers and asynchronous copies. That the double means what the GPU means is seen on a GPU.
"""

from __future__ import annotations

import shutil
import zlib
from dataclasses import replace

import numpy as np
import pytest
from cuda_cases import FAR_MASKS, cases, compare, far_masks
from host_double import ROOT, compile_row, run

from iree_flashattn import catalog, operands
from iree_flashattn.problems import Problem

# The element types differ in conversions only, so rows alternate between f16 and bf16.
ROWS = [
    row
    for row in catalog.kernels("cuda")
    if row.role != "combine" and row.element in ("f32", "f16" if "d64" in row.name else "bf16")
]
# Every row runs these; the whole problem list is for the cheapest rows of each source, which share
# all their code with the others but for tile sizes.
EVERYWHERE = (
    "odd",
    "gqa_causal",
    "window_tiles",
    "mask_bias",
    "causal_tall_br",
    "decode_band",
    "wide",
    "weights_128",
    "weights_256",
    "decode_mask",
    "lse_empty_nan",
)
# The double is slow, and what other heads and batches compute is the same; lengths stay, with every
# seam between tiles. A GPU has these problems whole.
FEWER = {
    "odd": {"heads": 2, "kv_heads": 2},
    "gqa_causal": {"batch": 1, "heads": 2, "kv_heads": 1},
    "decode_group": {"batch": 1, "heads": 5, "kv_heads": 1},
    "weights_128": {"heads": 1, "kv_heads": 1},
    "many_tiles": {"heads": 1, "kv_heads": 1},
    "long_both": {"heads": 1, "kv_heads": 1},
}
WHOLE_LIST = (
    "fa_forward_f16_sm90a_d64",
    "fa_forward_f16_sm80_d64_general",
    "fa_partial_f32_sm80_d64_general",
    "fa_forward_f16_sm80_d64_weights",
)


def chosen_cases() -> list:
    """Of all cases, those for the double."""
    chosen = []
    for case in cases(ROWS):
        row, problem, splits = case.values
        name = problem.name.rpartition("_")[0]
        if row.name in WHOLE_LIST or name in EVERYWHERE:
            problem = replace(problem, **FEWER.get(name, {}))
            chosen.append(pytest.param(row, problem, splits, id=case.id))
    return chosen


@pytest.fixture(scope="session")
def libraries(tmp_path_factory):
    directory = tmp_path_factory.mktemp("cuda_double")
    return lambda row: compile_row(row, directory)


@pytest.mark.parametrize(("row", "problem", "splits"), chosen_cases())
def test_matches_float64(row, problem, splits, libraries):
    made = operands.make(problem, seed=zlib.crc32(problem.name.encode()))
    combine = catalog.find(row.combine) if row.combine else None
    got = run(row, libraries(row), made, splits, (combine, libraries(combine)) if combine else None)
    compare(made, got)


@pytest.mark.parametrize("row", FAR_MASKS, ids=lambda row: row.name)
def test_far_masks_stay_apart(row, libraries):
    made = far_masks(row)
    combine = catalog.find(row.combine) if row.combine else None
    got = run(row, libraries(row), made, 1, (combine, libraries(combine)) if combine else None)
    compare(made, got)


def test_a_wrong_kernel_is_noticed(tmp_path, libraries):
    """The double is strict: without its waits for copies, a kernel must not pass."""
    row = next(row for row in ROWS if row.source == "forward_mma.cu" and row.role == "forward")
    sources = tmp_path / "src"
    shutil.copytree(ROOT / "plugin" / "cuda" / "src", sources)
    text = (sources / "attend_mma.cuh").read_text()
    broken = text.replace("copy_async_wait<2 * C::kStages - 2>();", "")
    assert broken != text
    (sources / "attend_mma.cuh").write_text(broken)
    made = operands.make(Problem("waits", q_len=20, kv_len=200, dk=64, element=row.element), seed=1)
    library = compile_row(row, tmp_path, sources)
    assert not np.allclose(run(row, library, made), made.reference().out, atol=0.1)
