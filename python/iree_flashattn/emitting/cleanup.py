"""Removes what nobody reads any more, so that a second run finds nothing to do."""

from __future__ import annotations

from iree.compiler import ir

_PURE_DIALECTS = ("arith", "math", "tensor", "linalg", "iree_linalg_ext", "affine", "complex")


def erase_dead(values: list[ir.Value]) -> None:
    """Erases the ops that computed ``values`` and, recursively, what only they used."""
    # Each op is in the list once: a wrapper of an op that is gone must not be touched again.
    owners = [value.owner for value in values]
    pending = dict.fromkeys(o.operation for o in owners if not isinstance(o, ir.Block))
    while pending:
        op, _ = pending.popitem()
        if _is_dead(op):
            pending.update(_producers(op))
            op.erase()


def _is_dead(op: ir.Operation) -> bool:
    if op.name.partition(".")[0] not in _PURE_DIALECTS:
        return False
    return all(not list(result.uses) for result in op.results)


def _producers(op: ir.Operation) -> dict[ir.Operation, None]:
    """Distinct ops behind the operands, those of nested regions included."""
    found: dict[ir.Operation, None] = {}
    stack = [op]
    while stack:
        current = stack.pop()
        for operand in current.operands:
            owner = operand.owner
            if not isinstance(owner, ir.Block):
                found[owner.operation] = None
        for region in current.regions:
            for block in region.blocks:
                stack += [inner.operation for inner in block.operations]
    inside = set(_nested(op))
    return {producer: None for producer in found if producer not in inside}


def _nested(op: ir.Operation) -> list[ir.Operation]:
    found = []
    for region in op.regions:
        for block in region.blocks:
            for inner in block.operations:
                found += [inner.operation, *_nested(inner.operation)]
    return found
