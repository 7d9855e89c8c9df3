"""No kernel reads or writes outside its buffers: proven at compile time or checked at run time.

Where the last element that a view reaches is not provably inside its tensor, the program compares
the two on the host before the dispatch and stops with a message that names the operand.
"""

from __future__ import annotations

from math import prod

from iree.compiler import ir
from iree.compiler.dialects import arith, cf

from ..choosing.choose import MAX_GRID_YZ
from ..choosing.demands import WIDTH, operands
from ..extent import Extent
from ..raising.term import Term
from ..site import AttentionSite, View
from .builder import Builder
from .shapes import size

_MAX = 2**32 - 1  # elements, which kernels count in 32 bits; bytes in storage buffers


def outside(site: AttentionSite) -> tuple[str, str] | None:
    """(reason, offending value) if a view leaves its tensor whatever happens at run time."""
    for name, view, sizes in _views(site):
        need, have = view.reach(sizes).static, _static_elements(view)
        if need is not None and have is not None and need > have:
            return f"{name} would be read outside of its tensor", f"element {need - 1} of {have}"
    return None


def check(site: AttentionSite, build: Builder, in_storage_buffers: bool = False) -> None:
    """Emits the comparisons that cannot be decided now.

    ``in_storage_buffers``: Vulkan, where a binding has less than 2^32 bytes.
    """
    for a, b in site.equal:
        if a != b:
            message = "iree-flashattn: sizes that the attention needs to be equal are not"
            _require(build, build.extent(a), build.extent(b), message, predicate=0)  # eq
    views = _views(site)
    if in_storage_buffers and site.weights is not None:
        views.append(("P", site.weights, (site.batch, site.heads, site.q_len, site.kv_len)))
    for name, view, sizes in views:
        reach, have = view.reach(sizes), _static_elements(view)
        if have is not None:
            if reach.static is not None:
                continue
            limit = build.index(have)
        else:
            limit = _elements(view.value, name in ("O", "P"), build)
            width = WIDTH.get(view.dtype, 8) // 8 if in_storage_buffers else 1
            _require(build, limit, build.index(_MAX // width), _too_large(name, width))
        if any(extent.static == 0 for extent in sizes):
            continue
        _require(build, build.extent(reach), limit, _too_small(name))


def check_grid(site: AttentionSite, splits: int, build: Builder) -> None:
    """Emits the check that a batch known at run time fits the grid's z axis."""
    if site.batch.static is None:
        message = f"iree-flashattn: batch times {splits} key ranges is over {MAX_GRID_YZ}"
        tasks = build.extent(site.batch * splits)
        _require(build, tasks, build.index(MAX_GRID_YZ), message)


def _too_large(name: str, width: int) -> str:
    if width > 1:
        return (
            f"iree-flashattn: {name} takes over 4 GiB, the most that a Vulkan buffer binding holds"
        )
    return f"iree-flashattn: {name} has more than 2^32 - 1 elements"


def _too_small(name: str) -> str:
    return f"iree-flashattn: {name} is smaller than the attention's sizes say"


def _require(
    build: Builder, low: ir.Value, high: ir.Value, message: str, predicate: int = 3
) -> None:
    """Asserts low <= high (signed: a reach with a size of zero is negative and passes)."""
    kind = ir.IntegerAttr.get(ir.IntegerType.get_signless(64, build.context), predicate)
    fits = arith.CmpIOp(kind, low, high, loc=build.location, ip=build.point).result
    cf.AssertOp(fits, message, loc=build.location, ip=build.point)


def _views(site: AttentionSite) -> list[tuple[str, View, tuple[Extent, ...]]]:
    found = []
    for name, (view, rows, columns) in operands(site).items():
        heads = site.kv_heads if name in ("K", "V") else site.heads
        if view.value is not None:
            found.append((name, view, (site.batch, heads, rows, columns)))
    return found


def _static_elements(view: View) -> int | None:
    if isinstance(view.value, Term):  # built to measure
        return None
    return None if None in view.shape else prod(view.shape)


def _elements(value: ir.Value, is_result: bool, build: Builder) -> ir.Value:
    total = build.index(1)
    for axis in range(ir.RankedTensorType(value.type).rank):
        extent = size(value, axis, build) if is_result else build.dim(value, axis)
        total = build.binary(arith.MulIOp, total, extent)
    return total
