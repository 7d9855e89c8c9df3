"""``iree-flashattn bench``: a table on the screen, JSON and plots in a folder."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from .. import __version__
from ..bench import machine as machines
from ..bench import plots, problems


def run(
    models: bool, only: str, elements: list[str], out: Path, seconds: float, stock: bool
) -> None:
    unknown = [e for e in elements if e not in ("f32", "f16", "bf16")]
    if unknown:
        raise RuntimeError(f"--element {unknown[0]} is not one of f32, f16, bf16")
    console = Console()
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RuntimeError(f"--out {out}: {error.strerror}") from error
    todo = [] if models else problems.selected(only, elements)
    if not models and not todo:
        raise RuntimeError(f"--only {only}: no problem has that in its name")
    with console.status("the machine's peaks"):
        machine = machines.measure()
    console.print(
        f"{machine.cpu}: FMA peak {machine.fma_gflops:.0f} GFLOP/s (f32),"
        f" read bandwidth {machine.read_gbps:.1f} GB/s"
    )
    if models:
        _run_models(console, machine, only, out, seconds)
        return
    results = []
    with console.status("") as status:
        for problem in todo:
            status.update(problem.name)
            results.append(problems.measure(problem, seconds, stock))
        status.update("the machine's peaks, once more")
        machine = machines.better(machine, machines.measure())
    console.print(table_of(results, machine))
    write_json(out / "problems.json", machine, [result.as_json() for result in results])
    drawn = plots.write(results, machine, out)
    for path in [out / "problems.json", *drawn]:
        console.print(f"wrote {path}")
    if not drawn:
        console.print("no plots: matplotlib is missing (pip install 'iree-flashattn\\[bench]')")


def table_of(results: list[problems.Result], machine: machines.Machine) -> Table:
    table = Table(
        "problem", "kernel", "ms", "GFLOP/s", "of limit", "x torch", "x stock", "x fused", "error"
    )
    for result in results:
        share, what = problems.limit(result, machine)
        table.add_row(
            result.problem,
            result.kernel.removeprefix("fa_"),
            f"{result.seconds['kernel'] * 1e3:.3f}",
            f"{result.gflops:.0f}",
            f"{share:.0%} {what}",
            _times(result.speedup("torch")),
            _times(result.speedup("stock spelled")),
            _times(result.speedup("stock fused")),
            f"{result.error:.0e}",
        )
    return table


def _times(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}"


def write_json(path: Path, machine: machines.Machine, rows: list[dict[str, Any]]) -> None:
    """Everything measured, with the machine, the versions and the date."""
    import iree.runtime.version

    document = {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "iree_flashattn": __version__,
        "iree": iree.runtime.version.VERSION,
        "torch": _torch_version(),
        "machine": vars(machine),
        "results": rows,
    }
    path.write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")


def _torch_version() -> str | None:
    try:
        import torch
    except ImportError:
        return None
    return torch.__version__


def _run_models(
    console: Console, machine: machines.Machine, only: str, out: Path, seconds: float
) -> None:
    try:
        from ..bench import models
    except ImportError as error:
        raise RuntimeError(
            f"--models needs PyTorch and iree-turbine ({error}): pip install torch iree-turbine"
        ) from error
    table = Table("model", "batch", "sites", "stock ms", "with the flag ms", "speed-up", "torch ms",
                  "attention before", "after", "difference")  # fmt: skip
    rows = []
    with console.status("") as status:
        for case in models.cases(only):
            status.update(case.name)
            row = models.measure(case, seconds)
            rows.append(row.as_json())
            table.add_row(*row.cells())
    console.print(table)
    write_json(out / "models.json", machine, rows)
    console.print(f"wrote {out / 'models.json'}")
