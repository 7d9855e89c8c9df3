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
    only: Annotated[str, typer.Option(help="Problems whose name contains this.")] = "",
    element: Annotated[str, typer.Option(help="f32, f16 or bf16; several by commas.")] = "f32",
    out: Annotated[Path, typer.Option(help="Folder for JSON and plots.")] = Path("bench-results"),
    seconds: Annotated[float, typer.Option(help="Time for each problem.")] = 2.0,
    stock: Annotated[bool, typer.Option(help="Compare with stock IREE.")] = True,
) -> None:
    """Problems against stock IREE and PyTorch; prints a table, writes JSON and plots."""
    from . import bench as command

    command.run(models, only, element.split(","), out, seconds, stock)
