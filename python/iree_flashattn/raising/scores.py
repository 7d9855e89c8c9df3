"""Score expressions: what is done to Q·K before the softmax.

``parse_score`` brings an expression to the one form that kernels compute,

    s = scale * dot;  s = cap * tanh(s / cap);  s += bias;  s = fill where masked;  s += after

composing whatever the source wrote (mul, div, add, sub, neg, tanh, select, casts) in any order.
"""

from __future__ import annotations

import math

from .axes import Lin
from .exponent import Term
from .expr import Apply, Const, Load, Node
from .fills import FAR, RULE, add_term, mask_with
from .folding import apply, negate, rounded
from .leaves import has_product
from .reader import Reader
from .refuse import Refuse, describe
from .score import Score, strip_casts_constant
from .unify import Unifier, depends, strip_casts


def score_of_terms(reader: Reader, terms: list[Term], keys: set) -> Score:
    """The score that a sum of signed terms is. Raises :class:`Refuse`."""
    first: Refuse | None = None
    for position, (sign, node) in enumerate(terms):
        if not _is_score(reader, node, keys):
            continue
        try:
            score = parse_score(reader, node, keys)
        except Refuse as refuse:
            first = first or refuse
            continue
        if sign < 0:
            scale_by(score, -1.0)
        for other, (s, term) in enumerate(terms):
            if other != position:
                add_term(reader, score, term if s > 0 else _negative(term))
        return score
    raise first or Refuse(RULE, "the scores are no product of two tensors", _names(reader, terms))


def _names(reader: Reader, terms: list[Term]) -> str:
    return ", ".join(describe(reader, node) for _, node in terms)


def _negative(node: Node) -> Node:
    return apply("negf", (node,), "f32")


def parse_score(reader: Reader, node: Node, keys: set) -> Score:
    """The score that a node with the product in it is."""
    head = reader.head(node)
    if isinstance(head, Load):
        if has_product(reader, head):
            return Score(head)
        raise Refuse(RULE, "the scores are no product of two tensors", describe(reader, head))
    if not isinstance(head, Apply):
        raise Refuse(RULE, "the scores are no product of two tensors", describe(reader, head))
    if head.name == "scaled_dot":
        return Score(head)
    rule = _RULES.get(head.name)
    if rule is None:
        raise Refuse(
            RULE, f"the scores go through {head.name}, which no kernel computes", head.name
        )
    return rule(reader, head, keys)


def _is_score(reader: Reader, node: Node, keys: set) -> bool:
    # with a single key nothing varies with the keys
    return has_product(reader, node) and (not keys or depends(reader, node, keys))


def _one_score(reader: Reader, head: Apply, args: tuple[Node, ...], keys: set) -> int:
    """Which of the operands holds the product; there must be one."""
    found = [i for i, a in enumerate(args) if _is_score(reader, a, keys)]
    if len(found) != 1:
        what = "two products of scores" if found else "no product of two tensors"
        raise Refuse(RULE, f"{what} in one {head.name}", head.name)
    return found[0]


def _cast(reader: Reader, head: Apply, keys: set) -> Score:
    score = parse_score(reader, head.args[0], keys)
    if head.name == "truncf":
        score.fill = rounded(score.fill, head.dtype)
        score.bias = [_narrowed(b, head.dtype) for b in score.bias]
        score.after = [_narrowed(b, head.dtype) for b in score.after]
    return score


def _narrowed(node: Node, dtype: str) -> Node:
    return node if getattr(node, "dtype", "") == dtype else apply("truncf", (node,), dtype)


def _mul(reader: Reader, head: Apply, keys: set) -> Score:
    side = _one_score(reader, head, head.args, keys)
    score = parse_score(reader, head.args[side], keys)
    factor = strip_casts_constant(reader, head.args[1 - side])
    _multiply(score, factor, head)
    return score


def _multiply(score: Score, factor: Node, head: Apply) -> None:
    if isinstance(factor, Const):
        scale_by(score, float(factor.value))
    elif score.cap is None and not (score.bias or score.keep or score.after):
        score.factors.append(factor)
    else:
        raise Refuse(RULE, "masked or capped scores are scaled at run time", head.name)


def scale_by(score: Score, c: float) -> None:
    """Multiplies the whole score by a constant."""
    if not math.isfinite(c) or c == 0:
        raise Refuse(RULE, f"the scores are multiplied by {c}")
    if score.keep:
        if c < 0 and math.isinf(score.fill):
            raise Refuse(RULE, "masked scores are negated")
        score.fill = rounded(score.fill * c, "f32")  # may become infinite, as in the source
    constant = Const(c, "f32")
    score.bias = [apply("mulf", (b, constant), "f32") for b in score.bias]
    score.after = [apply("mulf", (b, constant), "f32") for b in score.after]
    if score.cap is None:
        score.scale *= c
    else:
        score.cap *= c


def _div(reader: Reader, head: Apply, keys: set) -> Score:
    if _one_score(reader, head, head.args, keys) != 0:
        raise Refuse(RULE, "something is divided by the scores", "divf")
    score = parse_score(reader, head.args[0], keys)
    divisor = strip_casts_constant(reader, head.args[1])
    if isinstance(divisor, Const):
        if divisor.value == 0:
            raise Refuse(RULE, "the scores are divided by 0", "divf")
        scale_by(score, 1.0 / float(divisor.value))
    else:
        one = Const(1.0, head.dtype)
        _multiply(score, apply("divf", (one, divisor), head.dtype), head)
    return score


def _neg(reader: Reader, head: Apply, keys: set) -> Score:
    score = parse_score(reader, head.args[0], keys)
    scale_by(score, -1.0)
    return score


def _add(reader: Reader, head: Apply, keys: set) -> Score:
    side = _one_score(reader, head, head.args, keys)
    score = parse_score(reader, head.args[side], keys)
    term = head.args[1 - side]
    if head.name == "subf":
        if side == 1:
            scale_by(score, -1.0)
        else:
            term = _negative(term)
    add_term(reader, score, term)
    return score


def _tanh(reader: Reader, head: Apply, keys: set) -> Score:
    score = parse_score(reader, head.args[0], keys)
    if score.cap is not None or score.bias or score.keep or score.after:
        raise Refuse(RULE, "tanh of scores that are masked, biased or capped before", "tanh")
    score.cap = 1.0
    return score


def _select(reader: Reader, head: Apply, keys: set) -> Score:
    condition, yes, no = head.args
    if _is_score(reader, condition, keys):
        clamped = _spelled_clamp(reader, condition, yes, no)
        if clamped is not None:
            return _clamp(reader, *clamped, keys)
        raise Refuse(RULE, "the mask depends on the scores", "select")
    side = _one_score(reader, head, (yes, no), keys)
    score = parse_score(reader, (yes, no)[side], keys)
    keep = condition if side == 0 else negate(condition)
    other = (yes, no)[1 - side]
    mask_with(reader, score, keep, other)
    return score


def _maximum(reader: Reader, head: Apply, keys: set) -> Score:
    side = _one_score(reader, head, head.args, keys)
    return _clamp(reader, head.args[side], head.args[1 - side], keys)


def _spelled_clamp(
    reader: Reader, condition: Node, yes: Node, no: Node
) -> tuple[Node, Node] | None:
    """(x, c) of select(x > c, x, c)."""
    compare = strip_casts(reader, condition)
    if not isinstance(compare, Apply) or compare.name not in ("cmpf.ogt", "cmpf.oge", "cmpf.ugt"):
        return None
    unifier = Unifier(reader, set())
    left, right = compare.args
    return (yes, no) if unifier.same(left, yes) and unifier.same(right, no) else None


def _clamp(reader: Reader, node: Node, bound: Node, keys: set) -> Score:
    """max(scores, the lowest number): it changes -inf alone."""
    score = parse_score(reader, node, keys)
    constant = strip_casts_constant(reader, bound)
    lowest = float(constant.value) if isinstance(constant, Const) else 0.0
    if lowest > (-6e4 if getattr(node, "dtype", "") == "f16" else -FAR):
        raise Refuse(RULE, "the scores are clamped from below", "maximumf")
    if score.bias or score.after:
        raise Refuse(RULE, "scores with a bias are clamped from below", "maximumf")
    score.fill = max(score.fill, lowest)
    return score


_RULES = {
    "truncf": _cast, "extf": _cast, "mulf": _mul, "divf": _div, "negf": _neg,
    "addf": _add, "subf": _add, "tanh": _tanh, "select": _select,
    "maximumf": _maximum, "maxnumf": _maximum,
}  # fmt: skip


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
