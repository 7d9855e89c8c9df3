"""Plots of a benchmark's results, where matplotlib is installed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from .goals import goals
from .results import ModelResult, Result, Run

STYLE = {
    "svg.fonttype": "none",  # text stays text: a tenth of the size
    "svg.hashsalt": "iree-flashattn",  # the same results make the same file
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
}
CONTENDERS = {
    "torch": "torch",
    "stock spelled": "stock, spelled out",
    "stock fused": "stock, fused",
}


def write(run: Run, folder: Path) -> list[Path]:
    """The files drawn; an empty list without matplotlib."""
    try:
        import matplotlib

        matplotlib.use("Agg")
        from matplotlib import pyplot
    except ImportError:
        return []
    draw: dict[str, Callable[[Any, Run], Any]] = {"speedup.svg": speedups, "roofline.svg": roofline}
    if run.results and isinstance(run.results[0], ModelResult):
        draw = {"models.svg": models}
    with matplotlib.rc_context(STYLE):
        for name, function in draw.items():
            figure = function(pyplot, run)
            figure.savefig(folder / name, bbox_inches="tight", metadata={"Date": None})
            pyplot.close(figure)
    return [folder / name for name in draw]


def speedups(pyplot: Any, run: Run) -> Any:
    """Bars for each problem: how many times as fast as PyTorch and as stock IREE."""
    order = [goal.name for goal in goals()]
    rows: list[Result] = sorted(run.results, key=lambda r: order.index(r.goal))
    rows = [r for r in rows if any(name in r.ratio for name in CONTENDERS)]
    figure, axes = pyplot.subplots(figsize=(8, 1 + 0.3 * len(rows)))
    height = 0.8 / len(CONTENDERS)
    for i, (name, label) in enumerate(CONTENDERS.items()):
        places = [y + i * height for y, r in enumerate(rows) if name in r.ratio]
        values = [r.ratio[name] for r in rows if name in r.ratio]
        axes.barh(places, values, height, label=label)
    axes.set_yticks([y + height for y in range(len(rows))], [_label(r) for r in rows], fontsize=8)
    axes.set_xscale("log")
    ticks = [t for t in (0.5, 1, 2, 5, 10, 20, 50, 100, 200) if t <= _largest(rows)]
    axes.set_xticks(ticks, [f"{t:g}" for t in ticks])
    axes.minorticks_off()
    axes.axvline(1.0, color="black", linewidth=0.8)
    axes.set_ylim(len(rows), -0.5)
    axes.set_xlabel("times as fast")
    axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncol=3, frameon=False)
    return figure


def roofline(pyplot: Any, run: Run) -> Any:
    """Rates beside the machine's limits, one colour a group of problems."""
    machine, results = run.machine, run.results
    figure, axes = pyplot.subplots(figsize=(8, 5))
    low, high = (pick(r.intensity for r in results) for pick in (min, max))
    low, high = min(0.25, low / 2), max(1000.0, high * 2)
    ridge = machine.fma_gflops / machine.read_gbps
    axes.plot(
        [low, ridge, high],
        [low * machine.read_gbps, machine.fma_gflops, machine.fma_gflops],
        color="black",
        label="f32 FMA peak, read bandwidth",
    )
    for i, name in enumerate(dict.fromkeys(r.goal for r in results)):
        group = [r for r in results if r.goal == name]
        axes.scatter(
            [r.intensity for r in group],
            [r.gflops for r in group],
            label=name,
            color=pyplot.get_cmap("tab20")(i),
            s=18,
            zorder=3,
        )
    theirs = [r for r in results if "torch" in r.seconds]
    axes.scatter(
        [r.intensity for r in theirs],
        [r.flops / r.seconds["torch"] / 1e9 for r in theirs],
        label="torch",
        color="gray",
        marker="x",
        s=14,
        linewidths=0.8,
    )
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xlabel("operations for each byte of Q, K and V")
    axes.set_ylabel("GFLOP/s")
    axes.legend(fontsize=8, loc="upper left", bbox_to_anchor=(1.0, 1.0))
    return figure


def models(pyplot: Any, run: Run) -> Any:
    """Each model's time with stock, with the flag and in PyTorch; attention is the dark part."""
    results: list[ModelResult] = run.results
    figure, axes = pyplot.subplots(figsize=(8, 1 + 0.55 * len(results)))
    names = {"stock": ("stock", "C0"), "kernels": ("with the flag", "C1"), "torch": ("torch", "C2")}
    height = 0.8 / len(names)
    for i, (name, (label, colour)) in enumerate(names.items()):
        values = [r.seconds[name] / r.seconds["stock"] for r in results]
        places = [y + i * height for y in range(len(results))]
        axes.barh(places, values, height, label=label, color=colour, alpha=0.55)
        if name in ("stock", "kernels"):
            part = [v * r.share[name] for v, r in zip(values, results, strict=True)]
            axes.barh(places, part, height, label=f"attention, {label}", color=colour)
    labels = [f"{r.model}\nbatch {r.batch}" for r in results]
    axes.set_yticks([y + height for y in range(len(results))], labels)
    axes.set_ylim(len(results), -0.5)
    axes.set_xlabel("time, of that of stock IREE")
    axes.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0))
    return figure


def _label(result: Result) -> str:
    return result.problem.replace("_", " ")


def _largest(rows: list[Result]) -> float:
    return max((value for r in rows for value in r.ratio.values()), default=1.0) * 1.2
