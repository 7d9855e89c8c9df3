"""Scalar expressions: what one element of a tensor is, as a function of its coordinates.

Nodes are immutable and compared by value. A :class:`Load` stays a load until somebody asks the
reader for its head, so only what a rule looks at is ever expanded.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from .axes import Lin

if TYPE_CHECKING:
    from iree.compiler import ir


class Node:
    __slots__ = ()


@dataclass(frozen=True, slots=True)
class Const(Node):
    value: float | int | bool
    dtype: str


@dataclass(frozen=True, slots=True)
class Position(Node):
    """An index-typed linear form: what linalg.index yields, after arithmetic."""

    lin: Lin
    dtype: str = "index"


@dataclass(frozen=True, slots=True)
class Scalar(Node):
    """A scalar SSA value from outside all tensor ops."""

    value: ir.Value
    dtype: str


@dataclass(frozen=True)
class Load(Node):
    """One element of a tensor value."""

    value: ir.Value
    coords: tuple[Lin, ...]
    dtype: str

    def __post_init__(self) -> None:
        object.__setattr__(self, "_hash", hash((self.value, self.coords)))

    def __hash__(self) -> int:
        return self._hash  # type: ignore[attr-defined]


@dataclass(frozen=True)
class Apply(Node):
    """An operation by its name without the dialect ("mulf", "select", "cmpf.oeq", "exp")."""

    name: str
    args: tuple[Node, ...]
    dtype: str

    def __post_init__(self) -> None:
        object.__setattr__(self, "_hash", hash((self.name, self.args)))

    def __hash__(self) -> int:
        return self._hash  # type: ignore[attr-defined]


@dataclass(frozen=True)
class Reduce:
    """``combine(init, combine over the axes of body)``."""

    combine: str  # add, max, min, or, and, mul
    axes: tuple[Lin, ...]  # one coordinate per reduced loop
    body: Node
    init: Node


FLOAT_CASTS = frozenset({"truncf", "extf"})
COMMUTATIVE = frozenset(
    {"addf", "mulf", "addi", "muli", "andi", "ori", "xori", "maximumf", "maxnumf", "minimumf"}
)
