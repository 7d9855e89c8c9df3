"""What an AttentionSite computes, from the values of the tensors that its views name."""

from __future__ import annotations

import numpy as np
from iree.compiler import ir

from fuzzing.net import Net
from iree_flashattn.raising.constants import operation_on_arrays
from iree_flashattn.raising.expr import Apply, Const, Load, Node, Position
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


def _strided(view: View, sizes: tuple[int, int, int, int], known: dict) -> np.ndarray:
    if isinstance(view.value, Term):
        flat = build_term(view.value, known).reshape(-1)
    else:
        flat = np.ascontiguousarray(known[view.value]).reshape(-1)
    index = np.full((1, 1, 1, 1), int(view.offset))
    for axis, (n, stride) in enumerate(zip(sizes, view.strides, strict=True)):
        shape = [1, 1, 1, 1]
        shape[axis] = n
        index = index + (np.arange(n) * int(stride)).reshape(shape)
    assert index.min() >= 0, "a view starts before its tensor"
    assert index.max() < flat.size, "a view ends behind its tensor"
    return flat[index]


def build_term(term: Term, known: dict[ir.Value, np.ndarray]) -> np.ndarray:
    """The tensor that emission would build for a term."""
    axis_of = {a: i for i, a in enumerate(term.axes)}
    reader, rank = term.reader, len(term.axes)

    def grid(lin) -> np.ndarray:
        lin = reader.space.resolve(lin)
        total = np.full((1,) * rank, lin.const)
        for atom, c in lin.terms:
            shape = [1] * rank
            shape[axis_of[atom]] = atom.extent
            total = total + c * np.arange(atom.extent).reshape(shape)
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
        return operation_on_arrays(node, [walk(a) for a in node.args])

    with np.errstate(all="ignore"):
        return np.broadcast_to(walk(term.node), term.shape)


def evaluate_site(site: AttentionSite, known: dict[ir.Value, np.ndarray]) -> np.ndarray:
    """O, dense [batch, heads, q_len, dv]; the definition of ``site.py`` in float64."""
    batch, heads, kv_heads = int(site.batch), int(site.heads), int(site.kv_heads)
    q_len, kv_len, dk, dv = (int(n) for n in (site.q_len, site.kv_len, site.dk, site.dv))
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
    bias = 0.0 if site.bias is None else _strided(site.bias, square, known)
    if not site.bias_after_fill:
        scores = scores + bias
    distance = np.arange(kv_len)[None, :] - np.arange(q_len)[:, None]
    keep = np.ones(square, bool)
    if site.band.lo is not None:
        keep &= distance >= int(site.band.lo)
    if site.band.hi is not None:
        keep &= distance <= int(site.band.hi)
    if site.mask is not None:
        keep &= (_strided(site.mask, square, known) != 0) != site.mask_drops
    scores = np.where(keep, scores, site.fill)
    if site.bias_after_fill:
        scores = scores + bias
    with np.errstate(all="ignore"):
        if site.sinks is not None:
            sink = _strided(site.sinks, (1, heads, 1, 1), known)
            scores = np.concatenate([scores, np.broadcast_to(sink, (*scores.shape[:3], 1))], 3)
        top = scores.max(axis=3, keepdims=True)
        e = np.exp(scores - top)
        p = e / e.sum(axis=3, keepdims=True)
        if site.empty_row == "zero":
            p = np.where(top == -np.inf, 0.0, p)
        return p[..., :kv_len] @ v, p[..., :kv_len]  # type: ignore[return-value]


def scatter(view: View, dense: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """The result tensor that holds ``dense`` where the view says."""
    flat = np.full(int(np.prod(shape)), 1e30)
    index = np.full((1, 1, 1, 1), int(view.offset))
    for axis, (n, stride) in enumerate(zip(dense.shape, view.strides, strict=True)):
        grid = [1, 1, 1, 1]
        grid[axis] = n
        index = index + (np.arange(n) * int(stride)).reshape(grid)
    flat[index] = dense
    return flat.reshape(shape)
