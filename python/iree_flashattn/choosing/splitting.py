"""Split-K: how many key ranges a decode-like site is cut into.

The compiler does not know how many workers will run the module. A site whose query rows fill one
block at most (decode) has one task for each kv head and batch entry; with fewer tasks than
``TASKS`` its keys are cut, as long as a range keeps ``MIN_KEYS`` keys (Dao et al., Flash-Decoding,
2023). Longer queries bring tasks enough, and splitting them would only write partial results.
"""

from __future__ import annotations

from math import ceil
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ..catalog import Kernel
    from ..site import AttentionSite
    from ..target import Target

# Tasks that a split aims at. CPU: the cores of a desktop; a merge reads `splits` rows of dv floats,
# so more would only cost. CUDA: four blocks for each of 132 multiprocessors, which
# reads at 90 % of a copy's speed there. Vulkan: eight, the best of 4, 8 and 16 on the same GPU.
TASKS = {"cpu": 16, "cuda": 528, "spirv": 1056}
# With two ranges at least a site stays with the split kernels however many tasks it has: on GPUs
# they pack the query heads of a group, and a forward kernel's tile would be nearly empty.
LEAST = {"cpu": 1, "cuda": 2, "spirv": 2}
MIN_KEYS = {"cpu": 256, "cuda": 256, "spirv": 256}
MAX_SPLITS = 64


def splits_for(site: AttentionSite, row: Kernel, target: Target) -> int:
    """Number of key ranges; 1 where the site has tasks enough."""
    if site.q_len.static is None:
        return 1
    rows, heads = site.q_len.static, int(site.heads)
    if any("packed_blocks" in axis for axis in row.grid):
        rows, heads = rows * heads // int(site.kv_heads), int(site.kv_heads)
    if ceil(rows / row.q_tile) != 1:
        return 1
    tasks = heads * (site.batch.static or 1)
    wanted = max(LEAST[target.backend], ceil(TASKS[target.backend] / tasks))
    keys = site.kv_len.static
    most = MAX_SPLITS if keys is None else keys // MIN_KEYS[target.backend]
    return max(1, min(wanted, most, MAX_SPLITS))
