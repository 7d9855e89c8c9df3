"""Operands of a :class:`~iree_flashattn.problems.Problem` in memory, and their dispatch constants.

Tests of every back end call kernels through what this module makes: flat buffers in the element's
storage type (bf16 as uint16), strides, and the 32 constant words of the ABI.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from . import oracle
from .abi import FLAG, WORD, WORD_COUNT
from .problems import Problem

STORAGE = {"f32": np.dtype(np.float32), "f16": np.dtype(np.float16), "bf16": np.dtype(np.uint16)}


def to_storage(x: NDArray, element: str) -> NDArray:
    """Rounds float values to ``element`` (nearest even), in its storage type."""
    if element != "bf16":
        with np.errstate(over="ignore"):
            return np.asarray(x).astype(STORAGE[element])
    x = np.asarray(x, np.float32)
    bits = x.view(np.uint32).astype(np.uint64)
    rounded = ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)
    return np.where(np.isnan(x), np.uint16(0x7FC0), rounded)


def from_storage(x: NDArray, element: str) -> NDArray[np.float32]:
    if element != "bf16":
        return x.astype(np.float32)
    return (x.astype(np.uint32) << 16).view(np.float32)


@dataclass
class Operand:
    """A flat buffer and the strides of (batch, head, row) plus the transposition flag."""

    buffer: NDArray
    strides: tuple[int, int, int]
    transposed: bool
    shape: tuple[int, int, int, int]  # logical (batch, head, row, column)
    offset: int = 0

    def view(self) -> NDArray:
        """The logical array (batch, head, row, column), sharing the buffer."""
        b, h, x = self.strides
        steps = (b, h, 1, x) if self.transposed else (b, h, x, 1)
        size = self.buffer.itemsize
        return np.lib.stride_tricks.as_strided(
            self.buffer[self.offset :], self.shape, [s * size for s in steps]
        )


def allocate(problem: Problem, which: str) -> Operand:
    """A zeroed operand ``q``, ``k``, ``v`` or ``o`` in the problem's layout."""
    is_kv = which in "kv"
    heads = problem.kv_heads if is_kv else problem.heads
    rows = problem.kv_len if is_kv else problem.q_len
    columns = problem.dk if which in "qk" else problem.dv
    transposed = which in problem.transposed
    inner, outer = (rows, columns) if transposed else (columns, rows)
    inner += problem.padding
    size = heads * outer * inner
    head, row = (inner, heads * inner) if problem.layout == "bshd" else (outer * inner, inner)
    shared = is_kv and problem.shared_kv
    buffer = np.zeros(
        problem.padding + (1 if shared else problem.batch) * size, STORAGE[problem.element]
    )
    strides = (0 if shared else size, head, row)
    shape = (problem.batch, heads, rows, columns)
    offset = 0 if which == "o" else problem.padding
    return Operand(buffer, strides, transposed, shape, offset)


@dataclass
class Operands:
    problem: Problem
    q: Operand
    k: Operand
    v: Operand
    o: Operand
    mask: NDArray[np.uint8] | None = None  # shape with 1 where it broadcasts
    bias: NDArray | None = None
    sinks: NDArray[np.float32] | None = None
    weights: NDArray | None = None  # filled by the kernel, as is lse
    lse: NDArray[np.float32] | None = None
    words: NDArray[np.uint32] = field(default_factory=lambda: np.zeros(WORD_COUNT, np.uint32))

    def bias_values(self) -> NDArray[np.float32] | None:
        if self.bias is None:
            return None
        element = "f32" if self.problem.bias == "f32" else self.problem.element
        return from_storage(self.bias, element)

    def reference(self, rows: slice = slice(None)) -> oracle.Result:
        """The float64 result for exactly these (rounded) operands, of a range of queries."""
        p = self.problem
        excluded = None
        if self.mask is not None:
            mask = _rows_of(self.mask, rows)
            excluded = (mask != 0) if p.mask == "drop" else (mask == 0)
        bias = self.bias_values()
        q, k, v = (from_storage(x.view(), p.element) for x in (self.q, self.k, self.v))
        first = rows.indices(p.q_len)[0]
        low, high = (None if x is None else x + first for x in (p.band_lo, p.band_hi))
        return oracle.attention(
            q[:, :, rows], k, v,
            scale=float(np.float32(p.effective_scale)),
            softcap=p.softcap,
            bias=None if bias is None else _rows_of(bias, rows),
            excluded=excluded,
            band_lo=low,
            band_hi=high,
            fill=float(np.float32(p.fill)),
            bias_after_fill=p.bias_after_fill,
            sinks=self.sinks,
            empty_row_nan=p.empty_row_nan,
            lse_nan=p.lse == "nan",
        )  # fmt: skip

    def result(self) -> NDArray[np.float32]:
        return from_storage(self.o.view(), self.problem.element)

    def poisoned_results(self) -> list[NDArray]:
        """The buffers of O and, if there, of P, filled with NaN, in the order of bindings."""
        found = [self.o.buffer] + ([] if self.weights is None else [self.weights])
        for buffer in found:
            buffer[...] = 0x7FFF if buffer.dtype == np.uint16 else np.nan
        return found

    def result_weights(self) -> NDArray[np.float32]:
        return from_storage(self.weights, self.problem.element)


def _rows_of(array: NDArray, rows: slice) -> NDArray:
    """Of a mask or bias [b, h, q, k] these rows of q, where it has them."""
    return array if array.shape[2] == 1 else array[:, :, rows]


def make(problem: Problem, seed: int, spread: float = 1.0) -> Operands:
    """Fresh random operands (normal; ``spread`` scales Q) and the dispatch constants."""
    rng = np.random.default_rng(seed)
    p = problem
    parts = {x: allocate(p, x) for x in "qkvo"}
    for name in "qkv":
        shape = parts[name].shape
        values = rng.standard_normal((1, *shape[1:]) if p.shared_kv else shape, np.float32)
        parts[name].view()[...] = to_storage(values * (spread if name == "q" else 1), p.element)
    made = Operands(p, **parts)
    sizes = {"b": p.batch, "h": p.heads, "q": p.q_len, "k": p.kv_len}
    if p.mask:
        shape = [sizes[d] if d in p.mask_dims else 1 for d in "bhqk"]
        # Any nonzero byte counts, and a quarter of the elements is masked out.
        keep = rng.random(shape) < 0.75
        nonzero = rng.integers(1, 256, shape)
        made.mask = np.where(keep == (p.mask == "keep"), nonzero, 0).astype(np.uint8)
    if p.bias:
        shape = [sizes[d] if d in p.bias_dims else 1 for d in "bhqk"]
        values = rng.standard_normal(shape).astype(np.float32) * 2
        made.bias = to_storage(values, "f32" if p.bias == "f32" else p.element)
    if p.sinks:
        made.sinks = rng.standard_normal(p.heads).astype(np.float32) * 2
    if p.weights:
        made.weights = np.zeros((p.batch, p.heads, p.q_len, p.kv_len), STORAGE[p.element])
    if p.lse:
        made.lse = np.full((p.batch, p.heads, p.q_len), 77, np.float32)
    made.words[:] = words(made)
    return made


def _broadcast_strides(array: NDArray) -> tuple[int, int, int]:
    size = array.itemsize
    return tuple(0 if array.shape[i] == 1 else array.strides[i] // size for i in range(3))


def words(operands: Operands, splits: int = 1) -> NDArray[np.uint32]:
    """The constants of a dispatch: FLAG_* and WORD_* of the ABI header."""
    p, made = operands.problem, operands
    w = np.zeros(WORD_COUNT, np.uint32)
    flags = 0
    for name in "qkvo":
        operand: Operand = getattr(made, name)
        upper = name.upper()
        flags |= FLAG[f"{upper}_TRANSPOSED"] * operand.transposed
        if name != "o":  # a result starts at its binding
            w[WORD[f"{upper}_OFFSET"]] = operand.offset
        for axis, stride in zip("BHX", operand.strides, strict=True):
            w[WORD[f"{upper}_STRIDE_{axis}"]] = stride
    if made.mask is not None:
        flags |= FLAG["MASK"] | FLAG["MASK_DROP"] * (p.mask == "drop")
        flags |= FLAG["MASK_KEY_BROADCAST"] * (made.mask.shape[3] == 1)
        for axis, stride in zip("BHX", _broadcast_strides(made.mask), strict=True):
            w[WORD[f"MASK_STRIDE_{axis}"]] = stride
    if made.bias is not None:
        flags |= FLAG["BIAS"] | FLAG["BIAS_F32"] * (p.bias == "f32")
        flags |= FLAG["BIAS_KEY_BROADCAST"] * (made.bias.shape[3] == 1)
        flags |= FLAG["BIAS_AFTER_FILL"] * p.bias_after_fill
        for axis, stride in zip("BHX", _broadcast_strides(made.bias), strict=True):
            w[WORD[f"BIAS_STRIDE_{axis}"]] = stride
    for side in ("lo", "hi"):
        bound = getattr(p, f"band_{side}")
        if bound is not None:
            flags |= FLAG[f"BAND_{side.upper()}"]
            w[WORD[f"BAND_{side.upper()}"]] = bound & 0xFFFFFFFF
    flags |= FLAG["SOFTCAP"] * (p.softcap is not None) | FLAG["SINKS"] * p.sinks
    flags |= FLAG["EMPTY_ROW_NAN"] * p.empty_row_nan | FLAG["WEIGHTS"] * p.weights
    flags |= FLAG["LSE"] * (p.lse is not None) | FLAG["LSE_NAN"] * (p.lse == "nan")
    w[WORD["FLAGS"]] = flags
    w[WORD["Q_LEN"]], w[WORD["KV_LEN"]] = p.q_len, p.kv_len
    w[WORD["HEADS"]] = p.heads | p.kv_heads << 16
    w[WORD["HEAD_DIMS"]] = p.dk | p.dv << 16
    floats = {"SCALE": p.effective_scale, "SOFTCAP": p.softcap or 0, "FILL": p.fill}
    for name, value in floats.items():
        w[WORD[name]] = np.float32(value).view(np.uint32)
    w[WORD["SPLITS"]] = splits
    return w
