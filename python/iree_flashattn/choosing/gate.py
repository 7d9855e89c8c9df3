"""The cost gate: where stock code generation would be faster, decline and say so.

Measured on two AVX-512 cores (``iree-flashattn bench --only tiny`` repeats it): handing a workgroup
to a worker costs about 0.15 microseconds, which stock spends less often because it puts many tiny
heads into one workgroup. Below ``TASK_MACS`` multiplications a workgroup and with more than
``TASKS`` of them, stock's fused form was up to 1.5 times as fast; above either, the kernels won or
the two were equal.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ..site import AttentionSite
    from ..target import Target
    from .choice import Choice

TASK_MACS = 2048
TASKS = 32
# Stock computes wrong results for key head dims over this, and NaN for fully masked rows.
STOCK_HEAD_DIM = 128


def stock_wins(site: AttentionSite, target: Target, choice: Choice) -> str | None:
    """The reason why stock code is faster for this site, or None.

    Only plain attention of a size known now is declined: stock has to be right to be preferred.
    """
    if target.backend != "cpu" or int(site.dk) > STOCK_HEAD_DIM:
        return None
    if site.mask or site.bias or site.sinks or site.weights or site.lse or site.softcap is not None:
        return None
    if not site.band.open:
        return None
    sizes = [size.static for size in (site.batch, site.heads, site.q_len, site.kv_len)]
    if None in sizes or 0 in sizes:
        return None
    batch, heads, q_len, kv_len = (int(size) for size in sizes if size is not None)
    tasks = batch * heads
    macs = q_len * kv_len * (int(site.dk) + int(site.dv))
    if tasks > TASKS and macs < TASK_MACS:
        return (
            f"{tasks} heads of {macs} multiplications each are faster in stock code, which computes"
            f" several in one workgroup (limits: {TASKS} heads, {TASK_MACS} multiplications;"
            " IREE_FLASHATTN_GATE=off serves it all the same)"
        )
    return None
