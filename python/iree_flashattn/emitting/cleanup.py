"""Removes what nobody reads any more, so that a second run finds nothing to do."""

from __future__ import annotations

from iree.compiler import ir

from ..raising.index import PURE_DIALECTS


def erase_dead(module: ir.Module, values: list[ir.Value]) -> None:
    """Erases the ops that computed ``values`` and, recursively, what only they used."""
    if not values:
        return
    makers = _makers(module)
    # Each op is in the list once: a wrapper of an op that is gone must not be touched again.
    pending = {makers[value]: None for value in values if value in makers}
    while pending:
        op, _ = pending.popitem()
        if _is_dead(op):
            pending.update((makers[v], None) for v in _read_by(op) if v in makers)
            op.erase()


def _makers(module: ir.Module) -> dict[ir.Value, ir.Operation]:
    """Value -> op. (``Value.owner`` would import the op's whole dialect.)"""
    found: dict[ir.Value, ir.Operation] = {}

    def visit(op: ir.Operation) -> ir.WalkResult:
        if op.name == "hal.executable":
            return ir.WalkResult.SKIP
        for result in op.results:
            found[result] = op
        return ir.WalkResult.ADVANCE

    module.operation.walk(visit, ir.WalkOrder.PRE_ORDER)
    return found


def _is_dead(op: ir.Operation) -> bool:
    if op.name.partition(".")[0] not in PURE_DIALECTS:
        return False
    return all(next(iter(result.uses), None) is None for result in op.results)


def _read_by(op: ir.Operation) -> set[ir.Value]:
    """Values from outside that the op or an op in its regions reads."""
    read: set[ir.Value] = set()
    own: set[ir.Value] = set()

    def visit(inner: ir.Operation) -> ir.WalkResult:
        read.update(inner.operands)
        own.update(inner.results)
        return ir.WalkResult.ADVANCE

    op.walk(visit)
    return read - own
