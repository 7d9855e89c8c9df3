"""Rows whose scores are all -inf: what is subtracted from them."""

from __future__ import annotations

import math

from .exponent import Term, same_terms, terms_of
from .expr import Apply, Const, Load, Node, Reduce
from .folding import apply
from .reader import Reader
from .unify import Unifier, atoms_of, strip_casts


def empty_row(reader: Reader, kept: list[Term], maxima: list[Term]) -> str | None:
    """What the source gives for a row whose scores are all -inf; None where that is open."""
    total = 0.0
    for _, maximum in maxima:
        low = _folded(reader, maximum, kept)
        if not isinstance(low, Const):
            return None
        total += float(low.value)
    # exp(-inf - total) is 0, and so -inf the logarithm of the sum, but for a total of -inf
    return "nan" if math.isnan(-math.inf - total) else "inf"


def _folded(reader: Reader, node: Node, kept: list[Term]) -> Node | None:
    """A row maximum, with guards, of a row whose scores are all -inf."""
    head = strip_casts(reader, node)
    if isinstance(head, Const):
        return head
    if isinstance(head, Apply):
        arguments = [_folded(reader, a, kept) for a in head.args]
        if any(not isinstance(a, Const) for a in arguments):
            return None
        return apply(head.name, tuple(arguments), head.dtype)  # type: ignore[arg-type]
    if isinstance(head, Load):
        reduce = reader.reduction(head)
        init = None if reduce is None else strip_casts(reader, reduce.init)
        if reduce is not None and isinstance(init, Const) and of_scores(reader, reduce, kept):
            return init  # max(init, -inf)
    return None


def of_scores(reader: Reader, reduce: Reduce, kept: list[Term]) -> bool:
    """Whether the maximum is that of the scores as they are under the exponential."""
    axes = atoms_of(reader, reduce.axes)
    return same_terms(Unifier(reader, axes), kept, terms_of(reader, reduce.body, axes))
