"""Where a search starts, and where it may go forward: uses of values."""

from __future__ import annotations

from iree.compiler import ir

from .reader import Shared
from .sizes import producer

_MOVES = frozenset(
    """tensor.expand_shape tensor.collapse_shape tensor.reshape tensor.cast linalg.transpose
    linalg.broadcast tensor.extract_slice""".split()
)
_STARTS = frozenset(
    """math.exp math.exp2 math.powf linalg.softmax iree_linalg_ext.attention
    iree_linalg_ext.online_attention""".split()
)


def users(value: ir.Value) -> list[ir.Operation]:
    """The ops that read the value, but for those that only ask its size."""
    found = [use.owner.operation for use in value.uses]
    return [op for op in found if op.name != "tensor.dim"]


def starts(module: ir.Module) -> tuple[list[ir.Operation], dict[str, ir.Operation], bool]:
    """(ops with an exponential or a softmax, globals by name, whether sizes are dynamic)."""
    found: list[ir.Operation] = []
    globals_: dict[str, ir.Operation] = {}
    dynamic: list[ir.Operation] = []

    def visit(op: ir.Operation) -> ir.WalkResult:
        name = op.name
        if name in _STARTS:
            if name[0] == "m":
                parent = op.parent.operation
                if parent.name in ("linalg.generic", "linalg.map"):
                    found.append(parent)
                else:
                    found.append(op)
            else:
                found.append(op)
        elif name == "linalg.elementwise":
            if "exp" in str(op.attributes["kind"]):
                found.append(op)
        elif name == "util.global":
            globals_[op.attributes["sym_name"].value] = op
        elif name == "hal.executable":
            return ir.WalkResult.SKIP
        elif name in ("tensor.reshape", "hal.buffer_view.dim"):
            dynamic.append(op)
        return ir.WalkResult.ADVANCE

    module.operation.walk(visit, ir.WalkOrder.PRE_ORDER)
    return found, globals_, dynamic


def candidate_products(start: ir.Operation, shared: Shared, seen: set) -> list[ir.Value]:
    """Contractions that read what the exponentials became, through ops without reductions."""
    if start.name.startswith("iree_linalg_ext."):
        return [start.results[0]]
    found: list[ir.Value] = []
    front: list[ir.Value] = list(start.results)
    for _ in range(16):
        following: list[ir.Value] = []
        for value in front:
            for op in users(value):
                if op in seen:
                    continue
                seen.add(op)
                name = op.name
                if name in _MOVES or name.startswith(("arith.", "math.")) or name == "tensor.concat":
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


def forward_chain(value: ir.Value, shared: Shared) -> list[ir.Value]:
    """The value and what single uses without arithmetic make of it, then one division."""
    chain = [value]
    divided = False
    while len(chain) < 16:
        readers = users(value)
        if len(readers) != 1:
            break
        op = readers[0]
        if op.parent != chain[0].owner.operation.parent or len(op.results) != 1:
            break
        name = op.name
        if name not in _MOVES or name in ("tensor.extract_slice", "linalg.broadcast"):
            if not name.startswith("linalg."):
                break
            info = shared.linalg(op)
            if info is None or info.reduced or info.kind not in (None, "copy", "divf", "mulf"):
                break
            kind = _body_kind(info, value)
            if kind is None or (kind == "divide" and divided):
                break
            divided = divided or kind == "divide"
        value = op.results[0]
        chain.append(value)
    return chain


def _body_kind(info, value: ir.Value) -> str | None:  # noqa: ANN001
    """"move" for a copy or cast of the value, "divide" for a quotient or product with it."""
    if info.kind is not None:
        return "move" if info.kind == "copy" else "divide"
    if info.ins.count(value) != 1:
        return None
    names = [op.operation.name for op in info.body.operations]
    if names in (["linalg.yield"], ["arith.truncf", "linalg.yield"], ["arith.extf", "linalg.yield"]):
        return "move" if len(info.ins) == 1 else None
    inner = set(names) - {"linalg.yield", "arith.truncf", "arith.extf"}
    if inner and inner <= {"arith.divf", "arith.mulf"} and len(info.ins) == 2:
        return "divide"
    return None


def block_of(op: ir.Operation) -> ir.Block:
    return op.block


__all__ = ["candidate_products", "forward_chain", "producer", "starts", "users"]
