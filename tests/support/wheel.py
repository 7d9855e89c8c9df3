"""The wheel under test: what ``make`` built, or a new one if the sources are newer."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from .environments import clean_variables

ROOT = Path(__file__).resolve().parents[2]


def find_or_build(folder: Path) -> Path:
    sources = [
        *(path for part in ("python", "plugin") for path in (ROOT / part).rglob("*")),
        *(ROOT / "CMakeLists.txt", ROOT / "pyproject.toml"),
    ]
    newest = max(p.stat().st_mtime for p in sources if p.is_file() and "__pycache__" not in p.parts)
    for wheel in (ROOT / "build" / "wheel").glob("*.whl"):
        if wheel.stat().st_mtime > newest:
            return wheel
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "-w", str(folder)]
    result = subprocess.run(
        [*command, str(ROOT)], env=clean_variables(), capture_output=True, text=True
    )
    assert result.returncode == 0, result.stderr
    (wheel,) = folder.glob("*.whl")
    return wheel
