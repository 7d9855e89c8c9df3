"""One description of an attention site: what raising makes, and choosing and emitting read.

    S = scale * Q Kᵀ;  S = softcap * tanh(S / softcap);  S += bias;  S = fill where masked
    P = softmax(S | sinks)  over the keys
    O = P V
    LSE = log sum exp(S)  over the keys, without the sinks

Sizes: ``batch``, ``heads`` (query heads), ``kv_heads``, ``q_len``, ``kv_len``, ``dk``, ``dv``.
Query head h reads kv head ``h // (heads // kv_heads)``.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Literal

from iree.compiler import ir

from .extent import Extent

ElementType = Literal["f32", "f16", "bf16", "i1", "i8"]


@dataclass(frozen=True)
class View:
    """A strided window into the row-major buffer of a tensor value; elements, not bytes.

    ``strides`` belong to (batch, head, row, column): row is a query for Q, O, mask and bias and a
    key for K and V; column is the head dim for Q, K, V, O and the key for mask and bias. A stride
    of 0 broadcasts. For a result, ``value`` is the tensor value that the dispatch's result
    replaces, and the view says where O's elements lie in it.
    """

    value: ir.Value
    dtype: ElementType
    strides: tuple[Extent, Extent, Extent, Extent]
    offset: Extent = field(default_factory=Extent)

    @property
    def shape(self) -> tuple[int | None, ...]:
        """The tensor's sizes; None for those that only the run time knows."""
        if not isinstance(self.value, ir.Value):  # a tensor that is still to be built
            return tuple(n if isinstance(n, int) else n.static for n in self.value.shape)
        kind = ir.RankedTensorType(self.value.type)
        return tuple(None if kind.is_dynamic_dim(d) else n for d, n in enumerate(kind.shape))

    def reach(self, sizes: tuple[Extent, Extent, Extent, Extent]) -> Extent:
        """One past the last element that is read: offset + sum of (size - 1) * stride + 1."""
        last = self.offset
        for extent, stride in zip(sizes, self.strides, strict=True):
            last = last + (extent - 1) * stride
        return last + 1


@dataclass(frozen=True)
class Band:
    """Elements with ``lo <= key - query <= hi`` attend; None leaves that side open.

    Causal, top-left aligned: ``hi = 0``; bottom-right: ``hi = kv_len - q_len``; a sliding window of
    w keys besides: ``lo = hi - w + 1``. A bound may be an ``Extent`` over run-time sizes.
    """

    lo: Extent | None = None
    hi: Extent | None = None

    @property
    def open(self) -> bool:
        return self.lo is None and self.hi is None


@dataclass
class AttentionSite:
    anchor: ir.Operation  # the dispatch goes right before it; every operand dominates it
    location: str
    q: View
    k: View
    v: View
    out: View
    batch: Extent
    heads: Extent
    kv_heads: Extent
    q_len: Extent
    kv_len: Extent
    dk: Extent
    dv: Extent
    scale: float | ir.Value = 1.0  # an SSA value is a scalar f32
    softcap: float | None = None
    band: Band = Band()
    mask: View | None = None  # i1 or i8
    mask_drops: bool = False  # True: nonzero excludes; False: nonzero attends
    bias: View | None = None
    bias_after_fill: bool = False
    fill: float = -math.inf
    sinks: View | None = None  # f32, strides (0, head stride, 0, 0)
    empty_row: Literal["zero", "nan"] = "zero"  # a row whose scores are all -inf
    weights: View | None = None  # the normalised P as a second result, dense (b, h, q, key)
    lse: View | None = None  # LSE as a result, dense (b, h, q)
    lse_empty: Literal["inf", "nan"] = "inf"  # LSE of a row whose scores are all -inf; "inf": -inf
    spelling: str = ""  # which rule raised it, for the report
    dynamic: bool = False  # any extent known only at run time
    # Sizes that the source program needs to be equal and does not prove (the keys of K and of V):
    # compared on the host before the dispatch.
    equal: list[tuple[Extent, Extent]] = field(default_factory=list)
