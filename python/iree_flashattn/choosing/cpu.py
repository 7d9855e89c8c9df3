"""What a CPU target promises, and what is left for the machine that runs the module.

The features that a module is compiled for are a promise; the machine may have more of them. Rows
with ``at_run_time`` in the kernel table ask for the rest when they are called, and then another row
stands behind them. A row with ``cpus`` is for targets that name one of them: it has an instruction
that others have as well, but slowly.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..emitting.cpu_shim import X86_64_BITS

if TYPE_CHECKING:
    from ..catalog import Kernel
    from ..target import Target


def missing(row: Kernel, target: Target) -> str:
    """What the row needs and no machine of the target can be relied on to have, or ''."""
    if row.target.get("arch") != target.arch:
        return f"arch {row.target.get('arch')}"
    cpus = row.target.get("cpus", [target.cpu])
    if target.cpu not in cpus:
        return f"--iree-llvmcpu-target-cpu={' or '.join(cpus)}"
    absent = _not_promised(row, target)
    if absent and row.extra.get("at_run_time") and set(absent) <= X86_64_BITS.keys():
        return ""  # the machine answers
    return ", ".join(absent)


def decided_at_run_time(row: Kernel, target: Target) -> bool:
    """Whether the row's features are looked up on the machine that runs the module."""
    return bool(_not_promised(row, target))


def _not_promised(row: Kernel, target: Target) -> list[str]:
    return [f for f in row.target.get("features", ()) if f not in target.features]
