"""Where a search starts, and where it may go forward: uses of values."""

from __future__ import annotations

from iree.compiler import ir

from .shared import Shared
from .structure import LinalgOp

_MOVES = frozenset(
    """tensor.expand_shape tensor.collapse_shape tensor.reshape tensor.cast linalg.transpose
    linalg.broadcast tensor.extract_slice arith.truncf arith.extf""".split()
)

_STEPS = 32  # ops between the exponentials and the product with V: each op is passed only once


def candidate_products(start: ir.Operation, shared: Shared, seen: set) -> list[ir.Value]:
    """Contractions that read what the exponentials became, through ops without reductions."""
    if start.name.startswith("iree_linalg_ext."):
        return [start.results[0]]
    found: list[ir.Value] = []
    front: list[ir.Value] = list(start.results)
    for _ in range(_STEPS):
        following: list[ir.Value] = []
        for value in front:
            for op in shared.index.users(value):
                if op in seen:
                    continue
                seen.add(op)
                name = op.name
                if name in _MOVES or name.startswith(("arith.", "math.", "tensor.concat")):
                    following.extend(op.results)
                elif name.startswith("linalg."):
                    info = shared.linalg(op)
                    if info is None:
                        continue
                    if not info.reduced:
                        following.extend(op.results)
                    elif len(info.ins) == 2:
                        found.append(op.results[0])
        front = following
        if not front:
            break
    return found


def elementwise_results(start: ir.Operation, shared: Shared) -> list[ir.Value]:
    """What the op and elementwise or moving ops behind it compute, nearest first."""
    found: list[ir.Value] = []
    front: list[ir.Operation] = [start]
    seen = {start}
    for _ in range(8):
        results = [result for op in front for result in op.results]
        found += results
        front = []
        for op in (user for value in results for user in shared.index.users(value)):
            if op not in seen and op.block == start.block and _is_elementwise(op, shared):
                seen.add(op)
                front.append(op)
    return found


def _is_elementwise(op: ir.Operation, shared: Shared) -> bool:
    if not op.name.startswith("linalg."):
        return op.name in _MOVES or op.name.startswith(("arith.", "math."))
    info = shared.linalg(op)
    return info is not None and not info.reduced


def forward_chain(value: ir.Value, shared: Shared) -> list[ir.Value]:
    """The value and what single uses without arithmetic make of it, then one division."""
    chain = [value]
    block = shared.index.producer(value).block  # type: ignore[union-attr]
    divided = False
    while len(chain) < 16:
        readers = shared.index.users(value)
        if len(readers) != 1:
            break
        op = readers[0]
        if op.block != block or len(op.results) != 1:
            break
        name = op.name
        if name not in _MOVES or name in ("tensor.extract_slice", "linalg.broadcast"):
            if not name.startswith("linalg."):
                break
            info = shared.linalg(op)
            if info is None or info.reduced or info.kind not in (None, "copy", "divf", "mulf"):
                break
            kind = _body_kind(info, value, shared)
            if kind is None or (kind == "divide" and divided):
                break
            divided = divided or kind == "divide"
        value = op.results[0]
        chain.append(value)
    return chain


def _body_kind(info: LinalgOp, value: ir.Value, shared: Shared) -> str | None:
    """What the body is: "move" (a copy or cast of the value), "divide" (or product with it)."""
    if info.kind is not None:
        return "move" if info.kind == "copy" else "divide"
    if info.ins.count(value) != 1:
        return None
    names = [op.name for op in shared.index.body(info.op)]
    if len(names) <= 2 and set(names) <= {"linalg.yield", "arith.truncf", "arith.extf"}:
        return "move" if len(info.ins) == 1 else None
    inner = set(names) - {"linalg.yield", "arith.truncf", "arith.extf"}
    if inner and inner <= {"arith.divf", "arith.mulf"} and len(info.ins) == 2:
        return "divide"
    return None
