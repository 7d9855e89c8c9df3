"""The cost gate: where stock code generation would be faster, decline and say so.

Set by ``benchmarks/cpu_gate.py`` on an AVX2 machine (Zen 3) and on one with AVX-512 (Zen 4), one
worker and two. Declined, a site stays in the form that its module has, so the limits are that
form's:

- The fused op, ``iree_linalg_ext.attention``, wins by its lack of preparation while a row has next
  to nothing to compute (AVX2: the kernels have 0.6 to 1.05 of its speed up to 256 multiplications
  a row, 1.1 to 8 times that with 512, and soon 100 times; AVX-512, 24 heads and more: 0.7 to 1.0 up
  to 512, 1.0 to 1.6 with 1024. With fewer heads the two are nearly equal there).
- The spelled-out form is two matrix products that the compiler knows by their sizes. It wins with
  many heads that are a register tile or two (AVX2, 96 heads: the kernels have 0.7 to 0.92 of its
  speed up to 8 rows and keys, 0.95 to 1.04 with 16, 1.05 and more with 32; AVX-512, 24 heads and
  more: 0.6 to 0.95 with 8, 0.86 to 0.97 with 16, 1.0 to 1.25 with 24 and 32), and with one row up
  to 1024 (AVX-512: 2048) multiplications. With 32 heads of an AVX2 machine they win or the two are
  nearly equal. With fewer they win, but for 16 heads of 8 rows with AVX-512 (0.85 to 1.0), which
  are served: it is a matter of 2 to 5 microseconds a call.
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
WIDE_FUSED_HEADS = 24
WIDE_FUSED_MACS = 4096
WIDE_FUSED_ROW_MACS = 512
SPELLED_HEADS = 33
WIDE_SPELLED_HEADS = 24
SPELLED_LENGTH = 16  # rows and keys
SPELLED_HEADS_OF_ONE_ROW = 33
SPELLED_MACS_OF_ONE_ROW = 1024
WIDE_SPELLED_MACS_OF_ONE_ROW = 2048
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
    least, most, most_a_row = (
        (WIDE_FUSED_HEADS, WIDE_FUSED_MACS, WIDE_FUSED_ROW_MACS)
        if wide
        else (FUSED_HEADS, FUSED_MACS, FUSED_ROW_MACS)
    )
    return heads >= least and macs <= most and kv_len * dims <= most_a_row


def spelled_is_faster(heads: int, q_len: int, kv_len: int, dims: int, wide: bool) -> bool:
    """The same for two matrix products and a softmax spelled out."""
    if q_len == 1:
        most = WIDE_SPELLED_MACS_OF_ONE_ROW if wide else SPELLED_MACS_OF_ONE_ROW
        return heads >= SPELLED_HEADS_OF_ONE_ROW and kv_len * dims <= most
    least = WIDE_SPELLED_HEADS if wide else SPELLED_HEADS
    return heads >= least and max(q_len, kv_len) <= SPELLED_LENGTH
