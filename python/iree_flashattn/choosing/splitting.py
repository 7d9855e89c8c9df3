"""Split-K: how many key ranges a decode-like site is cut into.

The compiler does not know how many workers will run the module. A site whose query rows fill one
block at most (decode) has one task for each kv head and batch entry; with fewer tasks than a
backend wants its keys are cut, as long as each range keeps keys enough (Dao et al., Flash-Decoding,
2023). Longer queries bring tasks enough, and splitting them would only write partial results.
"""

from __future__ import annotations

from math import ceil
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ..catalog import Kernel
    from ..site import AttentionSite

# (tasks that a split aims at, keys that a range keeps); the most ranges are taken. CPU: the
# cores of a desktop; where keys are many, four times as many, for larger machines and so that the
# last range to be read is a small part of all (a merge reads `splits` rows of dv floats, which is
# little beside 2048 keys). CUDA: four blocks for each of 132 multiprocessors, which reads at 90 %
# of a copy's speed there. Vulkan: eight, the best of 4, 8 and 16 on the same GPU.
AIMS = {"cpu": ((16, 256), (64, 2048)), "cuda": ((528, 256),), "spirv": ((1056, 256),)}
# With two ranges at least a site stays with the split kernels however many tasks it has: on GPUs
# they pack the query heads of a group, and a forward kernel's tile would be nearly empty.
LEAST = {"cpu": 1, "cuda": 2, "spirv": 2}
MAX_SPLITS = 64


def splits_for(site: AttentionSite, row: Kernel) -> int:
    """Number of key ranges for the ``partial`` row; 1 where the site has tasks enough.

    Whoever wants the weights gets no ranges: each knows only its own maximum and sum, and the
    kernel that merges them has no scores.
    """
    if site.q_len.static is None or site.weights is not None:
        return 1
    return key_ranges(
        row,
        batch=site.batch.static or 1,
        heads=int(site.heads),
        kv_heads=int(site.kv_heads),
        q_len=site.q_len.static,
        kv_len=site.kv_len.static,
    )


def key_ranges(
    row: Kernel, *, batch: int, heads: int, kv_heads: int, q_len: int, kv_len: int | None
) -> int:
    """From the shape alone, so that results do not depend on the machine. ``kv_len`` None: known
    at run time."""
    rows = q_len
    if any("packed_blocks" in axis for axis in row.grid):
        rows, heads = rows * heads // kv_heads, kv_heads
    if ceil(rows / row.q_tile) != 1:
        return 1
    tasks = heads * max(batch, 1)

    def ranges(aim: int, keys: int) -> int:
        wanted = max(LEAST[row.backend], ceil(aim / tasks))
        return wanted if kv_len is None else min(wanted, kv_len // keys)

    aims = AIMS[row.backend] if kv_len is not None else AIMS[row.backend][:1]
    return min(MAX_SPLITS, max(1, *(ranges(*aim) for aim in aims)))
