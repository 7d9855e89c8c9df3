"""plugin/cuda/build.py: what it writes, and what it says without a compiler."""

from __future__ import annotations

import re

import pytest
from host_double import build_module

from iree_flashattn import catalog
from iree_flashattn.abi import BINDING, WORD_COUNT
from iree_flashattn.choosing.cuda import OLDEST
from iree_flashattn.emitting import cuda as emitting


def test_without_nvcc_nothing_is_built(tmp_path, monkeypatch, capsys):
    build = build_module()
    monkeypatch.setattr(build, "find_nvcc", lambda: None)
    for arguments, status in (([], 0), (["--require"], 1)):
        monkeypatch.setattr("sys.argv", ["build.py", "--out", str(tmp_path), *arguments])
        assert build.main() == status
        assert "without CUDA kernels" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_emission_and_build_name_the_same_files():
    for row in catalog.kernels("cuda"):
        assert emitting.image_name(row) == build_module().image_name(row)


def test_every_row_has_a_place_in_the_table_of_targets():
    """The floor of the back end serves every row that is not for one architecture alone."""
    for row in catalog.kernels("cuda"):
        assert row.target["sm"] >= OLDEST
        assert len(row.workgroup) == 1
        if not row.target.get("only"):
            # What the smallest of the GPUs from sm_80 on gives to a block.
            assert row.scratch_bytes <= 101376


def test_ptx_asks_for_an_old_driver_and_takes_the_launchers_arguments(tmp_path):
    """One parameter a binding, then one a constant; the ISA version of 2021's drivers."""
    build = build_module()
    nvcc = build.find_nvcc()
    if nvcc is None:
        pytest.skip("no nvcc on the PATH and none from PyPI")
    row = catalog.find("fa_combine_f16_sm80")
    text = build.compile_row(row, nvcc, tmp_path).read_text()
    assert re.search(r"^\.version 7\.4$", text, re.MULTILINE)
    assert ".target sm_80" in text
    entry = text[text.index(f".visible .entry {row.name}(") :]
    parameters = re.findall(r"\.param \.(u64|u32)", entry[: entry.index(")")])
    assert parameters == ["u64"] * (BINDING["COMBINE_OUT"] + 1) + ["u32"] * WORD_COUNT


@pytest.mark.parametrize(
    "message",
    [
        "ptxas info : (C7512) Potential Performance Loss: wgmma.mma_async instructions are"
        " serialized due to insufficient register resources for the function 'fa_x'",
        "ptxas warning : (C7508) setmaxnreg is ignored to maintain minimum register requirements",
    ],
)
def test_hopper_code_that_the_assembler_gave_up_on_is_refused(message):
    """The assembler only tells; such a kernel would run at a fraction of its speed."""
    build = build_module()
    row = catalog.find("fa_forward_f16_sm90a_d64")
    build._refuse_slow_code(row, "ptxas info : Used 128 registers, used 16 barriers")
    with pytest.raises(build.BuildError, match=row.name):
        build._refuse_slow_code(row, f"ptxas info : Used 168 registers\n{message}\n")
