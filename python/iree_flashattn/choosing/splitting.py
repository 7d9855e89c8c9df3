"""Split-K: how many key ranges a decode-like site is cut into.

The compiler does not know how many workers will run the module. Tasks are cheap on every back end
(a task of a CPU costs about 2 microseconds), so a site with fewer tasks than ``TASKS`` is cut
until it has that many, as long as a range keeps ``MIN_KEYS`` keys (Dao et al., Flash-Decoding).
"""

from __future__ import annotations

from math import ceil
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ..catalog import KernelRow
    from ..site import AttentionSite
    from ..target import Target

# Workers that a split is meant for. CPU: a desktop's cores; the merge reads `splits` rows of dv
# floats, so more would only cost. GPUs: two waves on 132 multiprocessors.
TASKS = {"cpu": 16, "cuda": 264, "spirv": 128}
MIN_KEYS = {"cpu": 256, "cuda": 256, "spirv": 256}
MAX_SPLITS = 64


def splits_for(site: AttentionSite, row: KernelRow, target: Target) -> int:
    """Number of key ranges; 1 where the site has tasks enough."""
    backend = target.backend
    batch = site.batch.static or 1
    rows = site.q_len.static or 1
    q_blocks = ceil(rows / row.q_tile)
    heads = int(site.kv_heads) if "kv_heads" in row.grid else int(site.heads)
    for axis in row.grid:
        if "packed_blocks" in axis:
            group = int(site.heads) // int(site.kv_heads)
            q_blocks, heads = ceil(rows * group / row.q_tile), int(site.kv_heads)
        elif "kv_heads" in axis:
            heads = int(site.kv_heads)
    tasks = max(1, q_blocks * heads * batch)
    wanted = ceil(TASKS[backend] / tasks)
    keys = site.kv_len.static
    most = MAX_SPLITS if keys is None else keys // MIN_KEYS[backend]
    return max(1, min(wanted, most, MAX_SPLITS))
