"""Views: every operand of a site as strides over (batch, head, row, column)."""

from __future__ import annotations

from dataclasses import dataclass

from ..extent import Extent
from ..site import View
from .axes import Atom, Size
from .expr import Node
from .operands import Candidate, address, group_stride, lies_as_shaped
from .reader import Reader
from .roles import Roles
from .term import Term, make_term


@dataclass(frozen=True)
class Found:
    """A view of an operand, what it is multiplied by, and how far it is from the best one."""

    view: View
    factor: float = 1.0
    cost: int = 0


def view_of(
    reader: Reader, candidate: Candidate, groups: list[list[Atom]], contiguous: str, offset: bool
) -> View | None:
    """The tensor as a view, None where one role has no single stride.

    ``groups``: batch, heads, rows, columns. ``contiguous``: "row or column", or "column or none"
    (stride 1 or 0, for masks), or "any". ``offset``: whether it may start behind the first element.
    """
    if not lies_as_shaped(candidate.load.value):
        return None
    place = address(reader, candidate.load)
    if place.const != 0 and not offset:
        return None
    terms = dict(place.terms)
    if set(terms) - {a for g in groups for a in g}:
        return None
    strides: list[Size] = []
    for group in groups:
        stride = group_stride(terms, group)
        if stride is None or (isinstance(stride, int) and stride < 0):  # read backwards: a flip
            return None
        strides.append(stride)
    if contiguous == "row or column":
        strides = _unit_axes(strides, groups)
        if strides[3] != 1 and strides[2] != 1:
            return None
    elif contiguous == "column or none" and strides[3] not in (0, 1):
        return None
    dtype = candidate.load.dtype
    return _view(candidate.load.value, dtype, strides, place.const)


def _unit_axes(strides: list[Size], groups: list[list[Atom]]) -> list[Size]:
    """An axis of length one may have any stride: make columns contiguous."""
    result = list(strides)
    if not groups[3]:
        result[3] = 1
    return result


def _view(value, dtype: str, strides: list[Size], offset: Size) -> View:
    return View(
        value,
        dtype,
        tuple(Extent.of(s) for s in strides),
        Extent.of(offset),  # type: ignore[arg-type]
    )


def best_view(
    reader: Reader,
    options: list[Candidate],
    groups: list[list[Atom]],
    contiguous: str,
    offset: bool = True,
    dtypes: tuple[str, ...] = (),
) -> Found | None:
    """The deepest tensor that can be read in place."""
    for cost, candidate in enumerate(options):
        if dtypes and candidate.load.dtype not in dtypes:
            continue
        view = view_of(reader, candidate, groups, contiguous, offset)
        if view is not None:
            return Found(view, candidate.factor, cost)
    return None


def built_view(reader: Reader, node: Node, groups: list[list[Atom]], dtype: str) -> Found | None:
    """A view of a tensor that emission has to build."""
    try:
        term, strides = make_term(reader, node, groups, dtype)
    except ValueError:
        return None
    found = [group_stride(strides, g) or 0 if g else 0 for g in groups]
    return Found(_view(term, dtype, found, 0), 1.0, 1000)


def head_groups(roles: Roles, rows: list[Atom], columns: list[Atom], kv: bool) -> list[list[Atom]]:
    return [roles.batch, roles.kv_heads if kv else roles.heads, rows, columns]


__all__ = ["Found", "Term", "best_view", "built_view", "head_groups", "view_of"]
