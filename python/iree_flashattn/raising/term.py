"""Tensors that must be built because no single value holds them.

A site may carry a :class:`Term` in place of a tensor value: a scalar expression over named axes.
``build`` writes it as one ``linalg.generic`` whose result is dense over exactly the axes that the
expression varies with, so it never grows with a broadcast axis.
"""

from __future__ import annotations

from dataclasses import dataclass

from ..extent import Extent
from .axes import Atom, Lin, Size, times
from .expr import Node
from .reader import Reader
from .unify import node_atoms


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


def make_term(
    reader: Reader, node: Node, groups: list[list[Atom]], dtype: str
) -> tuple[Term, dict[Atom, Size]]:
    """The term of a node and the strides of its axes.

    ``groups`` are the site's axes by role, outermost first; a role that the node varies with is
    built whole, so that one stride walks it.
    """
    used = node_atoms(reader, node)
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


def extent(value: Size) -> Extent:
    return Extent.of(value)


__all__ = ["Lin", "Term", "extent", "make_term"]
