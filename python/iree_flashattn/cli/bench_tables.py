"""The benchmark's tables."""

from __future__ import annotations

from collections.abc import Iterator

from rich import box
from rich.table import Table

from ..bench.goals import Goal, goals
from ..bench.results import ModelResult, Result, Run, Verdict, verdicts

MEASURES = {
    "torch": "times as fast as torch",
    "stock": "times as fast as stock's faster form",
    "stock fused": "times as fast as the fused op",
    "one worker": "times as fast as one worker",
    "baseline": "of the rate beside it",
    "FMA peak": "of the FMA peak",
    "bandwidth": "of the read bandwidth",
}
# Of the goals. The last one: what the least would be if the kernel ran at the machine's own limit.
GOAL_NUMBERS = ["bar", "aim", "least", "most", "met", "at the limit"]


def of_machine(run: Run) -> str:
    machine, versions = run.machine, run.versions
    parts = [
        machine.cpu,
        *([f"{machine.workers} workers"] if machine.workers else []),
        *(["runtime extension"] if machine.extension else []),
        *(["caller as batch job"] if machine.batch else []),
        f"FMA peak {machine.fma_gflops:.0f} GFLOP/s (f32)",
        f"read bandwidth {machine.read_gbps:.1f} GB/s",
        f"IREE {versions['iree']}",
        f"torch {versions['torch']}" if versions["torch"] else "no torch",
    ]
    return ", ".join(parts)


def of_run(run: Run, markdown: bool = False) -> Iterator[Table | str]:
    if run.results and isinstance(run.results[0], ModelResult):
        yield of_models(run.results, markdown)
        return
    yield of_problems(run.results, markdown)
    yield from _notes(run.results)
    yield of_verdicts(verdicts(run.results), markdown)


def of_problems(results: list[Result], markdown: bool = False) -> Table:
    numbers = "ms|GFLOP/s|GB/s|of limit|x torch|x spelled|x fused|error"
    table = _table(["problem"], numbers.split("|"), markdown, "bars")
    by_name = {goal.name: goal for goal in goals()}
    for goal in by_name.values():
        rows = [result for result in results if result.goal == goal.name]
        for result in rows:
            bound = "FMA peak" if "fma" in result.ratio else "bandwidth"
            table.add_row(
                result.problem.replace("_", " "),
                f"{result.seconds['kernel'] * 1e3:.3f}",
                f"{result.gflops:.0f}",
                f"{result.gbps:.1f}",
                _percent(result.value(bound)),
                *(_times(result.value(m)) for m in ("torch", "stock spelled", "stock fused")),
                f"{result.error['kernel']:.0e}",
                _bars(goal, result),
                end_section=result is rows[-1],
            )
    return table


def of_verdicts(found: list[Verdict], markdown: bool = False) -> Table:
    table = _table(["goal", "measure", ""], GOAL_NUMBERS, markdown)
    for verdict in found:
        bar = verdict.bar
        table.add_row(
            verdict.goal,
            MEASURES[bar.measure],
            "met" if verdict.met == len(verdict.values) else "missed",
            *(f"{x:.2f}" for x in (bar.least, bar.aim, min(verdict.values), max(verdict.values))),
            f"{verdict.met} of {len(verdict.values)}",
            f"{min(verdict.limits):.2f}" if verdict.limits else "",
        )
    return table


def of_models(results: list[ModelResult], markdown: bool = False) -> Table:
    numbers = "batch|sites|stock ms|flag ms|torch ms|x stock|x torch|attention before|after|error"
    table = _table(["model"], numbers.split("|"), markdown)
    for result in results:
        table.add_row(
            result.model,
            str(result.batch),
            f"{result.served}/{result.sites}",
            *(f"{result.seconds[name] * 1e3:.0f}" for name in ("stock", "kernels", "torch")),
            *(_times(result.ratio[name]) for name in ("stock", "torch")),
            *(_percent(result.share[name]) for name in ("stock", "kernels")),
            f"{result.error['kernels']:.0e}",
        )
    return table


def _table(left: list[str], right: list[str], markdown: bool, last: str = "") -> Table:
    """Words stand at the left of their columns, numbers at the right; the first is never cut."""
    table = Table(box=box.MARKDOWN if markdown else box.SIMPLE_HEAD)
    for name in left[:1]:
        table.add_column(name, no_wrap=True)
    for name in left[1:]:
        table.add_column(name)
    for name in right:
        table.add_column(name, justify="right")
    if last:
        table.add_column(last)
    return table


def _bars(goal: Goal, result: Result) -> str:
    """``met``, or the bars that were missed."""
    values = [(bar, result.value(bar.measure)) for bar in goal.bars]
    known = [(bar, value) for bar, value in values if value is not None]
    missed = ", ".join(bar.measure for bar, value in known if value < bar.least)
    return f"missed: {missed}" if missed else "met" if known else ""


def _notes(results: list[Result]) -> Iterator[str]:
    for result in results:
        for note in result.notes:
            yield f"{result.problem.replace('_', ' ')}: {note}, and left out"


def _times(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}"


def _percent(value: float | None) -> str:
    return "" if value is None else f"{value:.0%}"
