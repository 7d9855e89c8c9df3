"""Guards around probabilities: rows without any finite score, NaN, infinities."""

from __future__ import annotations

import math

from .exponent import LN2, Term, terms_of
from .expr import FLOAT_CASTS, Apply, Const, Load, Node, Reduce
from .folding import negate
from .leaves import is_contraction
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
    if isinstance(inner, Load) and reader.reduction(inner) is not None:
        return True
    return _maximum_is_infinite(reader, inner) is not None or is_nan(reader, guard, p)


def check_guards(reader: Reader, softmax: Softmax, guards: list[Node], p: Node) -> Softmax:
    for guard in guards:
        if is_nan(reader, guard, p):
            softmax.nan_guard = True
        elif (masked := _all_masked(reader, guard, softmax)) is None:
            continue
        elif not masked:
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


def _all_masked(reader: Reader, guard: Node, softmax: Softmax) -> bool | None:
    """Whether the guard holds in the rows without any finite score; None where it never holds."""
    found = _holds_everywhere(reader, guard)
    if found is None:
        return False
    reduce, masked = found
    unifier = Unifier(reader, atoms_of(reader, reduce.axes))
    infinite = _is_minus_infinity(reader, masked)
    if infinite is None:
        hidden = _masked_by(reader, softmax.terms, masked, unifier)
    else:
        constant = strip_casts(reader, infinite)
        if isinstance(constant, Const) and constant.value != -math.inf:
            return None  # there is a key, or nothing to be computed
        theirs = terms_of(reader, infinite, atoms_of(reader, reduce.axes))
        hidden = _is_the_scores(reader, softmax.terms, theirs, unifier)
    if hidden:
        check_axes(reader, unifier, reduce.axes, softmax.keys, "the fully-masked guard")
    return hidden


def _holds_everywhere(reader: Reader, guard: Node) -> tuple[Reduce, Node] | None:
    """(reduction, condition) where the guard says that a condition holds all along a row."""
    inner, negated = _peel_not(reader, guard)
    if isinstance(inner, Apply):
        reduce = None if negated else _maximum_is_infinite(reader, inner)
        if reduce is None:
            return None
        return reduce, Apply("cmpf.oeq", (reduce.body, Const(-math.inf, "f32")), "i1")
    reduce = reader.reduction(inner) if isinstance(inner, Load) else None
    if reduce is None or reduce.combine != ("or" if negated else "and"):
        return None
    init = strip_casts(reader, reduce.init)
    if not isinstance(init, Const) or bool(init.value) == negated:
        return None
    return reduce, negate(reduce.body) if negated else reduce.body


def _maximum_is_infinite(reader: Reader, node: Node) -> Reduce | None:
    """The maximum that is compared with -inf."""
    if not isinstance(node, Apply) or node.name != "cmpf.oeq":
        return None
    for a, b in (node.args, node.args[::-1]):
        load, constant = strip_casts(reader, a), strip_casts(reader, b)
        if isinstance(load, Load) and isinstance(constant, Const) and constant.value == -math.inf:
            reduce = reader.reduction(load)
            if reduce is not None and reduce.combine == "max":
                init = strip_casts(reader, reduce.init)
                return reduce if isinstance(init, Const) and init.value == -math.inf else None
    return None


def _is_minus_infinity(reader: Reader, condition: Node) -> Node | None:
    """x where the condition is ``x == -inf``."""
    head, negated = _peel_not(reader, condition)
    wanted = ("cmpf.une", "cmpf.one") if negated else ("cmpf.oeq", "cmpf.ueq")
    if isinstance(head, Apply) and head.name in wanted:
        for x, y in (head.args, head.args[::-1]):
            constant = strip_casts(reader, y)
            if isinstance(constant, Const) and constant.value == -math.inf:
                return x
    return None


def _is_the_scores(reader: Reader, mine: list[Term], theirs: list[Term], unifier: Unifier) -> bool:
    """Whether both are infinite together: the scores, or all that is added to Q·K."""
    left = list(mine)
    for sign, node in theirs:
        for i, (s, other) in enumerate(left):
            saved = dict(unifier.binding)
            other = _exponent(other)
            alike = s == sign and _roundings(reader, other) == _roundings(reader, node)
            if alike and unifier.same(other, node):
                del left[i]
                break
            unifier.binding = saved
        else:
            return False
    return len(left) < len(mine) and all(_is_finite(reader, node) for _, node in left)


def _roundings(reader: Reader, node: Node) -> list[str]:
    """The types that a number is rounded to before it is used: -1e9 is -inf in f16."""
    found = []
    while True:
        node = reader.head(node)
        if not (isinstance(node, Apply) and node.name in FLOAT_CASTS):
            return found
        if node.name == "truncf":
            found.append(node.dtype)
        node = node.args[0]


def _masked_by(reader: Reader, mine: list[Term], masked: Node, unifier: Unifier) -> bool:
    """Whether the scores are ``select(masked, -inf, a finite score)``."""
    finite = [t for t in mine if _is_finite(reader, t[1])]
    if len(mine) != len(finite) + 1:
        return False
    ((sign, node),) = (t for t in mine if t not in finite)
    head = strip_casts(reader, node)
    if sign < 0 or not isinstance(head, Apply) or head.name != "select":
        return False
    condition, yes, no = head.args
    for drop, filled, score in ((condition, yes, no), (negate(condition), no, yes)):
        constant = strip_casts(reader, filled)
        if isinstance(constant, Const) and constant.value == -math.inf:
            (a, left), (b, right) = _peel_not(reader, drop), _peel_not(reader, masked)
            return left == right and unifier.same(a, b) and _is_finite(reader, score)
    return False


def _is_finite(reader: Reader, node: Node) -> bool:
    """Nothing but a product and what keeps numbers finite: no mask, no bias."""
    head = strip_casts(reader, node)
    if isinstance(head, Const):
        return math.isfinite(head.value)
    if isinstance(head, Load):
        op = reader.producer(head.value)
        return op is not None and is_contraction(reader, op)
    finite = ("mulf", "negf", "tanh", "divf", "addf", "subf")
    if not isinstance(head, Apply) or head.name not in finite:
        return False
    return all(_is_finite(reader, a) for a in head.args)


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
