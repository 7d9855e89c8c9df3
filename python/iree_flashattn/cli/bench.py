"""``iree-flashattn bench``: tables on the screen, JSON and plots in a folder."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

from rich.console import Console

from .. import __version__
from ..bench import goals, machine, plots, results, running
from ..bench.results import ModelResult, Result, Run
from . import bench_tables as tables
from . import console as consoles

FILES: dict[str, type] = {"problems.json": Result, "models.json": ModelResult}
PROBLEMS, MODELS = FILES

# What is measured next, and how.
Step = tuple[str, Callable[[], Iterable[Result | ModelResult]]]


def run(
    models: bool,
    only: str,
    quick: bool,
    update: bool,
    out: Path,
    seconds: float,
    stock: bool,
    workers: int,
    extension: bool,
    batch: bool,
) -> None:
    if seconds <= 0:
        raise RuntimeError(f"--seconds {seconds:g} has to be more than 0")
    if extension:
        running.use_extension()
    if workers:
        running.use_workers(workers)
    if batch:
        running.yield_to_workers()
    steps = _model_steps(only, quick, seconds) if models else _steps(only, quick, seconds, stock)
    _make_folder(out)
    file = out / (MODELS if models else PROBLEMS)
    kept = results.read(file, FILES[file.name]).results if update and file.is_file() else []
    console = consoles.make()
    with console.status("the machine's peaks"):
        found = Run(_now(), _versions(), machine.measure(), kept)
    console.print(tables.of_machine(found))
    with console.status("") as status:
        for number, (name, measure) in enumerate(steps, 1):
            status.update(f"{number} of {len(steps)}: {name}")
            for result in measure():
                found.add(result)
                found.write(file)  # after each one: nothing is lost where a later one fails
    show(console, found)
    console.print(f"wrote {file}")
    _plot(console, found, out)


def show_saved(folder: Path, out: Path, markdown: bool) -> None:
    """Tables of earlier runs; their plots go to ``out``."""
    console = consoles.make()
    saved = [folder / name for name in FILES if (folder / name).is_file()]
    if not saved:
        raise RuntimeError(f"--show {folder}: there is no {PROBLEMS} or {MODELS}")
    _make_folder(out)
    for file in saved:
        found = results.read(file, FILES[file.name])
        show(console, found, markdown)
        _plot(console, found, out)


def show(console: Console, found: Run, markdown: bool = False) -> None:
    for table in tables.of_run(found, markdown):
        console.print(table)


def _steps(only: str, quick: bool, seconds: float, stock: bool) -> list[Step]:
    from ..bench import problems

    todo = goals.selected(only, quick)
    if not todo:
        names = ", ".join(goal.name for goal in goals.goals())
        raise RuntimeError(
            f"--only {only}: no problem and no group has that in its name; the groups are {names}"
        )

    def measured(goal: goals.Goal, case: goals.Case) -> list[Result]:
        return [problems.measure(goal, case, seconds, stock)]

    return [(case.name, partial(measured, goal, case)) for goal, case in todo]


def _model_steps(only: str, quick: bool, seconds: float) -> list[Step]:
    try:
        from ..bench import models
    except ImportError as error:
        raise RuntimeError(
            f"--models needs PyTorch and iree-turbine ({error}): pip install torch iree-turbine"
        ) from error
    todo = models.selected(only)
    if not todo:
        names = ", ".join(model.name for model in models.MODELS)
        raise RuntimeError(f"--only {only}: no model has that in its name; there are {names}")
    batches = (1,) if quick else (1, 8)
    return [(model.name, partial(models.measure, model, batches, seconds)) for model in todo]


def _plot(console: Console, found: Run, out: Path) -> None:
    drawn = plots.write(found, out)
    for path in drawn:
        console.print(f"wrote {path}")
    if not drawn:
        console.print(
            "no plots: matplotlib is missing (pip install 'iree-flashattn[bench]')", markup=False
        )


def _make_folder(out: Path) -> None:
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RuntimeError(f"--out {out}: {error.strerror}") from error


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def _versions() -> dict[str, str | None]:
    import iree.runtime.version

    try:
        import torch
    except ImportError:
        torch = None
    return {
        "iree_flashattn": __version__,
        "iree": iree.runtime.version.VERSION,
        "torch": None if torch is None else torch.__version__,
    }
