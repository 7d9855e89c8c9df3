"""Guards around probabilities: rows without any finite score, NaN, infinities."""

from __future__ import annotations

import math

from .exponent import LN2, terms_of
from .expr import Apply, Const, Load, Node
from .quotient import RULE, Softmax, check_axes
from .reader import Reader
from .refuse import Refuse, describe
from .unify import Unifier, atoms_of, strip_casts


def is_infinite(reader: Reader, guard: Node, p: Node) -> bool:
    head = strip_casts(reader, guard)
    if not isinstance(head, Apply) or head.name != "cmpf.oeq":
        return False
    for a, b in (head.args, head.args[::-1]):
        constant = strip_casts(reader, b)
        if isinstance(constant, Const) and math.isinf(float(constant.value)):
            return Unifier(reader, set()).same(a, p)
    return False


def is_row_guard(reader: Reader, guard: Node, p: Node) -> bool:
    """Whether a guard speaks of whole rows (NaN, no finite score), not of single elements."""
    inner, _ = _peel_not(reader, guard)
    return (isinstance(inner, Load) and reader.reduction(inner) is not None) or is_nan(
        reader, guard, p
    )


def check_guards(reader: Reader, softmax: Softmax, guards: list[Node], p: Node) -> Softmax:
    for guard in guards:
        if is_nan(reader, guard, p):
            softmax.nan_guard = True
        elif not _all_masked(reader, guard, softmax):
            raise Refuse(
                RULE, "the probabilities are set to zero by a condition", describe(reader, guard)
            )
        softmax.zero_rows = True
    return softmax


def is_nan(reader: Reader, guard: Node, p: Node) -> bool:
    head = strip_casts(reader, guard)
    if not isinstance(head, Apply) or head.name not in ("cmpf.une", "cmpf.uno"):
        return False
    unifier = Unifier(reader, set())
    return unifier.same(head.args[0], p) and unifier.same(head.args[1], p)


def _all_masked(reader: Reader, guard: Node, softmax: Softmax) -> bool:
    """not any(score != -inf), in its spellings."""
    inner, negated = _peel_not(reader, guard)
    if not isinstance(inner, Load):
        return False
    reduce = reader.reduction(inner)
    if reduce is None or reduce.combine != ("or" if negated else "and"):
        return False
    init = strip_casts(reader, reduce.init)
    if not isinstance(init, Const) or bool(init.value) != (not negated):
        return False
    body, body_negated = _peel_not(reader, reduce.body)
    if not isinstance(body, Apply) or body.name not in ("cmpf.oeq", "cmpf.une", "cmpf.ueq"):
        return False
    is_equal = (body.name != "cmpf.une") != body_negated
    if is_equal == negated:
        return False
    unifier = Unifier(reader, atoms_of(reader, reduce.axes))
    for x, y in (body.args, body.args[::-1]):
        infinity = strip_casts(reader, y)
        if isinstance(infinity, Const) and infinity.value == -math.inf:
            mine = softmax.terms
            theirs = terms_of(reader, x, atoms_of(reader, reduce.axes))
            if len(mine) != len(theirs):
                return False
            if not all(
                a[0] == b[0] and unifier.same(_exponent(a[1]), b[1])
                for a, b in zip(mine, theirs, strict=True)
            ):
                return False
            check_axes(reader, unifier, reduce.axes, softmax.keys, "the fully-masked guard")
            return True
    return False


def _exponent(node: Node) -> Node:
    """Without the ln 2 that turns an exponent of 2 into one of e: it is -inf in the same places."""
    if isinstance(node, Apply) and node.name == "mulf" and node.args[1] == LN2:
        return node.args[0]
    return node


def _peel_not(reader: Reader, node: Node) -> tuple[Node, bool]:
    negated = False
    head = strip_casts(reader, node)
    while isinstance(head, Apply):
        if head.name == "not":
            inner = head.args[0]
        elif head.name in ("cmpi.eq", "cmpi.ne") and _is_false(reader, head.args[1]):
            inner = head.args[0]
            if head.name == "cmpi.ne":
                head = strip_casts(reader, inner)
                continue
        elif head.name == "xori" and _is_true(reader, head.args[1]):
            inner = head.args[0]
        else:
            break
        negated = not negated
        head = strip_casts(reader, inner)
    return head, negated


def _is_false(reader: Reader, node: Node) -> bool:
    head = reader.head(node)
    return isinstance(head, Const) and head.value in (False, 0)


def _is_true(reader: Reader, node: Node) -> bool:
    head = reader.head(node)
    return isinstance(head, Const) and head.value is True
