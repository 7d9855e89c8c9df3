"""Host-side scalars: constants and index arithmetic right before a site."""

from __future__ import annotations

import ctypes
import struct

from iree.compiler import ir
from iree.compiler.dialects import arith, tensor

from ..extent import Extent
from ..raising.sizes import DimOf


class Builder:
    """Builds in front of one anchor op; equal constants and extents are built once."""

    def __init__(self, anchor: ir.Operation) -> None:
        self.context = anchor.context
        self.point = ir.InsertionPoint(anchor)
        self.location = anchor.location
        self.index_type = ir.IndexType.get(self.context)
        self.i32 = ir.IntegerType.get_signless(32, self.context)
        self._constants: dict[tuple[ir.Type, int], ir.Value] = {}
        self._extents: dict[Extent, ir.Value] = {}
        self._dims: dict[tuple[ir.Value, int], ir.Value] = {}

    def constant(self, value: int, kind: ir.Type) -> ir.Value:
        key = (kind, value)
        if key not in self._constants:
            attribute = ir.IntegerAttr.get(kind, value)
            op = arith.ConstantOp(kind, attribute, loc=self.location, ip=self.point)
            self._constants[key] = op.result
        return self._constants[key]

    def index(self, value: int) -> ir.Value:
        return self.constant(value, self.index_type)

    def word(self, value: int) -> ir.Value:
        """An i32 with the low 32 bits of ``value``."""
        value &= 0xFFFFFFFF
        return self.constant(value - (value >> 31 << 32), self.i32)

    def float_word(self, value: float) -> ir.Value:
        rounded = ctypes.c_float(value).value  # infinite where f32 cannot hold it
        return self.word(struct.unpack("<I", struct.pack("<f", rounded))[0])

    def binary(self, op: type, a: ir.Value, b: ir.Value) -> ir.Value:
        return op(a, b, loc=self.location, ip=self.point).result

    def extent(self, extent: Extent) -> ir.Value:
        """The extent as an ``index`` value."""
        if extent.static is not None:
            return self.index(extent.static)
        if extent not in self._extents:
            total: ir.Value | None = None
            for symbols, coefficient in extent.terms.items():
                term: ir.Value | None = None
                for symbol in symbols:
                    value = self.as_index(symbol)
                    term = value if term is None else self.binary(arith.MulIOp, term, value)
                if term is None:
                    term = self.index(coefficient)
                elif coefficient != 1:
                    term = self.binary(arith.MulIOp, term, self.index(coefficient))
                total = term if total is None else self.binary(arith.AddIOp, total, term)
            assert total is not None  # a polynomial without terms is static
            self._extents[extent] = total
        return self._extents[extent]

    def as_index(self, value: ir.Value | DimOf) -> ir.Value:
        if isinstance(value, DimOf):
            return self.dim(value.value, value.position)
        if value.type == self.index_type:
            return value
        op = arith.IndexCastOp(self.index_type, value, loc=self.location, ip=self.point)
        return op.result

    def extent_word(self, extent: Extent) -> ir.Value:
        """The low 32 bits of the extent."""
        if extent.static is not None:
            return self.word(extent.static)
        op = arith.IndexCastOp(self.i32, self.extent(extent), loc=self.location, ip=self.point)
        return op.result

    def dim(self, value: ir.Value, axis: int) -> ir.Value:
        kind = ir.RankedTensorType(value.type)
        if not kind.is_dynamic_dim(axis):
            return self.index(kind.get_dim_size(axis))
        if (value, axis) not in self._dims:
            op = tensor.DimOp(value, self.index(axis), loc=self.location, ip=self.point)
            self._dims[value, axis] = op.result
        return self._dims[value, axis]

    def dims_of(self, value: ir.Value) -> list[ir.Operation]:
        """The ops that ask for the sizes of the value here."""
        return [dim.owner.operation for (of, _), dim in self._dims.items() if of == value]
