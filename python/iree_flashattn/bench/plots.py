"""Plots of a benchmark's results, where matplotlib is installed."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from .machine import Machine
from .problems import Result


def write(results: Sequence[Result], machine: Machine, folder: Path) -> list[Path]:
    """Speed-up bars and a roofline; an empty list without matplotlib."""
    try:
        import matplotlib

        matplotlib.use("Agg")
        from matplotlib import pyplot
    except ImportError:
        return []
    bars, roof = folder / "speedup.png", folder / "roofline.png"
    _bars(pyplot, results, bars)
    _roofline(pyplot, results, machine, roof)
    return [bars, roof]


def _bars(pyplot, results: Sequence[Result], path: Path) -> None:
    contenders = [
        name
        for name in ("torch", "stock spelled", "stock fused")
        if any(name in r.seconds for r in results)
    ]
    figure, axes = pyplot.subplots(figsize=(8, 1 + 0.28 * len(results) * max(1, len(contenders))))
    height = 0.8 / max(1, len(contenders))
    for i, name in enumerate(contenders):
        places = [y + i * height for y, r in enumerate(results) if name in r.seconds]
        values = [r.speedup(name) for r in results if name in r.seconds]
        axes.barh(places, values, height, label=f"over {name}")
    axes.set_yticks([y + 0.4 - height / 2 for y in range(len(results))])
    axes.set_yticklabels([r.problem for r in results], fontsize=8)
    axes.set_xscale("log")
    axes.axvline(1.0, color="black", linewidth=0.8)
    axes.set_xlabel("speed-up")
    axes.invert_yaxis()
    axes.legend()
    _save(pyplot, figure, path)


def _roofline(pyplot, results: Sequence[Result], machine: Machine, path: Path) -> None:
    figure, axes = pyplot.subplots(figsize=(7, 5))
    intensities = [r.flops / r.read_bytes for r in results]
    low, high = min([0.1, *intensities]), max([1000.0, *intensities])
    ridge = machine.fma_gflops / machine.read_gbps
    axes.plot(
        [low, ridge, high],
        [low * machine.read_gbps, machine.fma_gflops, machine.fma_gflops],
        color="black",
        label="FMA peak and read bandwidth, f32",
    )
    axes.scatter(intensities, [r.gflops for r in results], label="kernels", zorder=3)
    torch = [r for r in results if "torch" in r.seconds]
    axes.scatter(
        [r.flops / r.read_bytes for r in torch],
        [r.flops / r.seconds["torch"] / 1e9 for r in torch],
        label="torch",
        marker="x",
    )
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xlabel("operations for each byte of Q, K and V")
    axes.set_ylabel("GFLOP/s")
    axes.legend()
    _save(pyplot, figure, path)


def _save(pyplot, figure, path: Path) -> None:
    figure.tight_layout()
    figure.savefig(path, dpi=120)
    pyplot.close(figure)
