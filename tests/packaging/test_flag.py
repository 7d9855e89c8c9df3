"""The one flag, through every door of the stock compiler, and its absence."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from support.environments import CPU_FLAGS, PLUGIN_FLAG, Environment

COMPILE_FILE = """
import sys
from iree.compiler.tools import compile_file, compile_str
source, target, door, *flags = sys.argv[1:]
if door == "file":
    compile_file(source, output_file=target, extra_args=flags)
else:
    open(target, "wb").write(compile_str(open(source).read(), extra_args=flags))
"""
RUN = """
import sys
import numpy as np
from iree import runtime
assert "iree_flashattn" not in sys.modules
context = runtime.SystemContext(config=runtime.Config("local-task"))
context.add_vm_module(runtime.VmModule.mmap(context.instance, sys.argv[1]))
arguments = np.load(sys.argv[2])
result = context.modules.module["attention"](arguments["q"], arguments["k"], arguments["v"])
np.save(sys.argv[3], result.to_host())
"""


@pytest.fixture(scope="module")
def with_flag(
    compiler_environment: Environment,
    attention_mlir: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    """attention.mlir compiled with the flag; its report is beside it."""
    output = tmp_path_factory.mktemp("flag") / "attention.vmfb"
    result = compiler_environment.compile(
        attention_mlir,
        output,
        PLUGIN_FLAG,
        IREE_FLASHATTN_REPORT=str(output.with_suffix(".json")),
        IREE_FLASHATTN_GATE="off",
    )
    assert result.returncode == 0, result.stderr
    return output


def test_the_flag_substitutes_and_reports(with_flag: Path) -> None:
    (site,) = json.loads(with_flag.with_suffix(".json").read_text())["sites"]
    assert site["matched"], site
    assert site["kernel"].startswith("fa_")
    assert site["kernel"].encode() in with_flag.read_bytes()


def test_the_module_runs_where_only_the_runtime_is(
    with_flag: Path, runtime_environment: Environment, tmp_path: Path
) -> None:
    rng = np.random.default_rng()
    q, k, v = (rng.standard_normal((2, 160, 32)).astype(np.float32) for _ in range(3))
    np.savez(tmp_path / "arguments.npz", q=q, k=k, v=v)
    result = runtime_environment.run_python(
        RUN, with_flag, tmp_path / "arguments.npz", tmp_path / "o.npy"
    )
    assert result.returncode == 0, result.stderr
    scores = 0.125 * q.astype(np.float64) @ k.astype(np.float64).transpose(0, 2, 1)
    p = np.exp(scores - scores.max(-1, keepdims=True))
    expected = p / p.sum(-1, keepdims=True) @ v.astype(np.float64)
    np.testing.assert_allclose(np.load(tmp_path / "o.npy"), expected, rtol=0, atol=2e-6)


@pytest.mark.parametrize("door", ["file", "str"])
def test_the_python_tools_take_the_flag(
    door: str,
    compiler_environment: Environment,
    with_flag: Path,
    attention_mlir: Path,
    tmp_path: Path,
) -> None:
    result = compiler_environment.run_python(
        COMPILE_FILE,
        *(attention_mlir, tmp_path / "out.vmfb", door, *CPU_FLAGS, PLUGIN_FLAG),
        IREE_FLASHATTN_REPORT=str(tmp_path / "report.json"),
        IREE_FLASHATTN_GATE="off",
    )
    assert result.returncode == 0, result.stderr
    (site,) = json.loads((tmp_path / "report.json").read_text())["sites"]
    assert site["matched"], site


def test_the_native_tool_needs_no_variable(
    compiler_environment: Environment, attention_mlir: Path, tmp_path: Path
) -> None:
    result = compiler_environment.run(
        *(compiler_environment.native_tool, *CPU_FLAGS, attention_mlir, "-o", tmp_path / "o.vmfb"),
        *(f"--iree-load-plugin={compiler_environment.plugin}", PLUGIN_FLAG),
        IREE_FLASHATTN_REPORT=str(tmp_path / "report.json"),
        IREE_FLASHATTN_GATE="off",
    )
    assert result.returncode == 0, result.stderr
    (site,) = json.loads((tmp_path / "report.json").read_text())["sites"]
    assert site["matched"], site


def test_without_the_flag_the_output_is_stock(
    compiler_environment: Environment,
    stock_environment: Environment,
    attention_mlir: Path,
    with_flag: Path,
    tmp_path: Path,
) -> None:
    for environment, name in ((compiler_environment, "ours"), (stock_environment, "stock")):
        result = environment.compile(attention_mlir, tmp_path / name)
        assert result.returncode == 0, result.stderr
        assert result.stderr == ""
    stock = (tmp_path / "stock").read_bytes()
    assert (tmp_path / "ours").read_bytes() == stock
    assert with_flag.read_bytes() != stock


def test_uninstalling_leaves_no_trace(
    stock_environment: Environment, wheel: Path, attention_mlir: Path, tmp_path: Path
) -> None:
    before = stock_environment.files()
    stock_environment.install(wheel)
    try:
        assert stock_environment.files() != before
        result = stock_environment.compile(
            *(attention_mlir, tmp_path / "o.vmfb", PLUGIN_FLAG),
            PYTHONDONTWRITEBYTECODE="",  # compiled files have to go too
        )
        assert result.returncode == 0, result.stderr
        package = stock_environment.packages / "iree_flashattn"
        assert any((package / "__pycache__").iterdir())
    finally:
        stock_environment.uninstall()
    assert stock_environment.files() == before
