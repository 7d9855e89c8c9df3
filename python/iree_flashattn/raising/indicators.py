"""Conditions in disguise: numbers that are 0 or 1, and what is linear in one.

``scores * mask - 1e4 * (1 - mask)`` is a mask where ``mask`` cannot be anything but 0 or 1: a
boolean that was cast, a constant tensor that holds nothing else, products and complements of such.
"""

from __future__ import annotations

import numpy as np
from iree.compiler import ir

from .constants import Constants, NotConstant
from .expr import Apply, Const, Load, Node
from .folding import apply, negate
from .reader import Reader
from .score import strip_casts_constant
from .unify import strip_casts

_LARGEST = 1 << 22  # elements: a mask of 2048 x 2048


def condition_of(reader: Reader, node: Node) -> Node | None:
    """The condition that holds where the number is 1, None where it may be neither 0 nor 1."""
    head = strip_casts(reader, node)
    if isinstance(head, Load):
        return _constant(reader, head)
    if not isinstance(head, Apply):
        return None
    if head.name in ("uitofp", "sitofp"):
        inner = reader.head(head.args[0])
        unsigned = head.name == "uitofp"  # sitofp of a true i1 is -1
        while isinstance(inner, Apply) and inner.name == "extui":
            inner, unsigned = reader.head(inner.args[0]), True
        return inner if unsigned and getattr(inner, "dtype", "") == "i1" else None
    if head.name == "mulf":
        parts = [condition_of(reader, a) for a in head.args]
        if any(p is None for p in parts):
            return None
        return Apply("andi", tuple(p for p in parts if p is not None), "i1")
    if head.name == "subf" and _is(reader, head.args[0], 1):
        inner = condition_of(reader, head.args[1])
        return None if inner is None else negate(inner)
    if head.name == "select":
        condition, yes, no = head.args
        if _is(reader, yes, 1) and _is(reader, no, 0):
            return condition
        if _is(reader, yes, 0) and _is(reader, no, 1):
            return negate(condition)
    return None


def _is(reader: Reader, node: Node, value: float) -> bool:
    constant = strip_casts_constant(reader, node)
    return isinstance(constant, Const) and constant.value == value


def _constant(reader: Reader, leaf: Load) -> Node | None:
    kind = leaf.value.type
    if not kind.has_static_shape or np.prod(kind.shape, dtype=np.int64) > _LARGEST:
        return None
    try:
        values = Constants(reader).of_value(leaf.value)
    except NotConstant:
        return None
    # the first few tell most biases from masks
    if not np.isin(values.reshape(-1)[:64], (0, 1)).all() or not np.isin(values, (0, 1)).all():
        return None
    return Apply("cmpf.une", (leaf, Const(0.0, leaf.dtype)), "i1")


def _constant_band(reader: Reader, leaf: Load) -> Apply | None:
    """A constant tensor that is 0 in a band around a diagonal and one other number beside it, as
    ``torch.nn.Transformer.generate_square_subsequent_mask`` makes it. (Other tensors of two numbers
    are biases, which cost no more than a mask.)"""
    known = reader.shared.bands
    reader.producer(leaf.value)  # a trace has to know it, looked at before or not
    if leaf.value not in known:
        known[leaf.value] = _number_beside_a_band(reader, leaf.value)
    beside = known[leaf.value]
    if beside is None:
        return None
    zero = Const(0.0, leaf.dtype)
    inside = Apply("cmpf.oeq", (leaf, zero), "i1")
    return Apply("select", (inside, zero, Const(beside, leaf.dtype)), leaf.dtype)


def _number_beside_a_band(reader: Reader, value: ir.Value) -> float | None:
    shape = value.type.shape if value.type.has_static_shape else []
    if len(shape) < 2 or np.prod(shape, dtype=np.int64) != shape[-1] * shape[-2]:
        return None
    if np.prod(shape, dtype=np.int64) > _LARGEST:
        return None
    try:
        values = Constants(reader).of_value(value).reshape(shape[-2:])
    except NotConstant:
        return None
    inside = values == 0
    if values.dtype.kind != "f" or inside.all() or not inside.any():
        return None
    rows, keys = np.nonzero(inside)
    distance = np.arange(shape[-1]) - np.arange(shape[-2])[:, None]
    lo, hi = (keys - rows).min(), (keys - rows).max()
    others = values[~inside]
    is_band = np.array_equal(inside, (lo <= distance) & (distance <= hi))
    return float(others[0]) if is_band and (others == others[0]).all() else None


def as_select(reader: Reader, node: Node) -> Apply | None:
    """``select(condition, a, b)`` of constants that a number is, None where it is none."""
    head = strip_casts(reader, node)
    condition = condition_of(reader, head)
    if condition is not None:
        return Apply("select", (condition, Const(1.0, "f32"), Const(0.0, "f32")), "f32")
    if isinstance(head, Load):
        return _constant_band(reader, head)
    if not isinstance(head, Apply):
        return None
    if head.name == "select":
        fixed = [strip_casts_constant(reader, a) for a in head.args[1:]]
        if all(isinstance(c, Const) for c in fixed):
            return Apply("select", (head.args[0], *fixed), head.dtype)
    if head.name not in ("mulf", "divf", "addf", "subf", "negf"):
        return None
    fixed = [strip_casts_constant(reader, a) for a in head.args]
    varying = [i for i, c in enumerate(fixed) if not isinstance(c, Const)]
    if len(varying) != 1:
        return None
    inner = as_select(reader, head.args[varying[0]])
    if inner is None:
        return None
    values = []
    for value in inner.args[1:]:
        fixed[varying[0]] = value
        values.append(apply(head.name, tuple(fixed), head.dtype))
    return Apply("select", (inner.args[0], *values), head.dtype)
