"""The mirrored classes and the C API against the installed compiler wheel."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from support.wheel import ROOT


@pytest.fixture(scope="module")
def facts() -> dict[str, dict]:
    result = subprocess.run(
        [sys.executable, str(ROOT / "tools" / "check_compiler.py"), "--json"],
        capture_output=True,
        text=True,
    )
    assert result.stdout, result.stderr
    return {fact["name"]: fact for fact in json.loads(result.stdout)}


@pytest.mark.parametrize("name", ["revision", "C API", "ABI hash", "classes"])
def test_the_compiler_is_as_the_plugin_takes_it(name: str, facts: dict[str, dict]) -> None:
    assert facts[name]["holds"], facts[name]


def test_the_version_is_written_once() -> None:
    """compilers.py is its source: pip and the plugin have it from there."""
    from importlib import metadata

    import iree_flashattn

    assert iree_flashattn.__version__ == metadata.version("iree-flashattn")
