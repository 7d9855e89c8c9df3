"""Tensors that must be built because no single value holds them.

A site may carry a :class:`Term` in place of a tensor value: a scalar expression over named axes.
``build`` writes it as one ``linalg.generic`` whose result is dense over exactly the axes that the
expression varies with, so it never grows with a broadcast axis.
"""

from __future__ import annotations

from dataclasses import dataclass

from .axes import Atom, Size, dense_length, times
from .expr import Apply, Load, Node, Position
from .operands import lies_as_shaped
from .reader import Reader
from .refuse import Refuse
from .unify import atoms_of


@dataclass(frozen=True, eq=False)
class Term:
    """An expression over ``axes`` (outermost first); its tensor is row-major over them."""

    reader: Reader
    node: Node
    axes: tuple[Atom, ...]
    dtype: str

    @property
    def shape(self) -> tuple[Size, ...]:
        return tuple(a.extent for a in self.axes)

    @property
    def key(self) -> tuple:
        """Terms of one site with equal keys are the same tensor."""
        return (self.node, self.axes, self.dtype)


def spread(reader: Reader, load: Load) -> list[list[Atom]] | None:
    """For each dimension of the tensor the axes that count through it, outermost first.

    None where a coordinate is shifted, scaled or covers a dimension in part: the tensor cannot be
    reshaped to the axes.
    """
    dims: list[list[Atom]] = []
    for n, coordinate in zip(reader.sizes.shape(load.value), load.coords, strict=True):
        lin = reader.space.resolve(coordinate)
        if dense_length(lin) != n:
            return None
        left, order, length = list(lin.terms), [], 1
        while left:
            position = next(i for i, (_, c) in enumerate(left) if c == length)
            atom, _ = left.pop(position)
            order.insert(0, atom)
            length = times(length, atom.extent)
        dims.append(order)
    flat = [a for dim in dims for a in dim]
    return dims if len(flat) == len(set(flat)) else None


def settled(reader: Reader, node: Node) -> Node:
    """The expression with each load moved to the most direct tensor that can be read whole.

    Raises ``ValueError`` where there is none, :class:`Refuse` where it lies packed or tiled.
    """
    if isinstance(node, Apply):
        return Apply(node.name, tuple(settled(reader, a) for a in node.args), node.dtype)
    if not isinstance(node, Load):
        return node
    best: Load | None = None
    current: Node = node
    while isinstance(current, Load):
        if spread(reader, current) is not None:
            best = current
        up = reader.step(current)
        if up is current:
            break
        current = up
    if best is not None:
        narrower = _narrower(reader, best, current)
        if narrower is not None:
            return narrower
        if not lies_as_shaped(best.value):
            encoding = str(best.value.type.encoding)
            raise Refuse("views", f"a tensor is stored with the encoding {encoding}", encoding)
        return reader.fresh(best)
    if isinstance(current, Load):
        raise ValueError(f"{node.value} cannot be read as a whole")
    return settled(reader, current)


def _narrower(reader: Reader, best: Load, source: Node) -> Node | None:
    """What ``best`` is computed from, where that varies with fewer axes: K before it is repeated
    for the heads of a group and cast."""
    if isinstance(source, Load):
        return None
    try:
        deeper = settled(reader, source)
    except (ValueError, Refuse):
        return None
    return deeper if shallow_atoms(reader, deeper) < shallow_atoms(reader, best) else None


def make_term(
    reader: Reader, node: Node, groups: list[list[Atom]], dtype: str
) -> tuple[Term, dict[Atom, Size]]:
    """The term of a node and the strides of its axes.

    ``groups`` are the site's axes by role, outermost first; a role that the node varies with is
    built whole, so that one stride walks it. Raises ``ValueError`` where it cannot be built.
    """
    node = settled(reader, node)
    used = shallow_atoms(reader, node)
    axes = [a for group in groups if used & set(group) for a in group]
    missing = used - set(axes)
    if missing:
        raise ValueError(f"axes {missing} have no role")
    strides: dict[Atom, Size] = {}
    stride: Size = 1
    for atom in reversed(axes):
        strides[atom] = stride
        stride = times(stride, atom.extent)
    return Term(reader, node, tuple(axes), dtype), strides


def shallow_atoms(reader: Reader, node: Node) -> set[Atom]:
    """The axes that the expression names as it stands."""
    if isinstance(node, Load):
        return atoms_of(reader, node.coords)
    if isinstance(node, Apply):
        return set().union(*(shallow_atoms(reader, a) for a in node.args))
    if isinstance(node, Position):
        return atoms_of(reader, [node.lin])
    return set()
