"""A score in the form that kernels compute."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from .axes import Atom
from .expr import Apply, Const, Node
from .folding import apply
from .reader import Reader


@dataclass(frozen=True)
class Axes:
    """Which axes an expression of scores has to do with."""

    keys: set[Atom]
    values: set[Atom] = field(default_factory=set)  # all axes of V


@dataclass
class Score:
    dot: Node  # a contraction's element, or the product of an attention op
    scale: float = 1.0
    factors: list[Node] = field(default_factory=list)  # further factors of the dot product
    cap: float | None = None  # outer factor of tanh; ``scale`` then is the inner one
    bias: list[Node] = field(default_factory=list)
    keep: list[Node] = field(default_factory=list)  # conditions under which an element stays
    fill: float = -math.inf
    after: list[Node] = field(default_factory=list)  # added after the fill


def strip_casts_constant(reader: Reader, node: Node) -> Node:
    """The constant that the node is, or the node."""
    head = reader.head(node)
    if isinstance(head, Const):
        return head
    if isinstance(head, Apply):
        args = tuple(strip_casts_constant(reader, a) for a in head.args)
        if all(isinstance(a, Const) for a in args):
            folded = apply(head.name, args, head.dtype)
            if isinstance(folded, Const):
                return folded
    return node
