"""Attention in float64 NumPy, exactly as the dispatch ABI defines it: the reference of every test.

Written for clarity: whole score matrices, no tiles. Memory grows with q_len * kv_len.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


class Result(NamedTuple):
    out: Array  # [batch, heads, q_len, dv]
    weights: Array  # P, [batch, heads, q_len, kv_len]
    lse: Array  # [batch, heads, q_len]


def attention(
    q: NDArray,
    k: NDArray,
    v: NDArray,
    *,
    scale: float,
    softcap: float | None = None,
    bias: NDArray | None = None,
    excluded: NDArray[np.bool_] | None = None,
    band_lo: int | None = None,
    band_hi: int | None = None,
    fill: float = -math.inf,
    bias_after_fill: bool = False,
    sinks: NDArray | None = None,
    empty_row_nan: bool = False,
    lse_nan: bool = False,
) -> Result:
    """softmax(scores) V, all in float64.

    q: [batch, heads, q_len, dk]; k: [batch, kv_heads, kv_len, dk]; v: [batch, kv_heads, kv_len,
    dv]. Query head h reads kv head ``h // (heads // kv_heads)``. ``bias`` and ``excluded`` (True:
    masked out) broadcast to [batch, heads, q_len, kv_len]; elements outside
    ``band_lo <= key - query <= band_hi`` are masked out as well and score ``fill``. ``sinks``:
    [heads], one more score a row that has no value. A row all of whose scores are -inf is 0, or
    NaN with ``empty_row_nan``; a row without keys is 0. The LSE is that of the scores without the
    sink; that of a row all of whose scores are -inf is -inf, or NaN with ``lse_nan``.
    """
    q, k, v = (np.asarray(x, np.float64) for x in (q, k, v))
    group = q.shape[1] // k.shape[1]
    k, v = np.repeat(k, group, axis=1), np.repeat(v, group, axis=1)
    batch, heads, q_len, _ = q.shape
    kv_len, dv = v.shape[2], v.shape[3]
    if kv_len == 0 or q_len == 0:
        shape = (batch, heads, q_len)
        nothing = np.zeros((*shape, dv)), np.zeros((*shape, kv_len))
        return Result(*nothing, np.full(shape, -np.inf))
    with np.errstate(all="ignore"):
        s = scale * (q @ k.swapaxes(-1, -2))
        if softcap is not None:
            s = softcap * np.tanh(s / softcap)
        if bias is not None and not bias_after_fill:
            s = s + np.asarray(bias, np.float64)
        out_of_band = np.zeros((q_len, kv_len), bool)
        distance = np.arange(kv_len)[None, :] - np.arange(q_len)[:, None]
        if band_lo is not None:
            out_of_band |= distance < band_lo
        if band_hi is not None:
            out_of_band |= distance > band_hi
        if excluded is not None:
            out_of_band = out_of_band | excluded
        s = np.where(out_of_band, np.float64(fill), s)
        if bias is not None and bias_after_fill:
            s = s + np.asarray(bias, np.float64)
        top = s.max(axis=-1, keepdims=True)
        lse = _log_sum_exp(s, top, lse_nan)
        if sinks is not None:
            sink = np.asarray(sinks, np.float64).reshape(1, heads, 1, 1)
            top = np.maximum(top, sink)
        empty = np.isneginf(top)
        e = np.exp(s - np.where(empty, 0.0, top))
        total = e.sum(axis=-1, keepdims=True)
        if sinks is not None:
            total = total + np.exp(sink - np.where(empty, 0.0, top))
        weights = np.where(empty, np.nan if empty_row_nan else 0.0, e / total)
        return Result(weights @ v, weights, lse)


def _log_sum_exp(s: Array, top: Array, empty_nan: bool) -> Array:
    empty = np.isneginf(top)
    base = np.where(empty, np.nan if empty_nan else 0.0, top)
    return (base + np.log(np.exp(s - base).sum(axis=-1, keepdims=True)))[..., 0]
