"""Building the tensors that a site's views ask for: one ``linalg.generic`` for each Term."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from iree.compiler import ir

from ..extent import Extent
from ..site import AttentionSite
from .axes import Atom, Lin, Size
from .expr import Apply, Const, Load, Node, Position, Scalar
from .folding import CMPF, CMPI
from .reader import Reader
from .sizes import producer
from .term import Term, spread

if TYPE_CHECKING:
    from ..emitting.builder import Builder

_OPERANDS = ("q", "k", "v", "mask", "bias", "sinks")
_MATH = frozenset(
    """exp exp2 log log2 log1p sqrt rsqrt tanh absf erf powf sin cos ceil floor absi
    fpowi""".split()
)
Built = dict[tuple, ir.Value]


def resolve(site: AttentionSite, build: Builder, built: Built) -> AttentionSite:
    """The site with every Term in its views replaced by a tensor value built before its anchor.

    ``built`` keeps what earlier sites of the module built: equal terms are one tensor.
    """
    changes = {}
    for name in _OPERANDS:
        view = getattr(site, name)
        if view is not None and isinstance(view.value, Term):
            changes[name] = replace(view, value=_tensor(view.value, build, built))
    return replace(site, **changes) if changes else site


def _tensor(term: Term, build: Builder, built: Built) -> ir.Value:
    key = (_renamed(term, term.node), term.shape, term.dtype)
    known = built.get(key)
    anchor = build.point.ref_operation
    if known is not None and anchor is not None:
        op = producer(known)
        here = anchor.operation
        if op is not None and op.block == here.block and op.is_before_in_block(here):
            return known
    with build.context, build.location:
        built[key] = _Writer(term, build).write()
    return built[key]


def _renamed(term: Term, node: Node) -> tuple:
    """The expression with its axes by their place in the term, so that sites can be compared."""
    place = {atom: i for i, atom in enumerate(term.axes)}

    def form(lin: Lin) -> tuple:
        lin = term.reader.space.resolve(lin)
        return (tuple(sorted((place.get(a, -1), str(c)) for a, c in lin.terms)), str(lin.const))

    def walk(n: Node) -> tuple:
        if isinstance(n, Load):
            return ("load", n.value, *(form(c) for c in n.coords))
        if isinstance(n, Apply):
            return (n.name, n.dtype, *(walk(a) for a in n.args))
        if isinstance(n, Position):
            return ("position", form(n.lin), n.dtype)
        if isinstance(n, Const):
            return ("const", repr(n.value), n.dtype)
        assert isinstance(n, Scalar)
        return ("scalar", n.value)

    return walk(node)


class _Writer:
    """Writes one term as a linalg.generic."""

    def __init__(self, term: Term, build: Builder) -> None:
        self.term = term
        self.reader: Reader = term.reader
        self.build = build
        self.place = {atom: i for i, atom in enumerate(term.axes)}
        self.inputs: list[tuple[ir.Value, ir.AffineMap]] = []
        self.input_of: dict[Load, int] = {}
        self.values: dict[Node, ir.Value] = {}

    def write(self) -> ir.Value:
        rank = len(self.term.axes)
        self._collect(self.term.node)
        element = self._type(self.term.dtype)
        dynamic = ir.ShapedType.get_dynamic_size()
        sizes = [s if isinstance(s, int) else dynamic for s in self.term.shape]
        kind = ir.RankedTensorType.get(sizes, element)
        lengths = [self.build.extent(Extent.of(s)) for s in self.term.shape
                   if not isinstance(s, int)]  # fmt: skip
        point = self.build.point
        empty = ir.Operation.create("tensor.empty", results=[kind], operands=lengths, ip=point)
        maps = [m for _, m in self.inputs] + [ir.AffineMap.get_identity(rank)]
        parallel = ir.Attribute.parse("#linalg.iterator_type<parallel>")
        operands = [v for v, _ in self.inputs]
        generic = ir.Operation.create(
            "linalg.generic",
            results=[kind],
            operands=[*operands, empty.results[0]],
            attributes={
                "indexing_maps": ir.ArrayAttr.get([ir.AffineMapAttr.get(m) for m in maps]),
                "iterator_types": ir.ArrayAttr.get([parallel] * rank),
                "operandSegmentSizes": ir.DenseI32ArrayAttr.get([len(operands), 1]),
            },
            regions=1,
            ip=point,
        )
        types = [v.type.element_type for v in operands] + [element]
        block = ir.Block.create_at_start(
            generic.regions[0], types, [self.build.location] * len(types)
        )
        self.arguments = list(block.arguments)
        self.inside = ir.InsertionPoint(block)
        result = self._as(self._emit(self.term.node), self.term.dtype)
        ir.Operation.create("linalg.yield", operands=[result], ip=self.inside)
        return generic.results[0]

    # -- operands --------------------------------------------------------------------------------
    def _collect(self, node: Node) -> None:
        if isinstance(node, Apply):
            for a in node.args:
                self._collect(a)
        elif isinstance(node, Load) and node not in self.input_of:
            self.input_of[node] = len(self.inputs)
            self.inputs.append(self._input(node))

    def _input(self, load: Load) -> tuple[ir.Value, ir.AffineMap]:
        """The tensor with one dimension for each axis that it is read with."""
        dims = spread(self.reader, load)
        assert dims is not None  # the term was settled
        value = load.value
        if any(len(dim) > 1 for dim in dims):
            value = self._expanded(value, dims)
        flat = [dim or [None] for dim in dims]
        results = [
            ir.AffineConstantExpr.get(0) if a is None else ir.AffineDimExpr.get(self.place[a])
            for dim in flat
            for a in dim
        ]
        return value, ir.AffineMap.get(len(self.term.axes), 0, results)

    def _expanded(self, value: ir.Value, dims: list[list[Atom]]) -> ir.Value:
        dynamic = ir.ShapedType.get_dynamic_size()
        i64 = ir.IntegerType.get_signless(64)
        groups, shape, position = [], [], 0
        for dim in dims:
            sizes: list[Size] = [a.extent for a in dim] or [1]
            numbers = range(position, position + len(sizes))
            groups.append(ir.ArrayAttr.get([ir.IntegerAttr.get(i64, n) for n in numbers]))
            shape += sizes
            position += len(sizes)
        static = [s if isinstance(s, int) else dynamic for s in shape]
        lengths = [self.build.extent(Extent.of(s)) for s in shape if not isinstance(s, int)]
        op = ir.Operation.create(
            "tensor.expand_shape",
            results=[ir.RankedTensorType.get(static, value.type.element_type)],
            operands=[value, *lengths],
            attributes={
                "reassociation": ir.ArrayAttr.get(groups),
                "static_output_shape": ir.DenseI64ArrayAttr.get(static),
            },
            ip=self.build.point,
        )
        return op.results[0]

    # -- the body --------------------------------------------------------------------------------
    def _emit(self, node: Node) -> ir.Value:
        known = self.values.get(node)
        if known is None:
            known = self.values[node] = self._new(node)
        return known

    def _new(self, node: Node) -> ir.Value:
        if isinstance(node, Load):
            return self.arguments[self.input_of[node]]
        if isinstance(node, Const):
            return self._constant(node.value, node.dtype)
        if isinstance(node, Scalar):
            return node.value
        if isinstance(node, Position):
            return self._as(self._position(node.lin), node.dtype)
        assert isinstance(node, Apply)
        return self._operation(node)

    def _operation(self, node: Apply) -> ir.Value:
        name, attributes = node.name, {}
        if name == "not":
            value = self._emit(node.args[0])
            return self._op("arith.xori", [value, self._constant(True, "i1")], "i1")
        if name in ("truncf", "extf"):
            return self._as(self._emit(node.args[0]), node.dtype)
        values = [self._emit(a) for a in node.args]
        kind, _, predicate = name.partition(".")
        if predicate:
            table = CMPF if kind == "cmpf" else CMPI
            i64 = ir.IntegerType.get_signless(64)
            attributes["predicate"] = ir.IntegerAttr.get(i64, table.index(predicate))
            values = self._same_type(values)
        elif name == "select":
            values = [values[0], *(self._as(v, node.dtype) for v in values[1:])]
        elif name.endswith("f") and len(values) == 2:
            values = [self._as(v, node.dtype) for v in values]
        dialect = "math" if kind in _MATH else "arith"
        return self._op(f"{dialect}.{kind}", values, node.dtype, attributes)

    def _same_type(self, values: list[ir.Value]) -> list[ir.Value]:
        types = {str(v.type) for v in values}
        if len(types) == 1:
            return values
        wanted = "f32" if "f32" in types else "index" if "index" in types else types.pop()
        return [self._as(v, wanted) for v in values]

    def _position(self, lin: Lin) -> ir.Value:
        lin = self.reader.space.resolve(lin)
        total: ir.Value | None = None
        for atom, c in lin.terms:
            i64 = ir.IntegerType.get_signless(64)
            attribute = {"dim": ir.IntegerAttr.get(i64, self.place[atom])}
            value = self._op("linalg.index", [], "index", attribute)
            if c != 1:
                value = self._op("arith.muli", [value, self._size(c)], "index")
            total = value if total is None else self._op("arith.addi", [total, value], "index")
        if total is None or lin.const != 0:
            const = self._size(lin.const)
            total = const if total is None else self._op("arith.addi", [total, const], "index")
        return total

    def _size(self, value: int | Extent) -> ir.Value:
        if isinstance(value, int):
            return self._constant(value, "index")
        return self.build.extent(value)

    def _as(self, value: ir.Value, dtype: str) -> ir.Value:
        have = str(value.type)
        if have == dtype:
            return value
        if have[0] in "fb" and dtype[0] in "fb":
            width = {"f16": 16, "bf16": 16, "f32": 32, "f64": 64}
            if width[have] == width[dtype]:
                return self._as(self._as(value, "f32"), dtype)
            name = "arith.extf" if width[have] < width[dtype] else "arith.truncf"
            return self._op(name, [value], dtype)
        if "index" in (have, dtype):
            return self._op("arith.index_cast", [value], dtype)
        name = "arith.extsi" if int(have[1:]) < int(dtype[1:]) else "arith.trunci"
        return self._op(name, [value], dtype)

    def _constant(self, value: float | int | bool, dtype: str) -> ir.Value:
        kind = self._type(dtype)
        if dtype[0] in "fb":
            attribute: ir.Attribute = ir.FloatAttr.get(kind, float(value))
        else:
            attribute = ir.IntegerAttr.get(kind, int(value))
        return self._op("arith.constant", [], dtype, {"value": attribute})

    def _op(
        self, name: str, operands: list[ir.Value], dtype: str, attributes: dict | None = None
    ) -> ir.Value:
        op = ir.Operation.create(
            name, results=[self._type(dtype)], operands=operands, attributes=attributes or {},
            ip=self.inside,
        )  # fmt: skip
        return op.results[0]

    @staticmethod
    def _type(dtype: str) -> ir.Type:
        return ir.Type.parse(dtype)
