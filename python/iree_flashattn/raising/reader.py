"""Reading a tensor element by element: from a value and coordinates to an expression.

``step`` goes one op up: structural ops (transpose, reshape, slice, concat, broadcast) change the
coordinates, elementwise ops become scalar expressions over loads of their operands. What is
neither (matmuls, reductions, gathers, arguments) stays a load: a leaf. A step that is not exact
for the coordinates at hand is not taken, so a leaf is always a correct reading.
"""

from __future__ import annotations

from iree.compiler import ir

from .axes import ZERO, Lin, Size, Space
from .expr import Apply, Load, Node, Reduce
from .folding import apply
from .moves import STRUCTURAL
from .region import Unsupported, outer_scalar, scalar_name
from .shared import Shared
from .sizes import result_number
from .structure import LinalgOp, Map


class Reader:
    """Reads values of one module in one space of axes."""

    def __init__(self, shared: Shared) -> None:
        self.shared = shared
        self.sizes = shared.sizes
        self.producer = shared.index.producer
        self.space = Space()
        self.equal: list[tuple[Size, Size]] = []  # sizes that the ops that were read need equal
        self._steps: dict[Load, Node] = {}
        self._reductions: dict[Load, Reduce | None] = {}

    # -- loads -----------------------------------------------------------------------------------
    def load(self, value: ir.Value, coords: list[Lin] | tuple[Lin, ...]) -> Load:
        shape = self.sizes.shape(value)
        resolve = self.space.resolve
        fixed = tuple(ZERO if n == 1 else resolve(c) for n, c in zip(shape, coords, strict=True))
        return Load(value, fixed, self.shared.element(value))

    def axes_of(self, value: ir.Value) -> list[Lin]:
        return [self.space.axis(n) for n in self.sizes.shape(value)]

    def fresh(self, node: Node) -> Node:
        """The node with axes that were split since resolved."""
        if isinstance(node, Load):
            coords = tuple(self.space.resolve(c) for c in node.coords)
            return node if coords == node.coords else Load(node.value, coords, node.dtype)
        if isinstance(node, Apply):
            return Apply(node.name, tuple(self.fresh(a) for a in node.args), node.dtype)
        if hasattr(node, "lin"):
            return type(node)(self.space.resolve(node.lin), node.dtype)
        return node

    def head(self, node: Node) -> Node:
        """The node, opened until it is no load of anything but a leaf."""
        while isinstance(node, Load):
            up = self.step(node)
            if up is node:
                return node
            node = up
        return node

    def step(self, load: Load) -> Node:
        """One op up, or the same load where it is a leaf."""
        known = self._steps.get(load)
        if known is None:
            current = load
            coords = tuple(self.space.resolve(c) for c in load.coords)
            if coords != load.coords:
                current = Load(load.value, coords, load.dtype)
            known = self._up(current)
            if known is None:
                known = load
            self._steps[load] = known
        return known

    def _up(self, load: Load) -> Node | None:
        op = self.producer(load.value)
        if op is None or self.shared.is_output(load.value):
            return None
        name = op.name
        rule = STRUCTURAL.get(name)
        if rule is not None:
            return rule(self, op, load)
        if name.startswith("linalg."):
            return self._through_linalg(op, load)
        if name.startswith(("arith.", "math.")):
            return self._tensor_arith(op, load)
        return None

    # -- linalg ----------------------------------------------------------------------------------
    def _through_linalg(self, op: ir.Operation, load: Load) -> Node | None:
        info = self.shared.linalg(op)
        if info is None or info.reduced:
            return None
        number = result_number(op, load.value)
        loops = invert_map(info.out_maps[number], load.coords, info.loops)
        if loops is None or any(c is None for c in loops):
            return None
        known = [c for c in loops if c is not None]
        results = self.evaluate(info, known)
        return None if results is None else results[number]

    def evaluate(self, info: LinalgOp, loops: list[Lin]) -> list[Node] | None:
        """What the body yields at these loop coordinates."""
        if info.kind in ("copy", "product"):
            arguments = [self._operand(info, i, loops) for i in range(len(info.ins))]
            if info.kind == "copy":
                return [arguments[0]]
            return [Apply("mulf", tuple(arguments), self.shared.element(info.outs[0]))]
        if info.kind is not None:
            arguments = [self._operand(info, i, loops) for i in range(len(info.ins))]
            return [apply(info.kind, tuple(arguments), self.shared.element(info.outs[0]))]
        program = self.shared.program(info)
        if program is None:
            return None
        count = len(info.body.arguments)  # type: ignore[union-attr]
        arguments = [self._operand(info, i, loops) for i in range(count)]
        if program.gathers:  # indices have to be known as positions
            arguments = [self.head(a) if a.dtype[0] == "i" else a for a in arguments]  # type: ignore[attr-defined]
        try:
            return program.run(arguments, tuple(loops))
        except Unsupported:
            return None

    def _operand(self, info: LinalgOp, index: int, loops: list[Lin]) -> Node:
        value = info.ins[index] if index < len(info.ins) else info.outs[index - len(info.ins)]
        if not isinstance(value.type, ir.RankedTensorType):
            return outer_scalar(value, self.sizes)
        return self.load(value, image(info.maps[index], loops))

    def reduction(self, load: Load) -> Reduce | None:
        """The sum, maximum, ... that a leaf is, with fresh axes for the reduced loops."""
        if load not in self._reductions:
            self._reductions[load] = self._reduce(load)
        return self._reductions[load]

    def _reduce(self, load: Load) -> Reduce | None:
        op = self.producer(load.value)
        if op is None or not op.name.startswith("linalg."):
            return None
        info = self.shared.linalg(op)
        if info is None or not info.reduced:
            return None
        number = result_number(op, load.value)
        coords = tuple(self.space.resolve(c) for c in load.coords)
        loops = invert_map(info.out_maps[number], coords, info.loops)
        if loops is None:
            return None
        extents = self.loop_extents([*info.ins, *info.outs], info.maps, info.loops)
        axes = []
        for i in range(info.loops):
            if loops[i] is None:
                if extents[i] is None:
                    return None
                loops[i] = self.space.axis(extents[i])
                axes.append(loops[i])
            elif i in info.reduced:
                return None
        known = [c for c in loops if c is not None]
        if info.kind == "product":
            body = self.evaluate(info, known)
            assert body is not None
            combine = "add"
            if self.shared.element(info.outs[0])[0] == "i":
                return None
            return Reduce(combine, tuple(axes), body[0], self._init(info, number, coords))
        reducer = self.shared.reducer(info, number)
        if reducer is None:
            return None
        combine, side = reducer
        results = self.evaluate(info, known)
        if results is None:
            return None
        node = results[number]
        accumulator = self._operand(info, len(info.ins) + number, known)
        if not isinstance(node, Apply) or node.args[side] != accumulator:
            # folded away against its initial value, e.g. x + 0
            return None
        return Reduce(combine, tuple(axes), node.args[1 - side], self._init(info, number, coords))

    def loop_extents(
        self, operands: list[ir.Value], maps: list[Map], loops: int
    ) -> list[Size | None]:
        """The length of each loop; where operands have different names for it, both are noted."""
        extents: list[Size | None] = [None] * loops
        for value, mapping in zip(operands, maps, strict=False):
            if not isinstance(value.type, ir.RankedTensorType):
                continue
            for n, (terms, const) in zip(self.sizes.shape(value), mapping, strict=True):
                if len(terms) != 1 or const != 0:
                    continue
                ((loop, c),) = terms.items()
                have = extents[loop]
                if c != 1 or have == n:
                    continue
                if have is not None:
                    self.equal.append((have, n))
                if have is None or isinstance(n, int):
                    extents[loop] = n
        return extents

    def _init(self, info: LinalgOp, number: int, coords: tuple[Lin, ...]) -> Node:
        return self.head(self.load(info.outs[number], coords))

    def _tensor_arith(self, op: ir.Operation, load: Load) -> Node | None:
        if op.name == "arith.constant":
            return self.shared.splat(op)
        name = scalar_name(op)
        if name is None:
            return None
        arguments = []
        for v in op.operands:
            if isinstance(v.type, ir.RankedTensorType):
                arguments.append(self.load(v, load.coords))
            else:
                arguments.append(outer_scalar(v, self.sizes))
        return apply(name, tuple(arguments), load.dtype)


def image(mapping: Map, loops: list[Lin]) -> list[Lin]:
    coords = []
    for terms, const in mapping:
        if len(terms) == 1 and const == 0:
            ((loop, c),) = terms.items()
            coords.append(loops[loop] if c == 1 else loops[loop].scaled(c))
            continue
        lin = Lin((), const)
        for loop, c in terms.items():
            lin = lin.add(loops[loop], c)
        coords.append(lin)
    return coords


def invert_map(mapping: Map, coords: tuple[Lin, ...], loops: int) -> list[Lin | None] | None:
    """Loop coordinates from those of a result; None for loops that the result does not see."""
    found: list[Lin | None] = [None] * loops
    for (terms, const), lin in zip(mapping, coords, strict=True):
        if not terms:
            if const != 0 or lin != ZERO:
                return None
            continue
        if len(terms) != 1 or const != 0:
            return None
        ((loop, c),) = terms.items()
        if c != 1 or found[loop] is not None:
            return None
        found[loop] = lin
    return found
