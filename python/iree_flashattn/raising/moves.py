"""Ops that only move elements: the coordinates at which they read their source."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from iree.compiler import ir

from .axes import ZERO, Lin, Size, plus, size
from .expr import Load, Node
from .region import outer_scalar
from .shared import splat_of
from .sizes import DYNAMIC, Sizes, segments

if TYPE_CHECKING:
    from .reader import Reader


def _groups(op: ir.Operation) -> list[list[int]]:
    return [[int(x.value) for x in g] for g in op.attributes["reassociation"]]


def _fill(reader: Reader, op: ir.Operation, load: Load) -> Node:
    return outer_scalar(op.operands[0], reader.sizes)


def _expand_shape(reader: Reader, op: ir.Operation, load: Load) -> Node:
    shape = reader.sizes.shape(load.value)
    coords = []
    for group in _groups(op):
        lin = ZERO
        for d in group:
            lin = lin.scaled(shape[d]).add(load.coords[d])
        coords.append(lin)
    return reader.load(op.operands[0], coords)


def _collapse_shape(reader: Reader, op: ir.Operation, load: Load) -> Node | None:
    source = op.operands[0]
    shape = reader.sizes.shape(source)
    if not load.coords:  # to a scalar: there are no groups
        return reader.load(source, [ZERO] * len(shape))
    coords: list[Lin] = []
    for group, lin in zip(_groups(op), load.coords, strict=True):
        parts = reader.space.delinearize(lin, [shape[d] for d in group])
        if parts is None:
            return None
        coords.extend(parts)
    return reader.load(source, coords)


def _reshape(reader: Reader, op: ir.Operation, load: Load) -> Node | None:
    source = op.operands[0]
    lin = ZERO
    for n, c in zip(reader.sizes.shape(load.value), load.coords, strict=True):
        lin = lin.scaled(n).add(c)
    parts = reader.space.delinearize(lin, list(reader.sizes.shape(source)))
    return None if parts is None else reader.load(source, parts)


def _mixed(static: list[int], dynamic: list[ir.Value], sizes: Sizes) -> list:
    values = iter(dynamic)
    return [sizes.of_index(next(values)) if s == DYNAMIC else s for s in static]


def _extract_slice(reader: Reader, op: ir.Operation, load: Load) -> Node | None:
    parts = segments(op)
    offsets = _mixed(list(op.attributes["static_offsets"]), parts[1], reader.sizes)
    lengths = _mixed(list(op.attributes["static_sizes"]), parts[2], reader.sizes)
    strides = _mixed(list(op.attributes["static_strides"]), parts[3], reader.sizes)
    result = reader.sizes.shape(load.value)
    surplus = len(lengths) - len(result)
    coords, position = [], 0
    for offset, length, stride in zip(offsets, lengths, strides, strict=True):
        dropped = surplus and length == 1 and (position >= len(result) or result[position] != 1)
        if dropped:
            surplus -= 1
            lin = ZERO
        else:
            lin = load.coords[position]
            position += 1
        coords.append(lin.scaled(stride).add(Lin((), offset)))
    return None if surplus else reader.load(op.operands[0], coords)


Piece = tuple[ir.Value, Size, Size]  # a tensor, its first coordinate, one past its last


def concat_pieces(reader: Reader, op: ir.Operation) -> tuple[int, list[Piece]] | None:
    """(dimension, pieces in order) of a concatenation, None where the op is none.

    StableHLO's concatenate arrives as slices that are inserted one after the other.
    """
    if op.name == "tensor.concat":
        dim = op.attributes["dim"].value
        start: Size = 0
        pieces: list[Piece] = []
        for operand in op.operands:
            end = plus(start, reader.sizes.shape(operand)[dim])
            pieces.append((operand, start, end))
            start = end
        return dim, pieces
    if op.name == "tensor.insert_slice":
        return _inserted(reader, op)
    return None


def _inserted(reader: Reader, op: ir.Operation) -> tuple[int, list[Piece]] | None:
    """Slices that fill an empty tensor along one dimension."""
    shape = reader.sizes.shape(op.results[0])
    dims: set[int] = set()
    pieces: list[Piece] = []
    last: ir.Operation | None = op
    while last is not None and last.name == "tensor.insert_slice":
        parts = segments(last)
        source, into = parts[0][0], parts[1][0]
        offsets = _mixed(list(last.attributes["static_offsets"]), parts[2], reader.sizes)
        lengths = _mixed(list(last.attributes["static_sizes"]), parts[3], reader.sizes)
        strides = _mixed(list(last.attributes["static_strides"]), parts[4], reader.sizes)
        if source.type.rank != len(shape) or any(s != 1 for s in strides):
            return None
        rows = zip(offsets, lengths, shape, strict=True)
        partial = [d for d, (o, n, whole) in enumerate(rows) if o != 0 or n != whole]
        if len(partial) != 1:
            return None
        dims |= set(partial)
        (dim,) = partial
        pieces.append((source, offsets[dim], plus(offsets[dim], lengths[dim])))
        last = reader.producer(into)
    if last is None or last.name != "tensor.empty" or len(dims) != 1:
        return None
    pieces.reverse()
    (dim,) = dims
    ends = [0, *(end for _, _, end in pieces)]
    starts = [*(start for _, start, _ in pieces), shape[dim]]
    return (dim, pieces) if ends == starts else None


def span(lin: Lin) -> tuple[object, object]:
    """(least, one past the largest) value of a form with coefficients that are not negative."""
    end = lin.const
    for atom, c in lin.terms:
        end = plus(end, size(c * plus(atom.extent, -1)))
    return lin.const, plus(end, 1)


def _at_most(a: object, b: object) -> bool:
    difference = plus(b, -1 * a)  # type: ignore[operator,arg-type]
    if isinstance(difference, int):
        return difference >= 0
    # sizes are never negative
    return all(c >= 0 for c in difference.terms.values())


def _concat(reader: Reader, op: ir.Operation, load: Load) -> Node | None:
    found = concat_pieces(reader, op)
    if found is None:
        return None
    dim, pieces = found
    low, high = span(load.coords[dim])
    for operand, start, end in pieces:
        if _at_most(start, low) and _at_most(high, end):
            coords = list(load.coords)
            coords[dim] = coords[dim].add(Lin((), start), -1)  # type: ignore[arg-type]
            return reader.load(operand, coords)
    return None


def _tensor_cast(reader: Reader, op: ir.Operation, load: Load) -> Node:
    return reader.load(op.operands[0], load.coords)


def _from_elements(reader: Reader, op: ir.Operation, load: Load) -> Node | None:
    if len(op.operands) == 1:
        return outer_scalar(op.operands[0], reader.sizes)
    return None


def _global_load(reader: Reader, op: ir.Operation, load: Load) -> Node | None:
    target = reader.shared.globals.get(str(op.attributes["global"]).lstrip("@"))
    if target is None or "is_mutable" in target.attributes:
        return None
    if "initial_value" not in target.attributes:
        return None
    return splat_of(target.attributes["initial_value"])


STRUCTURAL: dict[str, Callable[[Reader, ir.Operation, Load], Node | None]] = {
    "linalg.fill": _fill,
    "tensor.expand_shape": _expand_shape,
    "tensor.collapse_shape": _collapse_shape,
    "tensor.reshape": _reshape,
    "tensor.extract_slice": _extract_slice,
    "tensor.concat": _concat,
    "tensor.insert_slice": _concat,
    "tensor.cast": _tensor_cast,
    "tensor.from_elements": _from_elements,
    "util.global.load": _global_load,
}
