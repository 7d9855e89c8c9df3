"""A floor under the sum of the exponentials, so that nothing is divided by zero.

The largest exponential of a row is 1 where the row's own maximum is subtracted, and so is the sum
at least. A floor of 1 or less changes nothing but rows without any finite score, and neither does
a number that is added to the sum and vanishes beside 1.
"""

from __future__ import annotations

import math

from .empty import empty_row, of_scores
from .exponent import Term, without_base
from .expr import Apply, Const, Load, Node
from .fills import FAR
from .reader import Reader
from .unify import Unifier, strip_casts

_VANISHES = 2.0**-25  # beside a number of 1 or more in f32
_EQUAL = ("cmpf.oeq", "cmpf.ueq")
_LESS = ("cmpf.olt", "cmpf.ole", "cmpf.ult", "cmpf.ule")
_MORE = ("cmpf.ogt", "cmpf.oge", "cmpf.ugt", "cmpf.uge")
_UNEQUAL = ("cmpf.une", "cmpf.one")


def without_floor(reader: Reader, node: Node) -> tuple[Node, str]:
    """(the sum below the floor, the op that is one), or the node itself and nothing."""
    head = strip_casts(reader, node)
    if not isinstance(head, Apply):
        return node, ""
    if head.name in ("maximumf", "maxnumf", "addf"):
        most = _VANISHES if head.name == "addf" else 1.0
        for total, floor in (head.args, head.args[::-1]):
            if 0 < _number(reader, floor) <= most:
                return total, head.name
    if head.name == "select":
        condition, yes, no = head.args
        compare = strip_casts(reader, condition)
        if isinstance(compare, Apply) and len(compare.args) == 2:
            total, bound = compare.args
            for names, kept, number in ((_EQUAL, no, yes), (_UNEQUAL, yes, no),
                                        (_LESS, no, yes), (_MORE, yes, no)):  # fmt: skip
                exact = names in (_EQUAL, _UNEQUAL)
                limit = _number(reader, bound)
                if (
                    compare.name in names
                    and (limit == 0 if exact else 0 <= limit < 1)
                    and 0 < _number(reader, number) < math.inf
                    and Unifier(reader, set()).same(total, kept)
                ):
                    return kept, head.name
    return node, ""


def _number(reader: Reader, node: Node) -> float:
    constant = strip_casts(reader, node)
    return float(constant.value) if isinstance(constant, Const) else math.nan


def floor_matters(reader: Reader, kept: list[Term], dropped: list[Term]) -> bool | None:
    """Whether rows without any finite score become zero by the floor; None where it may change
    other rows."""
    kept, dropped = without_base(kept, dropped)
    if len(dropped) != 1 or not _is_the_maximum(reader, dropped[0][1], kept):
        return None
    empty = empty_row(reader, kept, dropped)
    return None if empty is None else empty == "inf"


def _is_the_maximum(reader: Reader, node: Node, kept: list[Term]) -> bool:
    """The row's largest score wherever that is a number, whatever it is in place of -inf."""
    head = strip_casts(reader, node)
    if isinstance(head, Load):
        reduce = reader.reduction(head)
        if reduce is None or reduce.combine != "max" or not of_scores(reader, reduce, kept):
            return False
        return _number(reader, reduce.init) <= -FAR
    if not isinstance(head, Apply):
        return False
    if head.name in ("maximumf", "maxnumf"):
        return any(
            _is_the_maximum(reader, a, kept) and _number(reader, b) <= -FAR
            for a, b in (head.args, head.args[::-1])
        )
    if head.name == "select":
        condition, yes, no = head.args
        at_zero = _extreme(reader, condition, kept)
        return at_zero is not None and _is_the_maximum(reader, yes if at_zero else no, kept)
    return False


def _extreme(reader: Reader, condition: Node, kept: list[Term]) -> bool | None:
    """Whether a condition on the maximum holds where that is an ordinary number; None where it
    depends on which."""
    head = strip_casts(reader, condition)
    if not isinstance(head, Apply):
        return None
    if head.name == "not":
        inner = _extreme(reader, head.args[0], kept)
        return None if inner is None else not inner
    if head.name[:5] != "cmpf.":
        return None
    maximum, bound = head.args
    inner = strip_casts(reader, maximum)
    if isinstance(inner, Apply) and inner.name == "absf":
        inner = inner.args[0]
    limit = _number(reader, bound)
    if not _is_the_maximum(reader, inner, kept) or not abs(limit) >= FAR:
        return None
    return {"eq": False, "ne": True, "lt": limit > 0, "le": limit > 0, "gt": limit < 0,
            "ge": limit < 0}.get(head.name[-2:])  # fmt: skip
