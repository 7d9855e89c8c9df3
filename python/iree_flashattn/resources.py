"""Where the built parts of the package lie: plugin libraries, kernels, tables and the ABI header.

Installed, they are in ``iree_flashattn/_native``. In a source checkout (``PYTHONPATH=python``) the
tables and the header are read from ``plugin/`` and the built files from ``build/native``.
"""

from __future__ import annotations

import hashlib
from functools import cache
from pathlib import Path

_PACKAGE = Path(__file__).resolve().parent
_CHECKOUT = _PACKAGE.parents[1]


class MissingResourceError(RuntimeError):
    """A file of the installation is missing or damaged; the message names it and the way out."""

    for_user = True


@cache
def installed() -> bool:
    return (_PACKAGE / "_native").is_dir()


def native_dir() -> Path:
    """The root of built files: ``cpu/``, ``cuda/``, ``spirv/``, ``lib/``."""
    return _PACKAGE / "_native" if installed() else _CHECKOUT / "build" / "native"


def require(path: Path) -> Path:
    if not path.is_file() or path.stat().st_size == 0:
        raise MissingResourceError(
            f"iree-flashattn: {path} is missing or empty; reinstall the package"
            " (pip install --force-reinstall iree-flashattn)"
        )
    return path


def abi_header() -> Path:
    if installed():
        return require(native_dir() / "abi" / "flashattn_abi.h")
    return require(_CHECKOUT / "plugin" / "abi" / "flashattn_abi.h")


def kernel_table(backend: str) -> Path:
    """``kernels.toml`` of ``cpu``, ``cuda`` or ``spirv``."""
    if installed():
        return require(native_dir() / backend / "kernels.toml")
    return require(_CHECKOUT / "plugin" / backend / "kernels.toml")


def kernel_file(backend: str, name: str) -> Path:
    """A built kernel: an ELF object or bitcode, PTX or cubin, or a SPIR-V module.

    In an installation its contents are what the build made; else ``MissingResourceError``.
    """
    path = require(native_dir() / backend / name)
    if installed():
        recorded = _checksums().get(f"{backend}/{name}")
        if hashlib.sha256(path.read_bytes()).hexdigest() != recorded:
            raise MissingResourceError(
                f"iree-flashattn: {path} is damaged; reinstall the package"
                " (pip install --force-reinstall iree-flashattn)"
            )
    return path


def has_kernels(backend: str) -> bool:
    """Whether any were built: a build leaves out back ends that it has no compiler for."""
    if installed():
        return any(name.startswith(f"{backend}/") for name in _checksums())
    return any((native_dir() / backend).glob("fa_*"))


@cache
def _checksums() -> dict[str, str]:
    lines = require(native_dir() / "checksums.txt").read_text(encoding="utf-8").splitlines()
    return {name: digest for digest, name in (line.split("  ", 1) for line in lines)}
