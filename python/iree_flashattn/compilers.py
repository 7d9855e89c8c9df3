"""The IREE compilers that this package works with, and which one an environment has.

Read by every Python process that imports the compiler, and by the build.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

VERSION = "0.1.0"

# Source revision of the compiler -> release of iree-base-compiler. The plugin mirrors C++ classes
# of exactly these; tools/check_compiler.py tells what another one needs.
SUPPORTED = {"89ece87b89852100c0a4ac3d515e14842d090967": "3.13.0"}

_REVISION = re.compile(r"[\"']IREE[\"']: [\"']([0-9a-f]{40})[\"']")
_METADATA_VERSION = re.compile(r"^Version: *(\S+)", re.MULTILINE)


class Compiler(NamedTuple):
    """An installed ``iree.compiler``."""

    version: str  # the release
    revision: str  # of the source, "" if unknown
    folder: Path

    @property
    def supported(self) -> bool:
        return SUPPORTED.get(self.revision) == self.version


def find_compiler(search_path: Iterable[str]) -> Compiler | None:
    """The ``iree.compiler`` that an import would take from ``search_path`` (``iree.__path__``)."""
    for entry in map(Path, search_path):
        folder = entry / "compiler"
        if (folder / "__init__.py").is_file():
            match = _REVISION.search(_read(folder / "version.py"))
            return Compiler(_release(entry.parent), match[1] if match else "", folder)
    return None


def unsupported(compiler: Compiler) -> str:
    """The sentence for somebody who asked for the plugin and has another compiler."""
    known = ", ".join(SUPPORTED.values())
    found = compiler.version
    if found in SUPPORTED.values():
        found += f" at revision {compiler.revision[:10] or 'unknown'}"
    return (
        f"iree-flashattn {VERSION} works with iree-base-compiler {known}, and"
        f" {found} is installed ({compiler.folder}): install"
        f" iree-base-compiler=={known}, or compile without --iree-plugin=flashattn"
    )


def _release(packages: Path) -> str:
    for metadata in packages.glob("iree_base_compiler-*.dist-info/METADATA"):
        match = _METADATA_VERSION.search(_read(metadata))
        if match:
            return match[1]
    return "an unknown version"


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
