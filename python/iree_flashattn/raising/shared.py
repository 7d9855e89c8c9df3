"""What is known of a module's ops, whatever the question: parsed once."""

from __future__ import annotations

from iree.compiler import ir

from .expr import Const
from .index import MADE_BY_A_SITE, UNDER_A_LOG, Index
from .region import Program, Unsupported, compile_block, dtype_of
from .sizes import Sizes
from .structure import LinalgOp, Parsed, parse_linalg

_REDUCERS = {
    "addf": "add", "maximumf": "max", "maxnumf": "max", "minimumf": "min", "minnumf": "min",
    "ori": "or", "andi": "and", "mulf": "mul", "addi": "addi",
}  # fmt: skip


class Shared:
    """Structures, programs, sizes and constants of one module."""

    def __init__(self, index: Index) -> None:
        self.index = index
        self.sizes = Sizes(index)
        self.globals = index.globals
        self.parsed = Parsed()
        # Results of the sites raised so far: read as they are. What they are made of goes away,
        # and would have to stay for whoever read it there.
        self.outputs: set[ir.Value] = set()
        self.logs: dict[ir.Value, list[ir.Operation]] = {}  # by the product of the scores
        self.bands: dict[ir.Value, float | None] = {}  # constants: what is beside a band of 0
        self._linalg: dict[ir.Operation, LinalgOp | None] = {}
        self._programs: dict[ir.Operation, Program | None] = {}
        self._elements: dict[ir.Type, str] = {}
        self._reducers: dict[tuple[ir.Operation, int], tuple[str, int] | None] = {}
        self._splats: dict[ir.Operation, Const | None] = {}

    def is_output(self, value: ir.Value) -> bool:
        """Whether a site that was raised before makes the value."""
        found = value in self.outputs
        if self.index.trace is not None:
            self.index.trace.note(MADE_BY_A_SITE, value, found)
        return found

    def logs_over(self, product: ir.Value) -> list[ir.Operation]:
        """Logarithms of sums of exponentials of what the product of two tensors became."""
        found = self.logs.get(product, [])
        if self.index.trace is not None:
            self.index.trace.note(UNDER_A_LOG, product, bool(found))
        return found

    def element(self, value: ir.Value) -> str:
        kind = value.type
        known = self._elements.get(kind)
        if known is None:
            known = self._elements[kind] = dtype_of(kind.element_type)
        return known

    def linalg(self, op: ir.Operation) -> LinalgOp | None:
        if op not in self._linalg:
            self._linalg[op] = parse_linalg(op, self.parsed)
        return self._linalg[op]

    def program(self, info: LinalgOp) -> Program | None:
        key = info.op
        if key not in self._programs:
            try:
                self._programs[key] = compile_block(info.op, self.index, self.sizes)
            except Unsupported:
                self._programs[key] = None
        return self._programs[key]

    def reducer(self, info: LinalgOp, number: int) -> tuple[str, int] | None:
        """(combination, position of the accumulator in it) of one result of a reducing body."""
        key = (info.op, number)
        if key not in self._reducers:
            self._reducers[key] = self._find_reducer(info, number)
        return self._reducers[key]

    def _find_reducer(self, info: LinalgOp, number: int) -> tuple[str, int] | None:
        assert info.body is not None
        accumulator = info.body.arguments[len(info.ins) + number]
        terminator = self.index.body(info.op)[-1]
        op = self.index.maker(terminator.operands[number])
        if op is None:
            return None
        combine = _REDUCERS.get(op.name.partition(".")[2])
        if combine is None:
            return None
        for side in (0, 1):
            if op.operands[side] == accumulator and op.operands[1 - side] != accumulator:
                return combine, side
        return None

    def splat(self, op: ir.Operation) -> Const | None:
        if op not in self._splats:
            self._splats[op] = splat_of(op.attributes["value"])
        return self._splats[op]


def splat_of(attribute: ir.Attribute) -> Const | None:
    if isinstance(attribute, ir.DenseElementsAttr) and attribute.is_splat:
        return scalar_attribute(attribute.get_splat_value())
    return None


def scalar_attribute(attribute: ir.Attribute) -> Const | None:
    if isinstance(attribute, ir.FloatAttr):
        return Const(attribute.value, str(attribute.type))
    if isinstance(attribute, (ir.IntegerAttr, ir.BoolAttr)):
        dtype = str(attribute.type)
        value = attribute.value
        return Const(bool(value) if dtype == "i1" else value, dtype)
    return None
