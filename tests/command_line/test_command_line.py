"""The commands as a user runs them, and the generated parts of the documents."""

from __future__ import annotations

from pathlib import Path

import pytest

from iree_flashattn import catalog, matrix, resources
from iree_flashattn.bench import modules
from iree_flashattn.problems import Problem
from support.command_line import run

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def model(tmp_path: Path) -> Path:
    path = tmp_path / "model.mlir"
    served = Problem("served", heads=2, q_len=8, kv_len=8, dk=16)
    wide = Problem("wide", heads=2, q_len=8, kv_len=8, dk=2048)
    path.write_text(modules.fused(served, "served") + modules.fused(wide, "wide"))
    return path


def test_info() -> None:
    out, _ = run("info")
    for word in ("iree-flashattn", "3.13.0", "compiler plugin", "avx512", "neon", "CUDA", "Vulkan"):
        assert word in out
    assert str(resources.native_dir()) in out


def test_info_runtime_plugin_prints_its_path_only() -> None:
    out, _ = run("info", "--runtime-plugin")
    assert Path(out.rstrip("\n")).is_file()


def test_explain(model: Path) -> None:
    out, _ = run("explain", str(model))
    assert "fa_forward_f32_" in out
    assert "1x2x8x8x16" in out
    assert "up to 1024, the site has 2048" in out
    assert "1 of 2 sites are served" in out


def test_explain_takes_flags_of_the_compiler(model: Path) -> None:
    out, _ = run(
        "explain",
        str(model),
        "--iree-hal-target-device=local",
        "--iree-hal-local-target-device-backends=vmvx",
    )
    assert "0 of 2 sites are served" in out
    assert "vmvx" in out


def test_explain_without_attention(tmp_path: Path) -> None:
    path = tmp_path / "empty.mlir"
    path.write_text("func.func @f() { return }")
    out, _ = run("explain", str(path))
    assert "no attention found" in out


def test_explain_of_a_broken_module(tmp_path: Path) -> None:
    path = tmp_path / "broken.mlir"
    path.write_text("func.func @f() { return")
    _, error = run("explain", str(path), status=1)
    assert str(path) in error


def test_explain_of_a_file_that_is_no_text(tmp_path: Path) -> None:
    path = tmp_path / "model.bin"
    path.write_bytes(bytes(range(256)))
    _, error = run("explain", str(path), status=1)
    assert str(path) in error
    assert all(c.isprintable() or c == "\n" for c in error)


def test_explain_with_a_flag_that_the_compiler_does_not_know(model: Path) -> None:
    _, error = run("explain", str(model), "--no-such-flag", status=1)
    assert error.startswith("iree-compile: Unknown command line argument '--no-such-flag'")


def test_explain_of_no_file() -> None:
    _, error = run("explain", "missing.mlir", status=1)
    assert error == "iree-flashattn: missing.mlir: no such file\n"


def test_explain_of_a_folder(tmp_path: Path) -> None:
    _, error = run("explain", str(tmp_path), status=1)
    assert error == f"iree-flashattn: {tmp_path}: a folder\n"


def test_tables_fit_a_narrow_terminal(model: Path) -> None:
    """No name is cut, and no line is longer than the terminal."""
    out, _ = run("info", COLUMNS="80")
    table = out[out.index("back end") :]
    assert "sm90a_d128_general" in table
    assert max(map(len, table.splitlines())) <= 80
    out, _ = run("explain", str(model), COLUMNS="80")
    assert max(map(len, out.splitlines())) <= 80


def test_demo() -> None:
    out, _ = run("demo")
    assert "IREE issue #11780" in out
    assert "attention 1x8x1024x64" in out
    assert out.count("stock IREE") == 2
    assert out.count("with fa_forward_f32_") == 2


def test_support_matrix_is_current() -> None:
    """``python -m iree_flashattn.matrix README.md`` brings it up to date."""
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert matrix.updated(readme) == readme


def test_support_matrix_has_every_kernel_family() -> None:
    text = matrix.markdown()
    for backend in catalog.BACKENDS:
        for kernel in catalog.kernels(backend):
            if kernel.role != "combine":
                assert f"| {matrix.family(kernel)} |" in text


def test_support_matrix_needs_its_markers() -> None:
    with pytest.raises(ValueError, match="support-matrix:begin"):
        matrix.updated("# A document without them")
