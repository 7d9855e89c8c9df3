"""``iree-flashattn explain MODEL.mlir [iree-compile flags…]``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.table import Table

from ..compiling import LOCAL, CompileError, compile_module
from . import console as consoles


def run(model: Path, flags: Sequence[str]) -> None:
    """Compiles to the end of preprocessing, where the plugin works, and shows its report."""
    if not model.is_file():
        raise RuntimeError(f"{model}: {'a folder' if model.is_dir() else 'no such file'}")
    given = list(flags) if any("target" in flag for flag in flags) else [*LOCAL, *flags]
    try:
        done = compile_module(model, [*given, "--compile-to=preprocessing"])
    except CompileError as error:
        said = str(error).removeprefix("iree-compile: ")
        raise RuntimeError(f"iree-compile: {said}") from error
    console = consoles.make()
    for site in done.sites:
        site["location"] = site["location"].replace(str(model), model.name, 1)
    if not done.sites:
        console.print(f"{model}: no attention found")
        return
    console.print(table_of(done.sites))
    for site in done.sites:
        if site["trail"]:
            story = "was offered, best first:" if site["matched"] else "was read by these rules:"
            console.print(f"[bold]{site['location']}[/bold] {story}")
            for line in site["trail"]:
                console.print(f"  {line}", highlight=False)
    served = sum(site["matched"] for site in done.sites)
    console.print(f"{served} of {len(done.sites)} sites are served")


def table_of(sites: list[dict[str, Any]]) -> Table:
    table = Table("location", "spelling", "shape", "dtype", "mask")
    table.add_column("kernel, or why not", overflow="fold")
    for site in sites:
        verdict = f"[green]{site['kernel']}[/green]"
        if not site["matched"]:
            subject = f" [dim]({site['subject']})[/dim]" if site["subject"] else ""
            verdict = f"[red]{site['rule']}[/red]: {site['reason']}{subject}"
        table.add_row(
            site["location"], site["spelling"], shape_of(site), site.get("dtype", ""),
            site.get("mask", ""), verdict,
        )  # fmt: skip
    return table


def shape_of(site: dict[str, Any]) -> str:
    """``1x8(2)x1024x1024 64/32``: batch, heads (kv heads), queries, keys, head dims."""
    if "heads" not in site:
        return ""
    heads = f"{site['heads']}"
    if site["kv_heads"] != site["heads"]:
        heads += f"({site['kv_heads']} kv)"
    dims = f"{site['dk']}" if site["dk"] == site["dv"] else f"{site['dk']}/{site['dv']}"
    return f"{site['batch']}x{heads}x{site['q_len']}x{site['kv_len']}x{dims}"
