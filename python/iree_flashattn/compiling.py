"""Runs the installed compiler as a user would: the native ``iree-compile``, flag or no flag."""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from . import _startup

LOCAL = (
    "--iree-hal-target-device=local",
    "--iree-hal-local-target-device-backends=llvm-cpu",
    "--iree-llvmcpu-target-cpu=host",
)


class CompileError(RuntimeError):
    """iree-compile ended with an error, which is the message."""


@dataclass
class Compiled:
    vmfb: bytes
    seconds: float
    sites: list[dict[str, Any]] = field(default_factory=list)  # the report, with the flag


def environment(plugin: bool) -> dict[str, str]:
    """Variables for a child ``iree-compile``. Raises RuntimeError where the plugin cannot load."""
    found = dict(os.environ)
    if not plugin:
        found.pop("IREE_LOAD_PLUGINS", None)
        return found
    import iree.compiler

    before = dict(os.environ)
    try:
        if reason := _startup.offer_plugin([str(Path(iree.compiler.__file__).parents[1])]):
            raise RuntimeError(reason)
        found = dict(os.environ)
    finally:
        os.environ.clear()
        os.environ.update(before)
    # In a source checkout the child process has to find the package, too.
    package = str(Path(__file__).resolve().parents[1])
    found["PYTHONPATH"] = os.pathsep.join(filter(None, [package, found.get("PYTHONPATH")]))
    return found


def compile_module(
    source: str | bytes | Path,
    flags: Sequence[str] = LOCAL,
    plugin: bool = True,
    options: Mapping[str, str] | None = None,
) -> Compiled:
    """Compiles MLIR text, bytecode or a file to a module. ``options``: environment variables.

    Raises CompileError with the compiler's own message.
    """
    from iree.compiler.tools.binaries import find_tool

    with tempfile.TemporaryDirectory(prefix="iree-flashattn-") as folder:
        path = source if isinstance(source, Path) else Path(folder) / "module.mlir"
        if not isinstance(source, Path):
            path.write_bytes(source.encode() if isinstance(source, str) else source)
        output, report = Path(folder) / "module.vmfb", Path(folder) / "report.json"
        variables = environment(plugin)
        if plugin:
            variables["IREE_FLASHATTN_REPORT"] = str(report)
        variables.update(options or {})
        command = [find_tool("iree-compile"), str(path), *flags, "-o", str(output)]
        if plugin:
            command.append("--iree-plugin=flashattn")
        start = time.perf_counter()
        result = subprocess.run(
            command, env=variables, capture_output=True, text=True, errors="replace"
        )
        seconds = time.perf_counter() - start
        if result.returncode:
            raise CompileError(in_short(result.stderr) or f"exit status {result.returncode}")
        sites = json.loads(report.read_text())["sites"] if report.is_file() else []
        vmfb = output.read_bytes() if output.is_file() else b""
        return Compiled(vmfb, seconds, sites)


def compile_with_family(source: str, family: str) -> Compiled:
    """A module whose sites take kernels of one family, e.g. ``avx2`` where the machine has more.

    The pattern works in this process, between the two halves of a stock compilation.
    """
    from iree.compiler import ir

    from .choosing import Options
    from .rewrite import rewrite_module

    flags = [*LOCAL, "--compile-to=preprocessing"]
    text = compile_module(source, flags, plugin=False).vmfb
    with ir.Context(), ir.Location.unknown():
        module = ir.Module.parse(text)
        report = rewrite_module(module, Options(gate=False, family=family))
        half = str(module).encode()
    done = compile_module(half, ["--compile-from=preprocessing"], plugin=False)
    return Compiled(done.vmfb, done.seconds, [site.as_json() for site in report.sites])


def in_short(messages: str) -> str:
    """What the compiler says up to the IR that it prints behind an error, thousands of lines."""
    lines = messages.partition("note: see current operation:")[0].strip().splitlines()
    short = (line if len(line) <= 500 else line[:500] + " …" for line in lines)
    return "\n".join("".join(c if c.isprintable() else "?" for c in line) for line in short)
