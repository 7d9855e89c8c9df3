"""A compiler that the plugin was not built for: never broken, and told apart when asked for."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest

from support.environments import CPU_FLAGS, PLUGIN_FLAG, Environment

COMPILE_STR = """
import sys
from iree.compiler.tools import CompilerToolError, compile_str
try:
    compile_str(open(sys.argv[1]).read(), extra_args=sys.argv[2:])
except CompilerToolError as error:
    print(error)
"""


def pretend_release(environment: Environment) -> None:
    """The metadata of pip says 3.12.0."""
    link = next(environment.packages.glob("iree_base_compiler-*.dist-info"))
    text = (link / "METADATA").read_text().replace("\nVersion: 3.13.0", "\nVersion: 3.12.0")
    link.unlink()
    link.mkdir()
    (link / "METADATA").write_text(text)


def pretend_revision(environment: Environment) -> None:
    """The compiler package says that it was built from another source revision."""
    folder = environment.packages / "iree" / "compiler"
    original = folder.resolve()
    folder.unlink()
    folder.mkdir()
    for entry in original.iterdir():
        (folder / entry.name).symlink_to(entry)
    text = (original / "version.py").read_text()
    (folder / "version.py").unlink()
    (folder / "version.py").write_text(re.sub(r"[0-9a-f]{40}", "0" * 40, text))


@pytest.fixture(scope="module", params=[pretend_release, pretend_revision])
def environment(
    request: pytest.FixtureRequest, make_compiler_environment: Callable[[], Environment]
) -> Environment:
    environment = make_compiler_environment()
    request.param(environment)
    return environment


def assert_says_both_versions(text: str) -> None:
    (line,) = [line for line in text.splitlines() if "iree-flashattn" in line and "works" in line]
    assert re.search(r"iree-flashattn \d+\.\d+\.\d+ works with iree-base-compiler 3\.13\.0", line)
    assert re.search(r"and (3\.12\.0|3\.13\.0 at revision 0{10}) is installed", line)


def test_compiles_as_if_we_were_not_there(
    environment: Environment, stock_environment: Environment, attention_mlir: Path, tmp_path: Path
) -> None:
    result = environment.compile(attention_mlir, tmp_path / "ours")
    assert (result.returncode, result.stderr) == (0, "")
    stock_environment.compile(attention_mlir, tmp_path / "stock")
    assert (tmp_path / "ours").read_bytes() == (tmp_path / "stock").read_bytes()


def test_the_command_says_both_versions(
    environment: Environment, attention_mlir: Path, tmp_path: Path
) -> None:
    result = environment.compile(attention_mlir, tmp_path / "o.vmfb", PLUGIN_FLAG)
    assert result.returncode == 1
    assert_says_both_versions(result.stderr)
    assert len(result.stderr.splitlines()) == 1


def test_the_python_tools_say_both_versions(environment: Environment, attention_mlir: Path) -> None:
    result = environment.run_python(COMPILE_STR, attention_mlir, *CPU_FLAGS, PLUGIN_FLAG)
    assert result.returncode == 0, result.stderr
    assert_says_both_versions(result.stdout)


def test_the_python_tools_work_without_the_flag(
    environment: Environment, attention_mlir: Path
) -> None:
    result = environment.run_python(COMPILE_STR, attention_mlir, *CPU_FLAGS)
    assert (result.returncode, result.stdout, result.stderr) == (0, "", "")


def test_activate_says_both_versions(environment: Environment) -> None:
    result = environment.run_python("import iree_flashattn; iree_flashattn.activate()")
    assert result.returncode == 1
    assert "ActivationError" in result.stderr
    assert_says_both_versions(result.stderr)
