"""What a site asks of a kernel, in the words of the kernel table's ``features``."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from ..extent import Extent

if TYPE_CHECKING:
    from ..site import AttentionSite, View

WIDTH = {"f32": 32, "f16": 16, "bf16": 16}
_WORD_MAX = 2**32 - 1


def element_of(site: AttentionSite) -> str | None:
    """The element type of the kernel: that of Q, K, V and O, or f32 where they differ.

    None if one of them has a type that no kernel computes in.
    """
    types = {view.dtype for view in (site.q, site.k, site.v, site.out)}
    if not types <= WIDTH.keys():
        return None
    return types.pop() if len(types) == 1 else "f32"


def is_transposed(view: View, rows: Extent, columns: Extent) -> bool | None:
    """False: columns are contiguous. True: rows are. None: neither."""
    _, _, row, column = view.strides
    if column == 1 or columns == 1:
        return False
    if row == 1 or rows == 1:
        return True
    return None


def key_broadcast(view: View, keys: Extent) -> bool | None:
    """Mask or bias. False: keys are contiguous. True: one value for all keys. None: neither."""
    column = view.strides[3]
    if column == 1 or keys == 1:
        return False
    return True if column == 0 else None


def operands(site: AttentionSite) -> dict[str, tuple[View, Extent, Extent]]:
    """Name -> (view, rows, columns) of the operands that the site has, O among them."""
    found = {
        "Q": (site.q, site.q_len, site.dk),
        "K": (site.k, site.kv_len, site.dk),
        "V": (site.v, site.kv_len, site.dv),
        "O": (site.out, site.q_len, site.dv),
    }
    if site.mask is not None:
        found["mask"] = (site.mask, site.q_len, site.kv_len)
    if site.bias is not None:
        found["bias"] = (site.bias, site.q_len, site.kv_len)
    return found


def demands(site: AttentionSite) -> frozenset[str]:
    """The features that a kernel needs for this site."""
    present = {
        "mask": site.mask is not None,
        "bias": site.bias is not None,
        "bias_after_fill": site.bias is not None and site.bias_after_fill,
        "fill": site.fill != -math.inf and (site.mask is not None or not site.band.open),
        "band": not site.band.open,
        "softcap": site.softcap is not None,
        "sinks": site.sinks is not None,
        "weights": site.weights is not None,
        "lse": site.lse is not None,
        "gqa": site.heads != site.kv_heads,
        "dk_ne_dv": site.dk != site.dv,
        "dynamic": site.dynamic or not _all_static(site),
    }
    for name in "QKVO":
        view, rows, columns = operands(site)[name]
        present[f"{name.lower()}_transposed"] = is_transposed(view, rows, columns) is True
    return frozenset(name for name, needed in present.items() if needed)


def _all_static(site: AttentionSite) -> bool:
    sizes = (site.batch, site.heads, site.kv_heads, site.q_len, site.kv_len, site.dk, site.dv)
    return all(size.static is not None for size in sizes)


def misfit(site: AttentionSite) -> tuple[str, str] | None:
    """(reason, offending value) if no kernel of any back end could take the site."""
    if element_of(site) is None:
        types = ", ".join(f"{n} {v.dtype}" for n, (v, _, _) in operands(site).items())
        return "element types other than f32, f16 and bf16 have no kernel", types
    for name, size in (("head dim of K", site.dk), ("head dim of V", site.dv)):
        if size.static is None:
            return f"the {name} is known only at run time; export it with a static size", str(size)
        if not 0 < size.static < 2**16:
            return f"the {name} must be from 1 to 65535", str(size)
    for name, size in (("query heads", site.heads), ("kv heads", site.kv_heads)):
        if size.static is None:
            return f"the number of {name} is known only at run time", str(size)
        if not 0 < size.static < 2**16:
            return f"the number of {name} must be from 1 to 65535", str(size)
    if int(site.heads) % int(site.kv_heads):
        return "query heads must be a multiple of kv heads", f"{site.heads} and {site.kv_heads}"
    for name, (view, rows, columns) in operands(site).items():
        if name in ("mask", "bias"):
            contiguous = key_broadcast(view, columns) is not None
        else:
            contiguous = is_transposed(view, rows, columns) is not None
        if not contiguous:
            return f"{name} is strided in both of its inner dimensions", str(view.strides)
        if name in ("mask", "bias", "O") and view.offset != 0:
            return f"{name} does not start at its tensor's first element", str(view.offset)
        for number in (view.offset, *view.strides):
            if number.static is not None and not 0 <= number.static <= _WORD_MAX:
                return f"an offset or stride of {name} does not fit 32 bits", str(number)
    if site.sinks is not None and (site.sinks.offset != 0 or site.sinks.strides[1] != 1):
        return "sinks are not one contiguous value for each head", str(site.sinks.strides)
    for name, size in (("q_len", site.q_len), ("kv_len", site.kv_len)):
        if size.static is not None and size.static >= 2**31:
            return f"{name} must be below 2^31", str(size)
    return None
