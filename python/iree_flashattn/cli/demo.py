"""``iree-flashattn demo``: stock IREE against the kernels, on this machine's CPU, in a minute."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib.resources import files

import numpy as np
from numpy.typing import NDArray
from rich.table import Table

from .. import oracle
from ..bench import modules, running
from ..compiling import LOCAL, compile_module
from ..problems import Problem
from . import console as consoles


@dataclass
class Case:
    name: str
    source: str
    shapes: list[tuple[int, ...]]
    flops: int
    reference: Callable[[list[NDArray]], NDArray]


def cases() -> list[Case]:
    issue = files("iree_flashattn.bench").joinpath("issue_11780.mlir").read_text("utf-8")
    problem = Problem("attention", heads=8, q_len=1024, kv_len=1024, dk=64)
    shape = (1, 8, 1024, 64)
    return [
        Case(
            "IREE issue #11780 (160x8x8, head dim 32)",
            issue,
            [(8, 20, 256)] * 3,
            4 * 160 * 8 * 8 * 32,
            issue_reference,
        ),
        Case(
            "attention 1x8x1024x64",
            modules.fused(problem),
            [shape] * 3,
            problem.flops,
            lambda inputs: oracle.attention(*inputs, scale=problem.effective_scale).out,
        ),
    ]


def issue_reference(inputs: list[NDArray]) -> NDArray[np.float64]:
    """[8, 20, 256] activations: sequence, batch, heads times head dim."""
    heads = [x.reshape(8, 160, 32).transpose(1, 0, 2)[None] for x in inputs]
    out = oracle.attention(*heads, scale=0.176776692).out[0]
    return out.transpose(1, 0, 2).reshape(160, 256)


def run() -> None:
    console = consoles.make()
    table = Table(
        "module", "compiler", "time", "GFLOP/s", "speed-up", "largest error", title="local-task"
    )
    for case in cases():
        with console.status(f"{case.name}: compiling and running"):
            _add_rows(case, table)
    console.print(table)


def _add_rows(case: Case, table: Table) -> None:
    rng = np.random.default_rng()
    inputs = [rng.standard_normal(shape, np.float32) for shape in case.shapes]
    expected = case.reference(inputs)
    stock = compile_module(case.source, LOCAL, plugin=False)
    ours = compile_module(case.source, LOCAL, options={"IREE_FLASHATTN_GATE": "off"})
    for site in ours.sites:
        if not site["matched"]:
            raise RuntimeError(f"{case.name}: {site['rule']}: {site['reason']}")
    if not ours.sites:
        raise RuntimeError(f"{case.name}: no attention was found")
    names = {"stock IREE": stock, f"with {ours.sites[0]['kernel']}": ours}
    functions = {name: running.load(done.vmfb) for name, done in names.items()}
    arguments = [running.on_device(x) for x in inputs]
    errors = {
        name: np.abs(running.to_float(function(*arguments)) - expected).max()
        for name, function in functions.items()
    }
    calls = {name: (lambda f=f: f(*arguments)) for name, f in functions.items()}
    times = {name: running.median(t) for name, t in running.interleaved(calls, 2.0, 3).items()}
    base = times["stock IREE"]
    for index, (name, seconds) in enumerate(times.items()):
        table.add_row(
            case.name if index == 0 else "",
            name,
            f"{seconds * 1e3:.3f} ms",
            f"{case.flops / seconds / 1e9:.1f}",
            "" if index == 0 else f"{base / seconds:.1f}x",
            f"{errors[name]:.1e}",
            end_section=index == len(times) - 1,
        )
