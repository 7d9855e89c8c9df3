"""The cost gate: where stock code generation would be faster, decline and say so.

Set by ``benchmarks/cpu_gate.py`` on an AVX2 machine (Zen 3), one worker and two, and for AVX-512 by
``iree-flashattn bench --only tiny`` (Zen 5 the fused op, Zen 4 the spelled-out form). Declined, a
site stays in the form that its module has, so the limits are that form's:

- The fused op, ``iree_linalg_ext.attention``, wins by its lack of preparation while a row has next
  to nothing to compute (AVX2: the kernels have 0.6 to 1.05 of its speed up to 256 multiplications
  a row, 1.1 to 8 times that with 512, and soon 100 times).
- The spelled-out form is two matrix products that the compiler knows by their sizes. It wins with
  many heads that are a register tile or two (AVX2, 96 heads: the kernels have 0.7 to 0.92 of its
  speed up to 8 rows and keys, 0.95 to 1.04 with 16, 1.05 and more with 32), and with one row up to
  1024 multiplications. With 32 heads they win or the two are nearly equal, with fewer they win.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ..site import AttentionSite
    from ..target import Target
    from .choice import Choice

FUSED_OP = "attention"
FUSED_HEADS = 8
FUSED_MACS = 1024  # a head
FUSED_ROW_MACS = 256
WIDE_FUSED_HEADS = 33
WIDE_FUSED_MACS = 2047
SPELLED_HEADS = 33
SPELLED_LENGTH = 16  # rows and keys
WIDE_SPELLED_LENGTH = 32
SPELLED_MACS_OF_ONE_ROW = 1024
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
    faster = fused_is_faster if site.spelling == FUSED_OP else spelled_is_faster
    wide = "avx512f" in target.features
    if faster(batch * heads, q_len, kv_len, int(site.dk) + int(site.dv), wide):
        macs = q_len * kv_len * (int(site.dk) + int(site.dv))
        return (
            f"{batch * heads} heads of {macs} multiplications each are faster in stock code, which"
            " knows their size when it is compiled (IREE_FLASHATTN_GATE=off serves it all the same)"
        )
    return None


def fused_is_faster(heads: int, q_len: int, kv_len: int, dims: int, wide: bool) -> bool:
    """Whether stock's fused op is, for ``heads`` (of all batch entries) of that size; ``dims`` is
    dk + dv, ``wide``: AVX-512."""
    macs = q_len * kv_len * dims
    if wide:
        return heads >= WIDE_FUSED_HEADS and macs <= WIDE_FUSED_MACS
    return heads >= FUSED_HEADS and macs <= FUSED_MACS and kv_len * dims <= FUSED_ROW_MACS


def spelled_is_faster(heads: int, q_len: int, kv_len: int, dims: int, wide: bool) -> bool:
    """The same for two matrix products and a softmax spelled out."""
    if heads < SPELLED_HEADS:
        return False
    if q_len == 1:
        return kv_len * dims <= SPELLED_MACS_OF_ONE_ROW
    length = WIDE_SPELLED_LENGTH if wide else SPELLED_LENGTH
    return max(q_len, kv_len) <= length
