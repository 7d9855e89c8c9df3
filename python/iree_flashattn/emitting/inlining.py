"""A way around a compiler defect: bf16 constants behind resource handles.

IREE 3.13's CPU back end widens bf16 constants to f32 and leaves the attribute of a
``dense_resource`` constant as it was, so that the module fails to verify (rotary embedding tables
of bf16 models). Constants that hold their elements inline are widened correctly. Can go when the
stock compiler compiles ``arith.constant dense_resource<x> : tensor<4xbf16>`` followed by an extf.
"""

from __future__ import annotations

from iree.compiler import ir

from ..raising.constants import NotConstant, resource_bytes

_LARGEST = 1 << 16  # elements; larger ones are globals by now


def inline_bf16(constants: list[ir.Operation]) -> int:
    """Writes small bf16 resource constants inline; returns how many.

    ``constants``: the ``arith.constant`` ops of a module that are tensors.
    """
    found = [op for op in constants if _is_resource(op)]
    for op in found:
        kind = op.results[0].type
        try:
            data = resource_bytes(op.attributes["value"])
        except NotConstant:
            continue
        if len(data) == 2 * _count(kind):
            text = f'dense<"0x{data.hex().upper()}"> : {kind}'
            op.attributes["value"] = ir.Attribute.parse(text, op.context)
    return len(found)


def _count(kind: ir.Type) -> int:
    count = 1
    for n in kind.shape:
        count *= n
    return count


def _is_resource(op: ir.Operation) -> bool:
    kind = op.results[0].type
    if not isinstance(kind, ir.RankedTensorType) or not isinstance(kind.element_type, ir.BF16Type):
        return False
    if _count(kind) > _LARGEST:
        return False
    return str(op.attributes["value"]).startswith("dense_resource<")
