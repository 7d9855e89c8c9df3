"""Sizes of tensor values: ints, or polynomials over run-time sizes that are the same value.

A run-time size is named by the SSA value that made it or, where only the tensor knows it, by
:class:`DimOf`. ``tensor.dim`` of a computed tensor is traced to the sizes that it was made with,
so two names of one size compare equal.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass
from math import gcd

from iree.compiler import ir

from ..extent import Extent
from .axes import Size, over, plus, size, times
from .index import Index

DYNAMIC = -(2**63)


@dataclass(frozen=True)
class DimOf:
    """The size of one dimension of a tensor value: ``tensor.dim value, position``."""

    value: ir.Value
    position: int

    def __hash__(self) -> int:
        return hash((self.value, self.position))


def producer(value: ir.Value) -> ir.Operation | None:
    """The operation that defines the value, None for a block argument."""
    owner = value.owner
    return None if isinstance(owner, ir.Block) else owner.operation


def constant_int(op: ir.Operation | None) -> int | None:
    """The number that an arith.constant holds."""
    if op is None or op.name != "arith.constant":
        return None
    attribute = op.attributes["value"]
    return attribute.value if isinstance(attribute, ir.IntegerAttr) else None


def result_number(op: ir.Operation, value: ir.Value) -> int:
    results = op.results
    if len(results) == 1:
        return 0
    return next(i for i, r in enumerate(results) if r == value)


def segments(op: ir.Operation) -> list[list[ir.Value]]:
    sizes = list(op.attributes["operandSegmentSizes"])
    operands = list(op.operands)
    result, start = [], 0
    for n in sizes:
        result.append(operands[start : start + n])
        start += n
    return result


class Sizes:
    """Sizes of values in one module, memoised, with the equalities that ops imply."""

    def __init__(self, index: Index) -> None:
        self.index = index
        self._shapes: dict[ir.Value, tuple[Size, ...]] = {}
        self._index: dict[ir.Value, Size] = {}
        self._same: dict[object, Size] = {}
        # (a run-time size, what it has to be, the op that says so)
        self.assumed: list[tuple[Size, Size, ir.Operation]] = []

    # -- equalities ------------------------------------------------------------------------------
    def assume_equal(self, a: Size, b: Size, op: ir.Operation | None) -> None:
        """Both sizes are equal wherever ``op`` is defined; keep one name for them. Without an op
        the program itself sees to it.

        ``settle`` makes the new names known to what was asked before.
        """
        a, b = self.canonical(a), self.canonical(b)
        if a == b:
            return
        for symbol, other in _solutions(a, b):
            if all(self._earlier(s, symbol) for s in _symbols(other)):
                self._same[symbol] = other
                if op is not None:
                    self.assumed.append((Extent.symbol(symbol), other, op))
                return

    def settle(self) -> None:
        if self._same:
            self._shapes.clear()
            self._index.clear()

    def _earlier(self, one: object, other: object) -> bool:
        """Whether the first symbol is known wherever the second one is."""
        a, b = (s.value if isinstance(s, DimOf) else s for s in (one, other))
        if one == other or not isinstance(a, ir.Value) or not isinstance(b, ir.Value):
            return False
        first, second = self.index.maker(a), self.index.maker(b)
        if first is None:
            return second is not None or b.owner == a.owner
        if second is None or first.block != second.block:
            return False
        return first.is_before_in_block(second)

    def assume_same_product(self, a: list[Size], b: list[Size], op: ir.Operation) -> None:
        a, b = [self.canonical(n) for n in a], [self.canonical(n) for n in b]
        left, right = _product(a), _product(b)
        if isinstance(left, int) or isinstance(right, int):
            return
        for factor in [*a, *b]:
            x, y = over(left, factor), over(right, factor)
            if x is not None and y is not None:
                left, right = x, y
        self.assume_equal(left, right, op)

    def canonical(self, value: Size) -> Size:
        if isinstance(value, int) or not self._same:
            return value
        for _ in range(16):
            symbols = {s for key in value.terms for s in key}
            known = symbols & self._same.keys()
            if not known:
                return value
            replaced = value.evaluate(
                lambda s: Extent.of(self._same[s]) if s in self._same else Extent.symbol(s),
                one=Extent(1),
            )
            value = size(Extent.of(replaced))
            if isinstance(value, int):
                return value
        return value

    # -- index-typed values ----------------------------------------------------------------------
    def of_index(self, value: ir.Value) -> Size:
        if value not in self._index:
            self._index[value] = self.canonical(self._compute_index(value))
        return self._index[value]

    def _compute_index(self, value: ir.Value) -> Size:
        op = self.index.maker(value)
        symbol = Extent.symbol(value)
        if op is None:
            return symbol
        name = op.name
        if name == "arith.constant":
            number = constant_int(op)
            return symbol if number is None else number
        if name == "tensor.dim":
            source, position = op.operands[0], constant_int(self.index.maker(op.operands[1]))
            return symbol if position is None else self.shape(source)[position]
        if name in ("arith.index_cast", "arith.index_castui", "arith.extsi", "arith.extui"):
            return self.of_index(op.operands[0])
        if name in ("arith.muli", "arith.addi", "arith.subi", "arith.divsi", "arith.divui"):
            a, b = self.of_index(op.operands[0]), self.of_index(op.operands[1])
            if name == "arith.muli":
                return times(a, b)
            if name == "arith.addi":
                return plus(a, b)
            if name == "arith.subi":
                return plus(a, times(b, -1))
            quotient = over(a, b) if b != 0 else None
            return symbol if quotient is None else quotient
        if name == "affine.apply":
            return self._affine(op, symbol)
        if name == "util.assume.int":
            return self.of_index(op.operands[result_number(op, value)])
        return symbol

    def _affine(self, op: ir.Operation, symbol: Extent) -> Size:
        mapping = op.attributes["map"].value
        operands = [self.of_index(v) for v in op.operands]

        def walk(e: ir.AffineExpr) -> Size | None:
            if isinstance(e, ir.AffineConstantExpr):
                return e.value
            if isinstance(e, ir.AffineDimExpr):
                return operands[e.position]
            if isinstance(e, ir.AffineSymbolExpr):
                return operands[mapping.n_dims + e.position]
            if isinstance(e, ir.AffineBinaryExpr):
                a, b = walk(e.lhs), walk(e.rhs)
                if a is None or b is None:
                    return None
                if isinstance(e, ir.AffineAddExpr):
                    return plus(a, b)
                if isinstance(e, ir.AffineMulExpr):
                    return times(a, b)
                if isinstance(e, (ir.AffineFloorDivExpr, ir.AffineCeilDivExpr)):
                    return over(a, b)
            return None

        value = walk(mapping.results[0])
        return symbol if value is None else value

    # -- shapes ----------------------------------------------------------------------------------
    def shape(self, value: ir.Value) -> tuple[Size, ...]:
        """The sizes of a ranked tensor value."""
        known = self._shapes.get(value)
        if known is None:
            kind = value.type
            if kind.has_static_shape:
                known = tuple(kind.shape)
            else:
                found = self._dynamic(value, list(kind.shape))
                known = found if type(found) is tuple else tuple(map(self.canonical, found))
            self._shapes[value] = known
        return known

    def shape_if_tensor(self, value: ir.Value) -> tuple[Size, ...] | None:
        known = self._shapes.get(value)
        if known is None and isinstance(value.type, ir.RankedTensorType):
            known = self.shape(value)
        return known

    def _dynamic(self, value: ir.Value, static: list[int]) -> Sequence[Size]:
        op = self.index.maker(value)
        if op is not None and op.name == "linalg.generic":
            operands = op.operands  # those that the results are written to are the last
            return self.shape(operands[len(operands) - len(op.results) + result_number(op, value)])
        found = None if op is None else self._from_producer(op, value, static)
        if found is None:
            found = [Extent.symbol(DimOf(value, i)) for i in range(len(static))]
        return [s if s != DYNAMIC else f for s, f in zip(static, found, strict=True)]

    def _from_producer(
        self, op: ir.Operation, value: ir.Value, static: list[int]
    ) -> list[Size] | None:
        name = op.name
        if name in ("tensor.empty", "hal.tensor.import", "bufferization.alloc_tensor"):
            dims = [v for v in op.operands if isinstance(v.type, ir.IndexType)]
            return _fill(static, [self.of_index(v) for v in dims])
        if name == "tensor.expand_shape":
            shape = list(op.attributes["static_output_shape"])
            return _fill(shape, [self.of_index(v) for v in list(op.operands)[1:]])
        if name == "tensor.collapse_shape":
            source = self.shape(op.operands[0])
            groups = [[int(x.value) for x in g] for g in op.attributes["reassociation"]]
            return [_product([source[i] for i in g]) for g in groups]
        if name == "tensor.extract_slice":
            shape = list(op.attributes["static_sizes"])
            full = _fill(shape, [self.of_index(v) for v in segments(op)[2]])
            return None if full is None else _drop_units(full, static)
        if name == "tensor.reshape":
            elements = self.index.maker(op.operands[1])
            if elements is not None and elements.name == "tensor.from_elements":
                return [self.of_index(v) for v in elements.operands]
            return None
        if name in ("tensor.cast", "hal.tensor.barrier"):
            position = result_number(op, value)
            return list(self.shape(op.operands[position]))
        if name == "tensor.insert_slice":
            return list(self.shape(op.operands[1]))
        if name == "tensor.concat":
            dim = op.attributes["dim"].value
            shapes = [self.shape(v) for v in op.operands]
            result = list(shapes[0])
            for other in shapes[1:]:
                result[dim] = plus(result[dim], other[dim])
            return result
        if name.startswith(("linalg.", "iree_linalg_ext.")) and name != "linalg.pack":
            operands = op.operands  # those that the results are written to are the last
            first = len(operands) - len(op.results)
            return list(self.shape(operands[first + result_number(op, value)]))
        if name.startswith(("arith.", "math.")):
            return list(self.shape(op.operands[-1]))
        return None


def _fill(static: list[int], dynamic: list[Size]) -> list[Size] | None:
    source = iter(dynamic)
    result: list[Size] = []
    for s in static:
        if s != DYNAMIC:
            result.append(s)
            continue
        item = next(source, None)
        if item is None:
            return None
        result.append(item)
    return result


def _drop_units(full: list[Size], static: list[int]) -> list[Size] | None:
    """The sizes of a slice after its rank was reduced to that of ``static``."""
    surplus = len(full) - len(static)
    result: list[Size] = []
    for s in full:
        if surplus and s == 1 and (len(result) >= len(static) or static[len(result)] != 1):
            surplus -= 1
            continue
        result.append(s)
    return result if len(result) == len(static) else None


def _product(sizes: list[Size]) -> Size:
    result: Size = 1
    for s in sizes:
        result = times(result, s)
    return result


def _solutions(a: Size, b: Size) -> Iterator[tuple[Hashable, Size]]:
    """(symbol, what it has to be) wherever both sizes are equal: ``n + 1`` and ``m + 1`` are where
    ``n`` is ``m``."""
    difference = Extent.of(a) - Extent.of(b)
    common = gcd(*difference.terms.values())
    for key, c in difference.terms.items():
        if len(key) == 1 and abs(c) == common:
            symbol = key[0]
            if not any(symbol in other for other in difference.terms if other != key):
                rest = difference - Extent({key: c})
                yield symbol, size(Extent({k: -n // c for k, n in rest.terms.items()}))


def _symbols(value: Size) -> set[object]:
    return set() if isinstance(value, int) else {s for key in value.terms for s in key}
