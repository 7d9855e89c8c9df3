"""The product that scores are: its factors and its summed axes."""

from __future__ import annotations

from .axes import Lin
from .expr import Apply, Const, Load, Node
from .reader import Reader
from .refuse import Refuse, describe
from .score import Axes, strip_casts_constant
from .unify import atoms_of, depends, node_atoms, strip_casts

RULE = "scores"


def axes_of_dot(reader: Reader, dot: Node) -> tuple[Node, Node, list[Lin]]:
    """(left, right, reduced axes) of the product that the scores are."""
    reduce = reader.reduction(dot) if isinstance(dot, Load) else None
    if reduce is None or reduce.combine != "add":
        raise Refuse(RULE, "the scores are no product of two tensors", describe(reader, dot))
    body = strip_casts(reader, reduce.body)
    if not isinstance(body, Apply) or body.name != "mulf":
        raise Refuse(RULE, "the scores are no product of two tensors", describe(reader, body))
    init = strip_casts_constant(reader, reduce.init)
    if not isinstance(init, Const) or init.value != 0:
        raise Refuse(RULE, "the product of Q and K starts from a tensor", describe(reader, init))
    return body.args[0], body.args[1], list(reduce.axes)


def unlikeness(reader: Reader, dot: Node, axes: Axes) -> tuple[bool, int, int]:
    """How little a product looks like Q·K: its keys have the axes that the values have."""
    try:
        left, right, inner = axes_of_dot(reader, dot)
    except Refuse:
        return True, 0, 0
    sides = [s for s in (left, right) if depends(reader, s, axes.keys)]
    if len(sides) != 1:
        return True, 0, 0
    summed = atoms_of(reader, inner)
    others = node_atoms(reader, sides[0]) - summed - reader.space.live(axes.values)
    length = 1
    for atom in summed:
        length *= atom.extent if isinstance(atom.extent, int) else 1 << 20
    return False, len(others), -length
