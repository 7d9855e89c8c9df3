"""Sizes of a result that has not been computed yet, read off the ops that would compute it."""

from __future__ import annotations

from iree.compiler import ir
from iree.compiler.dialects import arith

from .builder import Builder


class UnknownShapeError(Exception):
    """The run-time size of a result cannot be told from its operands; the message names the op."""


def dynamic_sizes(value: ir.Value, build: Builder) -> list[ir.Value]:
    """One ``index`` value for each dynamic dimension of ``value``, none of which reads it."""
    kind = ir.RankedTensorType(value.type)
    return [size(value, axis, build) for axis in range(kind.rank) if kind.is_dynamic_dim(axis)]


def size(value: ir.Value, axis: int, build: Builder) -> ir.Value:
    kind = ir.RankedTensorType(value.type)
    if not kind.is_dynamic_dim(axis):
        return build.index(kind.get_dim_size(axis))
    if isinstance(value.owner, ir.Block):
        return build.dim(value, axis)
    op = value.owner.operation
    name = op.name
    if name == "tensor.empty":
        return _known(op.operands[_dynamic_before(kind, axis)], build)
    if name == "tensor.expand_shape":
        return _known(op.operands[1 + _dynamic_before(kind, axis)], build)
    if name == "tensor.collapse_shape":
        return _product(op, axis, build)
    if name == "tensor.cast":
        return size(op.operands[0], axis, build)
    if name == "tensor.reshape":
        return _from_shape_operand(op, axis, build)
    if name.startswith(("linalg.", "iree_linalg_ext.")):
        position = [str(r) for r in op.results].index(str(value)) if len(op.results) > 1 else 0
        return size(op.operands[len(op.operands) - len(op.results) + position], axis, build)
    if _stands_before(op, build):
        return build.dim(value, axis)
    raise UnknownShapeError(f"the run-time size of {name}'s result is not known before it runs")


def _dynamic_before(kind: ir.RankedTensorType, axis: int) -> int:
    return sum(kind.is_dynamic_dim(i) for i in range(axis))


def _product(op: ir.Operation, axis: int, build: Builder) -> ir.Value:
    total = None
    for source_axis in ir.ArrayAttr(op.attributes["reassociation"])[axis]:
        part = size(op.operands[0], ir.IntegerAttr(source_axis).value, build)
        total = part if total is None else build.binary(arith.MulIOp, total, part)
    assert total is not None
    return total


def _from_shape_operand(op: ir.Operation, axis: int, build: Builder) -> ir.Value:
    shape = op.operands[1].owner
    if isinstance(shape, ir.Block) or shape.operation.name != "tensor.from_elements":
        raise UnknownShapeError("tensor.reshape has a computed shape")
    return build.as_index(_known(shape.operation.operands[axis], build))


def _known(value: ir.Value, build: Builder) -> ir.Value:
    """The size, by what is there before the anchor: P may be read before O's size is asked."""
    if isinstance(value.owner, ir.Block):
        return value
    op = value.owner.operation
    if _stands_before(op, build):
        return value
    if op.name == "tensor.dim":
        axis = op.operands[1].owner
        if not isinstance(axis, ir.Block) and axis.operation.name == "arith.constant":
            return size(op.operands[0], ir.IntegerAttr(axis.operation.attributes["value"]).value,
                        build)  # fmt: skip
    kinds = {"arith.muli": arith.MulIOp, "arith.addi": arith.AddIOp, "arith.subi": arith.SubIOp}
    if op.name in kinds:
        return build.binary(kinds[op.name], *(_known(x, build) for x in op.operands))
    if op.name == "arith.constant":
        return build.index(ir.IntegerAttr(op.attributes["value"]).value)
    raise UnknownShapeError(f"the run-time size that {op.name} computes is not known early enough")


def _stands_before(op: ir.Operation, build: Builder) -> bool:
    """Whether ``op`` certainly comes before the anchor: earlier in its block, or around it."""
    anchor = build.point.ref_operation
    if anchor is None or op.parent is None:
        return False
    here = anchor.operation
    return op.block != here.block or op.is_before_in_block(here)
