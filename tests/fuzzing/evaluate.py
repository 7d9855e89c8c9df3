"""What an AttentionSite computes, from the values of the tensors that its views name."""

from __future__ import annotations

import numpy as np
from iree.compiler import ir

from fuzzing.net import Net
from fuzzing.writer import LARGEST, overflowing, rounded
from iree_flashattn.extent import Extent
from iree_flashattn.raising.constants import operation_on_arrays
from iree_flashattn.raising.expr import Apply, Const, Load, Node, Position
from iree_flashattn.raising.sizes import DimOf
from iree_flashattn.raising.term import Term
from iree_flashattn.site import AttentionSite, View


def values_of(function: ir.Operation, net: Net) -> dict[ir.Value, np.ndarray]:
    """The elements of every tensor value of a function that the net wrote."""
    block = function.regions[0].blocks[0]
    known = {a: x.array for a, x in zip(block.arguments, net.inputs, strict=True)}
    for op, arrays in zip(block.operations, net.values, strict=False):
        for result, array in zip(op.operation.results, arrays, strict=True):
            if array is not None:
                known[result] = array
    return known


def number(size: Extent | int, known: dict[ir.Value, np.ndarray]) -> int:
    """A size with the run-time values that the program has."""

    def value_of(symbol: object) -> int:
        if isinstance(symbol, DimOf):
            return known[symbol.value].shape[symbol.position]
        return int(known[symbol])  # type: ignore[index]

    return int(Extent.of(size).evaluate(value_of))


def _strided(
    view: View, sizes: tuple[int, int, int, int], known: dict, round_terms: bool = False
) -> np.ndarray:
    if isinstance(view.value, Term):
        flat = build_term(view.value, known, round_terms).reshape(-1)
    else:
        flat = np.ascontiguousarray(known[view.value]).reshape(-1)
    index = np.full((1, 1, 1, 1), number(view.offset, known))
    for axis, (n, stride) in enumerate(zip(sizes, view.strides, strict=True)):
        shape = [1, 1, 1, 1]
        shape[axis] = n
        index = index + (np.arange(n) * number(stride, known)).reshape(shape)
    assert index.min() >= 0, "a view starts before its tensor"
    assert index.max() < flat.size, "a view ends behind its tensor"
    return flat[index]


def build_term(
    term: Term, known: dict[ir.Value, np.ndarray], round_terms: bool = False
) -> np.ndarray:
    """The tensor that emission would build for a term."""
    axis_of = {a: i for i, a in enumerate(term.axes)}
    reader, rank = term.reader, len(term.axes)

    def grid(lin) -> np.ndarray:
        lin = reader.space.resolve(lin)
        total = np.full((1,) * rank, number(lin.const, known))
        for atom, c in lin.terms:
            shape = [1] * rank
            extent = number(atom.extent, known)
            shape[axis_of[atom]] = extent
            total = total + number(c, known) * np.arange(extent).reshape(shape)
        return total

    def walk(node: Node) -> np.ndarray:
        if isinstance(node, Load):
            if node.value in known:
                source = known[node.value]
                index = tuple(grid(c) for c in node.coords)
                return source[index] if index else np.full((1,) * rank, source)
            return walk(reader.step(node))
        if isinstance(node, Const):
            return np.full((1,) * rank, node.value)
        if isinstance(node, Position):
            return grid(node.lin)
        assert isinstance(node, Apply)
        arguments = [walk(a) for a in node.args]
        # the net does not round either
        value = arguments[0] if node.name == "truncf" else operation_on_arrays(node, arguments)
        if node.dtype not in LARGEST:
            return value
        value = overflowing(value, node.dtype)
        return rounded(value, node.dtype) if round_terms else value

    with np.errstate(all="ignore"):
        return np.broadcast_to(walk(term.node), [number(n, known) for n in term.shape])


def evaluate_site(
    site: AttentionSite, known: dict[ir.Value, np.ndarray], round_terms: bool = False
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """O, P and LSE, dense [batch, heads, q_len, …]; the definition of ``site.py`` in float64.

    ``round_terms``: a bias that is built is rounded to its type, as the site's fill is.
    """
    sizes = (site.batch, site.heads, site.kv_heads, site.q_len, site.kv_len, site.dk, site.dv)
    batch, heads, kv_heads, q_len, kv_len, dk, dv = (number(n, known) for n in sizes)
    assert all(number(a, known) == number(b, known) for a, b in site.equal)
    q = _strided(site.q, (batch, heads, q_len, dk), known)
    k = _strided(site.k, (batch, kv_heads, kv_len, dk), known)
    v = _strided(site.v, (batch, kv_heads, kv_len, dv), known)
    group = heads // kv_heads
    k, v = np.repeat(k, group, 1), np.repeat(v, group, 1)
    assert isinstance(site.scale, float | int)
    scores = site.scale * (q @ np.swapaxes(k, 2, 3))
    if site.softcap is not None:
        scores = site.softcap * np.tanh(scores / site.softcap)
    square = (batch, heads, q_len, kv_len)
    bias = 0.0 if site.bias is None else _strided(site.bias, square, known, round_terms)
    if not site.bias_after_fill:
        scores = overflowing(scores + bias)
    distance = np.arange(kv_len)[None, :] - np.arange(q_len)[:, None]
    keep = np.ones(square, bool)
    if site.band.lo is not None:
        keep &= distance >= number(site.band.lo, known)
    if site.band.hi is not None:
        keep &= distance <= number(site.band.hi, known)
    if site.mask is not None:
        keep &= (_strided(site.mask, square, known) != 0) != site.mask_drops
    scores = np.where(keep, scores, site.fill)
    if site.bias_after_fill:
        scores = overflowing(scores + bias)
    with np.errstate(all="ignore"):
        top = scores.max(axis=3)
        lse = top + np.log(np.exp(scores - top[..., None]).sum(axis=3))
        lse = np.where(top == -np.inf, -np.inf if site.lse_empty == "inf" else np.nan, lse)
        if site.sinks is not None:
            sink = _strided(site.sinks, (1, heads, 1, 1), known)
            scores = np.concatenate([scores, np.broadcast_to(sink, (*scores.shape[:3], 1))], 3)
        top = scores.max(axis=3, keepdims=True)
        e = np.exp(scores - top)
        p = e / e.sum(axis=3, keepdims=True)
        if site.empty_row == "zero":
            p = np.where(top == -np.inf, 0.0, p)
        return p[..., :kv_len] @ v, p[..., :kv_len], lse


def scatter(view: View, dense: np.ndarray, shape: tuple[int, ...], known: dict) -> np.ndarray:
    """The result tensor that holds ``dense`` where the view says."""
    flat = np.full(int(np.prod(shape)), 1e30)
    index = np.full((1, 1, 1, 1), number(view.offset, known))
    for axis, (n, stride) in enumerate(zip(dense.shape, view.strides, strict=True)):
        grid = [1, 1, 1, 1]
        grid[axis] = n
        index = index + (np.arange(n) * number(stride, known)).reshape(grid)
    flat[index] = dense
    return flat.reshape(shape)
