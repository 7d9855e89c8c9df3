"""Masks: conditions under which a score stays, read as a band, as nothing, or as a tensor.

A condition is cut into conjuncts. Comparisons of positions that bound ``key - query`` become the
band; conjuncts that always hold vanish; constant tensors are looked at element by element and are
a band where they equal one exactly. What is left is one boolean tensor to read, or to build.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from ..extent import Extent
from .axes import Atom, Lin, Size, dense_length, plus, times
from .constants import NotConstant, evaluate
from .expr import Apply, Const, Load, Node
from .folding import as_lin, negate
from .reader import Reader
from .unify import node_atoms

_INVERSE = {
    "eq": "ne", "ne": "eq", "lt": "ge", "ge": "lt", "gt": "le", "le": "gt",
}  # fmt: skip


@dataclass
class Mask:
    lo: Size | None = None
    hi: Size | None = None
    rest: list[Node] = field(default_factory=list)  # conjuncts that need a tensor
    drops: bool = False  # the one tensor in ``rest`` is true where an element is excluded
    empty: bool = False  # no element stays

    def bound(self, lo: Size | None, hi: Size | None) -> bool:
        """Tightens the band; False where two run-time bounds cannot be compared."""
        for name, new, sign in (("lo", lo, 1), ("hi", hi, -1)):
            have = getattr(self, name)
            if new is None:
                continue
            if have is None or have == new:
                setattr(self, name, new)
                continue
            difference = plus(new, times(have, -1))
            if not isinstance(difference, int):
                return False
            if difference * sign > 0:
                setattr(self, name, new)
        return True


def conjuncts(reader: Reader, node: Node, negated: bool = False) -> list[Node]:
    """The conditions that all must hold, with negations pushed down to comparisons and tensors."""
    head = reader.head(node)
    if isinstance(head, Const):
        holds = bool(head.value) != negated
        return [] if holds else [Const(False, "i1")]
    if isinstance(head, Apply):
        if head.name == "not":
            return conjuncts(reader, head.args[0], not negated)
        if head.name in ("cmpi.eq", "cmpi.ne"):
            inner = _boolean_compare(reader, head)
            if inner is not None:
                return conjuncts(reader, inner[0], negated != inner[1])
        if head.name == ("ori" if negated else "andi"):
            return [c for a in head.args for c in conjuncts(reader, a, negated)]
        if head.name == "xori":
            for a, b in (head.args, head.args[::-1]):
                constant = reader.head(b)
                if isinstance(constant, Const):
                    return conjuncts(reader, a, negated != bool(constant.value))
        if head.name == "select":
            # select(c, a, false) is c and a; select(c, true, b) is c or b
            condition, yes, no = (reader.head(a) for a in head.args)
            if isinstance(no, Const) and not no.value and not negated:
                return conjuncts(reader, condition) + conjuncts(reader, yes)
            if isinstance(yes, Const) and yes.value and negated:
                return conjuncts(reader, condition, True) + conjuncts(reader, no, True)
    return [negate(node) if negated else node]


def _boolean_compare(reader: Reader, head: Apply) -> tuple[Node, bool] | None:
    """(i1 expression, negated) where a comparison only asks whether a boolean is set."""
    for a, b in (head.args, head.args[::-1]):
        constant = reader.head(b)
        if not isinstance(constant, Const) or constant.value not in (0, 1, -1, True, False):
            continue
        inner = reader.head(a)
        signed = False
        while isinstance(inner, Apply) and inner.name in ("extui", "extsi", "trunci"):
            signed = signed or inner.name == "extsi"
            inner = reader.head(inner.args[0])
        if getattr(inner, "dtype", "") != "i1":
            return None
        usual = constant.value in (0, False) or int(constant.value) == (-1 if signed else 1)
        if not usual and a.dtype != "i1":  # type: ignore[attr-defined]
            return None
        wants = bool(constant.value) == (head.name == "cmpi.eq")
        return inner, not wants
    return None


def read_mask(
    reader: Reader, keep: list[Node], key: Lin, query: Lin, grid: tuple[list[Atom], list[Atom]]
) -> Mask:
    """The mask that the conditions are, for these key and query coordinates.

    ``grid`` holds the atoms of the query and of the key, outermost first.
    """
    mask = Mask()
    for condition in keep:
        for node in conjuncts(reader, condition):
            _read_one(reader, mask, node, key, query, grid)
    if len(mask.rest) == 1:
        node = mask.rest[0]
        if isinstance(node, Apply) and node.name == "not":
            mask.rest = [node.args[0]]
            mask.drops = True
    return mask


def _read_one(reader: Reader, mask: Mask, node: Node, key: Lin, query: Lin, grid: tuple) -> None:
    bounds = _affine_bounds(reader, node, key, query)
    if bounds is not None:
        if bounds == "always":
            return
        if mask.bound(*bounds):  # type: ignore[misc]
            return
    try:
        found = _constant_mask(reader, node, grid)
    except NotConstant:
        mask.rest.append(node)
        return
    if found is None:
        mask.rest.append(node)
        return
    lo, hi, always = found
    if not always and not mask.bound(lo, hi):
        mask.rest.append(node)


# -- comparisons of positions ---------------------------------------------------------------------
def _comparison(reader: Reader, node: Node) -> tuple[str, Lin, Lin] | None:
    negated = False
    head = reader.head(node)
    while isinstance(head, Apply) and head.name == "not":
        negated = not negated
        head = reader.head(head.args[0])
    if not isinstance(head, Apply) or not head.name.startswith("cmpi."):
        return None
    a, b = (position(reader, x) for x in head.args)
    if a is None or b is None:
        return None
    predicate = head.name[5:]
    if predicate[0] == "u" and not (_not_negative(a) and _not_negative(b)):
        return None
    predicate = predicate[-2:]
    return (_INVERSE[predicate] if negated else predicate), a, b


def position(reader: Reader, node: Node) -> Lin | None:
    """An integer expression as a linear form, opened through arithmetic and casts."""
    head = reader.head(node)
    if isinstance(head, Apply):
        if head.name in ("addi", "subi", "muli", "index_cast", "index_castui", "extsi", "extui",
                         "trunci"):  # fmt: skip
            from .expr import Position
            from .folding import apply

            forms = [position(reader, a) for a in head.args]
            if any(f is None for f in forms):
                return None
            node = apply(
                head.name, tuple(Position(f, head.dtype) for f in forms if f is not None),
                head.dtype,
            )  # fmt: skip
            return as_lin(node)
        return None
    lin = as_lin(head)
    return None if lin is None else reader.space.resolve(lin)


def _not_negative(lin: Lin) -> bool:
    coefficients = [c for _, c in lin.terms] + [lin.const]
    return all(
        c >= 0 if isinstance(c, int) else all(k >= 0 for k in c.terms.values())
        for c in coefficients
    )


def _affine_bounds(reader: Reader, node: Node, key: Lin, query: Lin):
    """("always", or (lo, hi)) of one comparison of positions; None where it is another thing."""
    found = _comparison(reader, node)
    if found is None:
        return None
    predicate, a, b = found
    difference = reader.space.resolve(a.add(b, -1))
    # forms whose being <= 0 is the condition
    forms = {
        "le": [difference],
        "lt": [difference.add(Lin((), 1))],
        "ge": [difference.scaled(-1)],
        "gt": [difference.scaled(-1).add(Lin((), 1))],
        "eq": [difference, difference.scaled(-1)],
    }.get(predicate)
    if forms is None:
        return None
    lo: Size | None = None
    hi: Size | None = None
    always = True
    for form in forms:
        if _always_at_most_zero(form):
            continue
        always = False
        ahead = form.add(key, -1).add(query)
        behind = form.add(query, -1).add(key)
        if not ahead.terms:
            hi = times(ahead.const, -1)
        elif not behind.terms:
            lo = behind.const
        else:
            return None
    return "always" if always else (lo, hi)


def _always_at_most_zero(form: Lin) -> bool:
    top: Size = form.const
    for atom, c in form.terms:
        negative = c < 0 if isinstance(c, int) else all(k < 0 for k in c.terms.values())
        if not negative:
            top = plus(top, times(c, plus(atom.extent, -1)))
    if isinstance(top, int):
        return top <= 0
    # sizes are at least 1 wherever an element is read
    total = top.evaluate(lambda _s: 1)
    return total <= 0 and all(c < 0 for k, c in top.terms.items() if k)


# -- constant tensors -----------------------------------------------------------------------------
def _constant_mask(
    reader: Reader, node: Node, grid: tuple[list[Atom], list[Atom]]
) -> tuple[int | None, int | None, bool] | None:
    """(lo, hi, always true) of a condition known at compile time, None where it is no band."""
    queries, keys = grid
    used = node_atoms(reader, node)
    others = [a for a in used if a not in queries and a not in keys]
    values = evaluate(reader, node, [*others, *queries, *keys]).astype(bool)
    shape = [a.extent for a in [*others, *queries, *keys]]
    if values.all():
        return None, None, True
    values = np.broadcast_to(values, shape)
    rows = int(np.prod([a.extent for a in queries], dtype=np.int64)) if queries else 1
    columns = int(np.prod([a.extent for a in keys], dtype=np.int64)) if keys else 1
    values = values.reshape(-1, rows, columns)
    if not (values == values[:1]).all():
        return None
    return _as_band(values[0])


def _as_band(values: np.ndarray) -> tuple[int | None, int | None, bool] | None:
    rows, columns = values.shape
    first, last = -(rows - 1), columns - 1
    inside = []
    for d in range(first, last + 1):
        diagonal = np.diagonal(values, d)
        if diagonal.all():
            inside.append(d)
        elif diagonal.any():
            return None
    if not inside or inside != list(range(inside[0], inside[-1] + 1)):
        return None
    lo = None if inside[0] == first else inside[0]
    hi = None if inside[-1] == last else inside[-1]
    return lo, hi, False


def extent_of(value: Size | None) -> Extent | None:
    return None if value is None else Extent.of(value)


__all__ = ["Load", "Mask", "dense_length", "extent_of", "read_mask"]
