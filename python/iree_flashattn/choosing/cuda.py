"""What a CUDA target says about its GPUs, and what is left for the GPU to say.

The target's sm_XX is the oldest GPU that the module has to run on; stock code is made for it. A
newer GPU may run the module too, so rows for a newer architecture become variants with a condition
on the device, and another row stands behind them. (The 3.13 compiler has no target for sm_90 or
later: on such GPUs every module runs this way.)
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from .checks import Check, implied

if TYPE_CHECKING:
    from ..catalog import Kernel
    from ..target import Target

# The oldest architecture with the instructions that all rows use (cp.async, bf16 products).
OLDEST = 80
# Dynamic shared memory that a block may have, by compute capability; others have the first's.
_SHARED_BYTES = {86: 101376, 89: 101376, 80: 166912, 87: 166912, 90: 232448, 100: 232448}


def missing(row: Kernel, target: Target) -> str:
    """What the row needs and no GPU of the target can be relied on to have, or ''."""
    if target.sm < OLDEST:
        return (
            f"sm_{OLDEST} or later (the target is sm_{target.sm};"
            f" compile with --iree-cuda-target=sm_{OLDEST})"
        )
    if not runs_everywhere(row, target):
        return ""  # the device answers
    limit = _SHARED_BYTES.get(target.sm, _SHARED_BYTES[86])
    if row.scratch_bytes > limit:
        return f"{row.scratch_bytes} bytes of shared memory (sm_{target.sm} has {limit})"
    return ""


def runs_everywhere(row: Kernel, target: Target) -> bool:
    """Whether every GPU that the target's code runs on also runs the row."""
    return row.target["sm"] <= target.sm and not row.target.get("only")


def device_checks(row: Kernel, target: Target) -> list[Check]:
    """The device queries that the row's variant has to make."""
    if runs_everywhere(row, target):
        return []
    return [("cuda.device", "compute_capability_major", (row.target["sm"] // 10,))]


def decided_at_run_time(row: Kernel, target: Target) -> bool:
    return bool(device_checks(row, target))


def shadows(better: Kernel, row: Kernel, target: Target) -> bool:
    """Whether the better row asks nothing of a device that the row does not ask as well."""
    return implied(device_checks(better, target), device_checks(row, target))
