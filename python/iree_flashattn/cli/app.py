"""The commands and their options; each one's work is in a module of its own."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(
    help="FlashAttention kernels for stock IREE.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


@app.command()
def info(
    runtime_plugin: Annotated[
        bool,
        typer.Option("--runtime-plugin", help="Print the path for --executable_plugin= only."),
    ] = False,
) -> None:
    """Versions, where plugin and kernels are, what this CPU supports, the support matrix."""
    from . import info as command

    command.run(runtime_plugin)


@app.command(context_settings={"ignore_unknown_options": True, "allow_extra_args": True})
def explain(context: typer.Context, model: Path) -> None:
    """Every attention site of MODEL: its kernel, or why none. More flags go to iree-compile."""
    from . import explain as command

    command.run(model, context.args)


@app.command()
def demo() -> None:
    """Two attention modules with stock IREE and with the kernels: times, GFLOP/s, error."""
    from . import demo as command

    command.run()


@app.command()
def bench(
    models: Annotated[bool, typer.Option("--models", help="Whole models instead.")] = False,
    only: Annotated[
        str, typer.Option(help="What has this in its name, or in that of its group.")
    ] = "",
    quick: Annotated[
        bool, typer.Option("--quick", help="The first problem of each group; models: batch 1.")
    ] = False,
    seconds: Annotated[
        float, typer.Option(help="Measuring time for each problem; models: for each contender.")
    ] = 2.0,
    stock: Annotated[bool, typer.Option(help="Compare with stock IREE.")] = True,
    workers: Annotated[
        int, typer.Option(min=0, help="Worker threads, PyTorch's too. 0: one a core.")
    ] = 0,
    extension: Annotated[
        bool,
        typer.Option("--extension", help="Kernels of the runtime extension, AMX among them."),
    ] = False,
    batch: Annotated[
        bool,
        typer.Option(
            "--batch/--no-batch",
            help="Schedule the calling thread as SCHED_BATCH, lest it preempts the worker that"
            " wakes it (Linux; docs/performance.md).",
        ),
    ] = True,
    out: Annotated[Path, typer.Option(help="Folder for JSON and plots.")] = Path("bench-results"),
    update: Annotated[
        bool, typer.Option("--update", help="Keep what the JSON file has besides.")
    ] = False,
    show: Annotated[
        Path | None, typer.Option(help="Measure nothing: tables and plots of this folder's JSON.")
    ] = None,
    markdown: Annotated[
        bool, typer.Option("--markdown", help="With --show: tables in Markdown.")
    ] = False,
) -> None:
    """Against stock IREE, PyTorch and the machine's limits; prints tables, writes JSON and plots.

    --quick takes about two minutes.
    """
    from . import bench as command

    if show is None:
        command.run(models, only, quick, update, out, seconds, stock, workers, extension, batch)
    else:
        command.show_saved(show, out, markdown)
