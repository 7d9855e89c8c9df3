"""The plugin's own last line: loaded by a compiler whose revision it does not know."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

from support.environments import CPU_FLAGS, PLUGIN_FLAG, Environment
from support.wheel import ROOT


@pytest.fixture(scope="module")
def foreign_plugin(
    stock_environment: Environment, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """Our plugin, built for release 9.9.9 of the compiler."""
    library = tmp_path_factory.mktemp("foreign") / "foreign.so"
    sources = sorted(str(path) for path in (ROOT / "plugin" / "compiler").glob("*.cc"))
    versions = {"VERSION": "0.1.0", "COMPILER_VERSION": "9.9.9", "COMPILER_REVISION": "9" * 40}
    subprocess.run(
        [
            *("c++", "-std=c++17", "-shared", "-fPIC", "-fno-exceptions", "-fno-rtti"),
            *("-fvisibility=hidden", *(f'-DFLASHATTN_{k}="{v}"' for k, v in versions.items())),
            *(*sources, f"-L{stock_environment.native_tool.parent}", "-lIREECompiler"),
            *("-Wl,-z,defs", "-o", str(library)),
        ],
        check=True,
    )
    return library


def test_it_says_both_versions_to_who_asks(
    foreign_plugin: Path, stock_environment: Environment, attention_mlir: Path, tmp_path: Path
) -> None:
    result = stock_environment.compile(
        attention_mlir, tmp_path / "o.vmfb", f"--iree-load-plugin={foreign_plugin}", PLUGIN_FLAG
    )
    assert result.returncode == 1
    sentence = r"iree-flashattn 0\.1\.0 works with iree-base-compiler 9\.9\.9, and this compiler is"
    assert re.match(rf"{sentence} 3\.13\.0", result.stderr)
    assert len(result.stderr.splitlines()) == 1


def test_it_leaves_everybody_else_alone(
    foreign_plugin: Path, stock_environment: Environment, attention_mlir: Path, tmp_path: Path
) -> None:
    result = stock_environment.compile(
        attention_mlir, tmp_path / "ours", f"--iree-load-plugin={foreign_plugin}"
    )
    assert (result.returncode, result.stderr) == (0, "")
    stock_environment.run(
        stock_environment.native_tool, *CPU_FLAGS, attention_mlir, "-o", tmp_path / "stock"
    )
    assert (tmp_path / "ours").read_bytes() == (tmp_path / "stock").read_bytes()
