"""Scalar regions: the body of a linalg op as a program over expressions.

A body is read once into a list of steps; evaluating it with other operands is cheap.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from iree.compiler import ir

from .axes import Lin
from .expr import Const, Load, Node, Position, Scalar
from .folding import CMPF, CMPI, apply, as_lin
from .index import Index
from .sizes import Sizes

_UNARY_AND_MORE = frozenset(
    """addf subf mulf divf negf maximumf minimumf maxnumf minnumf truncf extf select
    addi subi muli andi ori xori maxsi minsi extsi extui trunci index_cast index_castui
    sitofp uitofp divsi divui remsi remui floordivsi
    exp exp2 log log2 log1p sqrt rsqrt tanh absf erf powf sin cos ceil floor fptosi fptoui
    absi fpowi""".split()
)


class Unsupported(Exception):
    """The region has an op that is not a plain scalar one; the message is its name."""


def dtype_of(kind: ir.Type) -> str:
    return str(kind)


@dataclass
class Program:
    """Steps ``(slot, make)``: ``make(slots, coords)`` gives the node of that slot."""

    arguments: list[int]
    results: list[int]
    count: int
    steps: list[tuple[int, Callable[[list[Node], tuple[Lin, ...]], Node]]]
    gathers: bool = False  # reads tensors at computed indices

    def run(self, arguments: list[Node], coords: tuple[Lin, ...]) -> list[Node]:
        slots: list[Node] = [None] * self.count  # type: ignore[list-item]
        for slot, node in zip(self.arguments, arguments, strict=False):
            slots[slot] = node
        for slot, make in self.steps:
            slots[slot] = make(slots, coords)
        return [slots[s] for s in self.results]


def scalar_name(op: ir.Operation) -> str | None:
    """The expression name of a scalar op, None where it is not a known one."""
    dialect, _, name = op.name.partition(".")
    if dialect not in ("arith", "math"):
        return None
    if name == "cmpf":
        return "cmpf." + CMPF[op.attributes["predicate"].value]
    if name == "cmpi":
        return "cmpi." + CMPI[op.attributes["predicate"].value]
    return name if name in _UNARY_AND_MORE else None


def constant_node(op: ir.Operation) -> Node | None:
    attribute = op.attributes["value"]
    dtype = dtype_of(op.results[0].type)
    if isinstance(attribute, ir.FloatAttr):
        return Const(attribute.value, dtype)
    if isinstance(attribute, ir.BoolAttr):
        return Const(bool(attribute.value), dtype)
    if isinstance(attribute, ir.IntegerAttr):
        return Const(bool(attribute.value) if dtype == "i1" else attribute.value, dtype)
    return None


def outer_scalar(value: ir.Value, sizes: Sizes) -> Node:
    """A scalar from outside a region: folded to a constant where it is one."""
    op = sizes.index.maker(value)
    dtype = dtype_of(value.type)
    if op is not None and op.name == "arith.constant":
        node = constant_node(op)
        if node is not None:
            return node
    if dtype == "index" or (dtype[0] == "i" and dtype != "i1"):
        return Position(Lin((), sizes.of_index(value)), dtype)
    if op is not None:
        name = scalar_name(op)
        if name is not None:
            arguments = tuple(outer_scalar(v, sizes) for v in op.operands)
            node = apply(name, arguments, dtype)
            if isinstance(node, Const):
                return node
    return Scalar(value, dtype)


def compile_block(op: ir.Operation, index: Index, sizes: Sizes) -> Program:
    """The program of an op's region. Raises :class:`Unsupported`."""
    builder = _Builder(index, sizes)
    arguments = [builder.slot(a) for a in op.regions[0].blocks[0].arguments]
    results = builder.block(op)
    return Program(arguments, results, builder.count, builder.steps, builder.gathers)


class _Builder:
    def __init__(self, index: Index, sizes: Sizes) -> None:
        self.index = index
        self.sizes = sizes
        self.slots: dict[ir.Value, int] = {}
        self.count = 0
        self.steps: list = []
        self.gathers = False

    def slot(self, value: ir.Value) -> int:
        self.slots[value] = self.count
        self.count += 1
        return self.count - 1

    def read(self, value: ir.Value) -> int:
        known = self.slots.get(value)
        if known is not None:
            return known
        if isinstance(value.type, ir.RankedTensorType):
            raise Unsupported("a tensor captured by a region")
        node = outer_scalar(value, self.sizes)
        slot = self.slot(value)
        self.steps.append((slot, lambda _s, _c, node=node: node))
        return slot

    def block(self, owner: ir.Operation) -> list[int]:
        for op in self.index.body(owner):
            name = op.name
            if name in ("linalg.yield", "iree_linalg_ext.yield", "tensor.yield"):
                return [self.read(v) for v in op.operands]
            self.operation(op, name)
        raise Unsupported("a region without a terminator")

    def operation(self, op: ir.Operation, name: str) -> None:
        if name in ("linalg.index", "iree_linalg_ext.index"):
            dim = op.attributes["dim"].value
            slot = self.slot(op.results[0])
            self.steps.append((slot, lambda _s, coords, dim=dim: Position(coords[dim])))
        elif name == "arith.constant":
            node = constant_node(op)
            if node is None:
                raise Unsupported(name)
            self.steps.append((self.slot(op.results[0]), lambda _s, _c, node=node: node))
        elif name == "tensor.empty":
            self.slots[op.results[0]] = -1
        elif name == "tensor.extract" and len(op.operands) > 1:
            self._gather(op)
        elif name in ("tensor.from_elements", "tensor.extract"):
            self._rank_zero(op, name)
        elif name == "cf.assert":
            pass  # says that indices are in range, which reading takes for granted
        elif name == "linalg.generic":
            self._nested(op)
        else:
            known = scalar_name(op)
            if known is None:
                raise Unsupported(name)
            self._apply(op, known)

    def _apply(self, op: ir.Operation, name: str) -> None:
        arguments = [self.read(v) for v in op.operands]
        dtype = dtype_of(op.results[0].type)
        slot = self.slot(op.results[0])

        def make(slots: list[Node], _coords: tuple[Lin, ...]) -> Node:
            return apply(name, tuple(slots[i] for i in arguments), dtype)

        self.steps.append((slot, make))

    def _gather(self, op: ir.Operation) -> None:
        """An element of a captured tensor at computed indices: a load where they are positions."""
        tensor = op.operands[0]
        indices = [self.read(v) for v in list(op.operands)[1:]]
        shape = self.sizes.shape(tensor)
        dtype = dtype_of(tensor.type.element_type)
        slot = self.slot(op.results[0])
        self.gathers = True

        def make(slots: list[Node], _coords: tuple[Lin, ...]) -> Node:
            forms = [as_lin(slots[i]) for i in indices]
            if any(f is None for f in forms):
                raise Unsupported("tensor.extract at run-time indices")
            fixed = [Lin() if n == 1 else f for n, f in zip(shape, forms, strict=True)]
            return Load(tensor, tuple(f for f in fixed if f is not None), dtype)

        self.steps.append((slot, make))

    def _rank_zero(self, op: ir.Operation, name: str) -> None:
        """A scalar that is wrapped in a rank-0 tensor and taken out again."""
        tensor = op.results[0] if name == "tensor.from_elements" else op.operands[0]
        if tensor.type.rank != 0 or (name == "tensor.extract" and tensor not in self.slots):
            raise Unsupported(name)
        self.slots[op.results[0]] = self.read(op.operands[0])

    def _nested(self, op: ir.Operation) -> None:
        """A generic over rank-0 tensors inside a region (score modifications)."""
        operands = list(op.operands)
        if any(v.type.rank != 0 for v in operands):
            raise Unsupported("linalg.generic inside a region")
        block = op.regions[0].blocks[0]
        for argument, operand in zip(block.arguments, operands, strict=True):
            known = self.slots.get(operand)
            if known is None:
                raise Unsupported("a tensor captured by a region")
            self.slots[argument] = known
        results = self.block(op)
        for value, slot in zip(op.results, results, strict=True):
            self.slots[value] = slot
