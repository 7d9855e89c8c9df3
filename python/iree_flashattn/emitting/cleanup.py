"""Removes what nobody reads any more, so that a second run finds nothing to do."""

from __future__ import annotations

from iree.compiler import ir

from ..raising.index import PURE_DIALECTS, Index


def erase_dead(values: list[ir.Value], index: Index) -> None:
    """Erases the ops that computed ``values`` and, recursively, what only they used.

    ``index``: of the module as it was before the ops that came in their place.
    """
    # Each op is in the list once: a wrapper of an op that is gone must not be touched again.
    pending = {op: None for op in (_maker(value, index) for value in values) if op is not None}
    while pending:
        op, _ = pending.popitem()
        if _is_dead(op):
            makers = (_maker(value, index) for value in _read_by(op))
            pending.update((maker, None) for maker in makers if maker is not None)
            op.erase()


def _maker(value: ir.Value, index: Index) -> ir.Operation | None:
    """The op that makes the value, None for a block argument."""
    op = index.maker(value)
    if op is not None:  # (``owner`` would import the op's whole dialect)
        return op
    return None if isinstance(value, ir.BlockArgument) else value.owner.operation


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
