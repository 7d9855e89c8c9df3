"""What a Vulkan target says about its devices, and what is left for the device to say.

A target such as ``ampere`` lists types, matrix shapes and limits; a generic one says little, and
then the row becomes a variant with a condition on the device (``device_checks``) that has another
row behind it. A matrix shape cannot be asked of the device, so matrix rows need it in the target.
"""

from __future__ import annotations

import re
from dataclasses import replace
from math import prod
from typing import TYPE_CHECKING

from .checks import Check, implied
from .demands import operands

if TYPE_CHECKING:
    from ..catalog import Kernel
    from ..extent import Extent
    from ..site import AttentionSite, View
    from ..target import Target

_MAX_BUFFER = 2**32 - 1  # bytes: VkPhysicalDeviceLimits::maxStorageBufferRange is 32 bits
_BYTES = {"f32": 4, "f16": 2, "bf16": 2, "i1": 1, "i8": 1}

_MANY_LANES = (16, 32, 64, 128)  # subgroups of GPUs; software devices have fewer

# Queries of the Vulkan driver ("vulkan.feature") that a target's types answer: (list, type).
_IMPLIED = {
    "storage_buffer_8bit_access": ("storage", "b8"),
    "storage_buffer_16bit_access": ("storage", "b16"),
    "shader_int8": ("compute", "int8"),
    "shader_int16": ("compute", "int16"),
    "shader_int64": ("compute", "int64"),
    "shader_float16": ("compute", "fp16"),
}
# Matrix rows multiply 16x16x16 (VK_KHR_cooperative_matrix) into f32. NVIDIA's drivers offer that
# wherever the hardware has the 16x8x16 instruction of the type.
_MATRICES = {
    "f16": r"_F32_(?:16x16x16|16x8x16)_F16\b",
    "bf16": r"_F32_(?:16x16x16|16x8x16)_BF16\b",
}


def missing(row: Kernel, target: Target) -> str:
    """What the row needs and no device of the target can be relied on to have, or ''."""
    if row.target.get("matrix") and not re.search(_MATRICES[row.element], target.config):
        return (
            f"{row.element} matrices of 16x16x16 (--iree-vulkan-target names a GPU that has them)"
        )
    threads = prod(row.workgroup)
    for key, needed, what in (
        ("max_thread_count_per_workgroup", threads, "threads in a workgroup"),
        ("max_workgroup_memory_bytes", row.extra.get("workgroup_memory", 0), "bytes of memory"),
    ):
        limit = _numbers(target, key)
        if limit and needed > limit[0]:
            return f"{needed} {what} (the target allows {limit[0]})"
    return ""


def refuses(row: Kernel, site: AttentionSite) -> str | None:
    """Why the row cannot serve the site on any device of the target."""
    limit, keys = row.extra.get("keys_on_few_lanes"), site.kv_len.static
    if _few_lanes(row) and limit is not None and keys is not None and keys > limit:
        return f"is for {limit} keys at most, the site has {keys}"
    views = operands(site)
    if site.weights is not None:
        views["P"] = (site.weights, site.q_len, site.kv_len)
    for name, (view, rows, columns) in views.items():
        heads = site.kv_heads if name in ("K", "V") else site.heads
        size = view.reach((site.batch, heads, rows, columns)).static
        if size is not None and size * _BYTES[view.dtype] > _MAX_BUFFER:
            return f"{name} takes over 4 GiB, the most that a storage buffer holds"
        if row.extra.get("whole_words") and not _whole_words(view):
            return f"the bytes of {name} may not be a multiple of 4"
        unit = row.extra.get("unit_bytes", 0) // _BYTES[view.dtype]
        if unit and name in ("K", "V") and not _in_units(view, columns, unit):
            return f"the rows of {name} may not be whole units of {row.extra['unit_bytes']} bytes"
    return None


def narrowed(row: Kernel, site: AttentionSite) -> Kernel:
    """The row with what the site adds to its conditions on the device."""
    limit, keys = row.extra.get("keys_on_few_lanes"), site.kv_len.static
    if limit is None or _few_lanes(row) or keys is None or keys <= limit:
        return row  # of keys that are known at run time, the kernel makes NaN where it has to
    return replace(row, target={**row.target, "subgroup": list(_MANY_LANES)})


def _few_lanes(row: Kernel) -> bool:
    """Whether the row runs on devices with few lanes alone."""
    subgroups = row.target.get("subgroup")
    return bool(subgroups) and max(subgroups) < min(_MANY_LANES)


def _whole_words(view: View) -> bool:
    """Whether the tensor takes a multiple of 4 bytes, whatever its sizes at run time."""
    if view.value is None:
        return True
    static = (n for n in view.shape if n is not None)
    return prod(static, start=_BYTES[view.dtype]) % 4 == 0


def _in_units(view: View, columns: Extent, unit: int) -> bool:
    """Whether every row consists of whole units of ``unit`` elements, whatever is known only at run
    time."""
    *steps, along = view.strides
    return along == 1 and all(x.is_multiple_of(unit) for x in (*steps, view.offset, columns))


def device_checks(row: Kernel, target: Target) -> list[Check]:
    """The device queries that the row's variant has to make."""
    checks = []
    for key in row.target.get("device", ()):
        group, name = _IMPLIED.get(key, ("", ""))
        if name not in _listed(target, group):
            checks.append(("vulkan.feature", key, (1,)))
    if subgroups := row.target.get("subgroup"):
        checks.append(("vulkan.device", "subgroup_size", tuple(subgroups)))
    return checks


def decided_at_run_time(row: Kernel, target: Target) -> bool:
    return bool(device_checks(row, target))


def shadows(better: Kernel, row: Kernel, target: Target) -> bool:
    """Whether every device that passes the row's checks passes the better row's."""
    return implied(device_checks(better, target), device_checks(row, target))


def _listed(target: Target, group: str) -> list[str]:
    found = re.search(rf"\b{group} = ([\w|]+)", target.config) if group else None
    return found[1].split("|") if found else []


def _numbers(target: Target, key: str) -> list[int]:
    found = re.search(rf"\b{key} = \[?([\d, ]+)", target.config)
    return [int(n) for n in found[1].split(",") if n.strip()] if found else []
