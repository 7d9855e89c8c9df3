"""Operands: the chain of tensors in which Q, K, V, a mask or a bias can be read.

From the load that a product reads, upwards through everything that only moves elements: each
tensor on the way is a candidate, the deepest one the most direct. Constant factors and exact
casts are passed and remembered.
"""

from __future__ import annotations

from dataclasses import dataclass

from iree.compiler import ir

from .axes import Atom, Lin, Size, plus, times
from .expr import Apply, Const, Load, Node
from .reader import Reader
from .score import strip_casts_constant
from .unify import atoms_of, node_atoms


@dataclass(frozen=True)
class Candidate:
    """A tensor that holds the operand, up to a constant factor."""

    load: Load
    factor: float = 1.0


def candidates(reader: Reader, node: Node, scales: bool = False) -> list[Candidate]:
    """The tensors from which the operand can be read, deepest first.

    ``scales`` lets constant factors be passed (Q and K).
    """
    found: list[Candidate] = []
    factor = 1.0
    narrowed = False
    while True:
        if isinstance(node, Load):
            found.append(Candidate(node, factor))
            up = reader.step(node)
            if up is node:
                break
            node = up
        elif isinstance(node, Apply) and node.name == "extf":
            node = node.args[0]
        elif isinstance(node, Apply) and node.name == "truncf" and not narrowed:
            # the wider tensor would skip a rounding: never further than here
            break
        elif isinstance(node, Apply) and scales and node.name in ("mulf", "divf"):
            step = _constant_factor(reader, node)
            if step is None:
                break
            node, c = step
            factor *= c
        else:
            break
    found.reverse()
    return found


def _constant_factor(reader: Reader, node: Apply) -> tuple[Node, float] | None:
    a, b = node.args
    right = strip_casts_constant(reader, b)
    if isinstance(right, Const) and float(right.value) != 0:
        value = float(right.value)
        return a, value if node.name == "mulf" else 1.0 / value
    left = strip_casts_constant(reader, a)
    if node.name == "mulf" and isinstance(left, Const) and float(left.value) != 0:
        return b, float(left.value)
    return None


def operand_atoms(reader: Reader, node: Node) -> set[Atom]:
    """The axes that the most direct tensor of an operand is read with."""
    options = candidates(reader, node, scales=True)
    if not options:
        return node_atoms(reader, node)
    return atoms_of(reader, options[0].load.coords)


def lies_as_shaped(value: ir.Value) -> bool:
    """Whether the buffer holds the elements row by row: an encoding may pack or tile them."""
    return getattr(value.type, "encoding", None) is None


def address(reader: Reader, load: Load) -> Lin:
    """The row-major position of the element in its buffer."""
    result = Lin()
    stride: Size = 1
    shape = reader.sizes.shape(load.value)
    for n, coordinate in zip(reversed(shape), reversed(load.coords), strict=True):
        lin = reader.space.resolve(coordinate)
        if lin.terms or lin.const != 0:
            result = result.add(lin, stride)
        stride = times(stride, n)
    return result


def group_stride(terms: dict[Atom, Size], atoms: list[Atom]) -> Size | None:
    """The one stride of a mixed-radix index over ``atoms`` (outermost first), None if none."""
    if not atoms:
        return 0
    stride = terms.get(atoms[-1], 0)
    expected: Size = stride
    for atom, outer in zip(reversed(atoms), list(reversed(atoms))[1:], strict=False):
        expected = times(expected, atom.extent)
        if terms.get(outer, 0) != expected:
            return None
    return stride


__all__ = ["Candidate", "address", "candidates", "group_stride", "plus"]
