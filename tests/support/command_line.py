"""The ``iree-flashattn`` command of the installation under test, in a process of its own."""

from __future__ import annotations

import subprocess
import sys

from iree_flashattn import compiling


def run(*arguments: str, status: int = 0, **variables: str) -> tuple[str, str]:
    """Standard output and error of ``iree-flashattn ARGUMENTS``."""
    code = "from iree_flashattn.cli import main; main()"
    variables = compiling.environment(True) | {"COLUMNS": "400"} | variables
    result = subprocess.run(
        [sys.executable, "-c", code, *arguments], capture_output=True, text=True, env=variables
    )
    assert result.returncode == status, result.stderr
    assert "Traceback" not in result.stderr
    return result.stdout, result.stderr
