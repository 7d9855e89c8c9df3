"""Score expressions: what is done to Q·K before the softmax.

``parse_score`` brings an expression to the one form that kernels compute,

    s = scale * dot;  s = cap * tanh(s / cap);  s += bias;  s = fill where masked;  s += after

composing whatever the source wrote (mul, div, add, sub, neg, tanh, select, casts) in any order.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from .axes import Lin
from .exponent import Term
from .expr import Apply, Const, Load, Node
from .folding import apply, negate, rounded
from .leaves import has_product
from .reader import Reader
from .refuse import Refuse, describe
from .unify import Unifier, depends, strip_casts

RULE = "scores"
_FAR = 1e30  # adding a score to a value beyond this leaves the value as it is


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
    if lowest > (-6e4 if getattr(node, "dtype", "") == "f16" else -_FAR):
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


# -- terms and masks ------------------------------------------------------------------------------
def add_term(reader: Reader, score: Score, term: Node) -> None:
    """Adds a term without scores: nothing, a mask that is written as a sum, or a bias."""
    constant = strip_casts_constant(reader, term)
    if isinstance(constant, Const) and constant.value == 0:
        return
    head = strip_casts(reader, term)
    inner = strip_casts(reader, head.args[0]) if _is_negation(head) else head
    reduce = reader.reduction(inner) if isinstance(inner, Load) else None
    extremum = reduce is not None and reduce.combine in ("max", "min")
    if reduce is not None and extremum and has_product(reader, reduce.body):
        raise Refuse(RULE, "an extremum of the scores is added at other places than its row")
    if isinstance(head, Apply) and head.name == "addf" and _has_mask(reader, head):
        for a in head.args:
            add_term(reader, score, a)
        return
    if isinstance(head, Apply) and head.name == "select":
        fill = _additive_mask(reader, head, getattr(term, "dtype", "f32"))
        if fill is not None:
            keep, value = fill
            if not score.keep or value == -math.inf:
                mask_with(reader, score, keep, Const(value, "f32"))
                return
    if score.keep and score.fill != -math.inf:
        _fold_bias_into_after(score)
        score.after.append(term)
    else:
        score.bias.append(term)


def _is_negation(node: Node) -> bool:
    return isinstance(node, Apply) and node.name == "negf"


def has_constant_below(reader: Reader, node: Node, limit: float, depth: int = 12) -> bool:
    """Whether a number below the limit is written anywhere in the expression."""
    head = reader.head(node)
    if isinstance(head, Const):
        return isinstance(head.value, float) and -math.inf < head.value < limit
    if isinstance(head, Apply) and depth:
        return any(has_constant_below(reader, a, limit, depth - 1) for a in head.args)
    return False


def _has_mask(reader: Reader, node: Node, depth: int = 4) -> bool:
    head = strip_casts(reader, node)
    if not isinstance(head, Apply) or depth == 0:
        return False
    if head.name == "select":
        return _additive_mask(reader, head, "f32") is not None
    return head.name == "addf" and any(_has_mask(reader, a, depth - 1) for a in head.args)


def _additive_mask(reader: Reader, head: Apply, dtype: str) -> tuple[Node, float] | None:
    """(keep, fill) of select(c, 0, F) where adding a score to F leaves F."""
    condition, yes, no = head.args
    for keep, zero, far in ((condition, yes, no), (negate(condition), no, yes)):
        a, b = strip_casts_constant(reader, zero), strip_casts_constant(reader, far)
        if isinstance(a, Const) and isinstance(b, Const) and a.value == 0:
            value = rounded(float(b.value), dtype)
            if value <= -_FAR or (dtype == "f16" and value <= -6e4):
                return keep, value
    return None


def mask_with(reader: Reader, score: Score, keep: Node, other: Node) -> None:
    """Makes the score ``other`` where ``keep`` does not hold."""
    constant = strip_casts_constant(reader, other)
    value = float(constant.value) if isinstance(constant, Const) else None
    if value is not None and not score.after and not (value != value or value == math.inf):
        if not score.keep:
            score.fill = value
            score.keep = [keep]
            return
        if value == score.fill:
            if not any(Unifier(reader, set()).same(keep, known) for known in score.keep):
                score.keep.append(keep)
            return
    # fill with zero and add what each element gets besides its score
    _fold_bias_into_after(score)
    total = _total(score.after)
    if score.keep:
        total = apply("addf", (total, _where(score.keep, Const(0.0, "f32"), score.fill)), "f32")
    filled = constant if isinstance(constant, Const) else other
    score.after = [apply("select", (keep, total, filled), "f32")]
    score.keep.append(keep)
    score.fill = 0.0


def _total(nodes: list[Node]) -> Node:
    total: Node = Const(0.0, "f32")
    for node in nodes:
        total = apply("addf", (total, node), "f32")
    return total


def _where(keep: list[Node], yes: Node, no: float) -> Node:
    result = yes
    for condition in keep:
        result = apply("select", (condition, result, Const(no, "f32")), "f32")
    return result


def _fold_bias_into_after(score: Score) -> None:
    """One bias can be read, before or after the fill: write the earlier one as a later one."""
    if score.bias:
        bias = _total(score.bias)
        for condition in score.keep:
            bias = apply("select", (condition, bias, Const(0.0, "f32")), "f32")
        score.after.append(bias)
        score.bias = []


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
