"""Score expressions: what is done to Q·K before the softmax.

``parse_score`` brings an expression to the one form that kernels compute,

    s = scale * dot;  s = cap * tanh(s / cap);  s += bias;  s = fill where masked;  s += after

composing whatever the source wrote (mul, div, add, sub, neg, tanh, select, casts) in any order.
"""

from __future__ import annotations

import math

from .dots import unlikeness
from .exponent import Term
from .expr import Apply, Const, Load, Node
from .fills import RULE, add_term, lowest_useful, mask_with
from .folding import apply, negate, rounded
from .indicators import condition_of
from .leaves import has_product
from .reader import Reader
from .refuse import Refuse, describe
from .score import Axes, Score, strip_casts_constant
from .unify import Unifier, depends, strip_casts


def score_of_terms(reader: Reader, terms: list[Term], axes: Axes) -> Score:
    """The score that a sum of signed terms is. Raises :class:`Refuse`."""
    scores = [t for t in terms if _is_score(reader, t[1], axes)]
    if not scores:
        raise Refuse(RULE, "the scores are no product of two tensors", _names(reader, terms))
    score, (sign, chosen) = _main_product(reader, scores, axes)
    if sign < 0:
        scale_by(score, -1.0)
    for s, term in terms:
        if term is not chosen:
            add_term(reader, score, term if s > 0 else _negative(term))
    return score


def _main_product(reader: Reader, terms: list[Term], axes: Axes) -> tuple[Score, Term]:
    """The term that is Q·K where scores are a sum of products; the others are read as a bias.

    Relative positions are a second product (Transformer-XL, DeBERTa, Shaw), and so is the part of
    latent attention that carries the rotation. Q·K is the one whose keys are as many as there are
    values; then the longest.
    """
    found: list[tuple[Score, Term]] = []
    first: Refuse | None = None
    for term in terms:
        try:
            found.append((parse_score(reader, term[1], axes), term))
        except Refuse as refuse:
            first = first or refuse
    if not found:
        assert first is not None
        raise first
    if len(found) == 1:
        return found[0]
    return min(found, key=lambda f: unlikeness(reader, f[0].dot, axes))


def _names(reader: Reader, terms: list[Term]) -> str:
    return ", ".join(describe(reader, node) for _, node in terms)


def _negative(node: Node) -> Node:
    return apply("negf", (node,), "f32")


def parse_score(reader: Reader, node: Node, axes: Axes) -> Score:
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
    return rule(reader, head, axes)


def _is_score(reader: Reader, node: Node, axes: Axes) -> bool:
    # with a single key nothing varies with the keys
    return has_product(reader, node) and (not axes.keys or depends(reader, node, axes.keys))


def _one_score(reader: Reader, head: Apply, args: tuple[Node, ...], axes: Axes) -> int:
    """Which of the operands holds the product; there must be one."""
    found = [i for i, a in enumerate(args) if _is_score(reader, a, axes)]
    if len(found) != 1:
        what = "two scores" if found else "no product of two tensors"
        raise Refuse(RULE, f"{what} in one {head.name}", head.name)
    return found[0]


def _cast(reader: Reader, head: Apply, axes: Axes) -> Score:
    score = parse_score(reader, head.args[0], axes)
    if head.name == "truncf":
        score.fill = rounded(score.fill, head.dtype)
        score.bias = [_narrowed(b, head.dtype) for b in score.bias]
        score.after = [_narrowed(b, head.dtype) for b in score.after]
    return score


def _narrowed(node: Node, dtype: str) -> Node:
    return node if getattr(node, "dtype", "") == dtype else apply("truncf", (node,), dtype)


def _mul(reader: Reader, head: Apply, axes: Axes) -> Score:
    side = _one_score(reader, head, head.args, axes)
    score = parse_score(reader, head.args[side], axes)
    factor = strip_casts_constant(reader, head.args[1 - side])
    if not isinstance(factor, Const) and depends(reader, factor, axes.keys):
        keep = condition_of(reader, factor)
        if keep is not None:
            mask_with(reader, score, keep, Const(0.0, "f32"))
            return score
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


def _div(reader: Reader, head: Apply, axes: Axes) -> Score:
    if _one_score(reader, head, head.args, axes) != 0:
        raise Refuse(RULE, "something is divided by the scores", "divf")
    score = parse_score(reader, head.args[0], axes)
    divisor = strip_casts_constant(reader, head.args[1])
    if isinstance(divisor, Const):
        if divisor.value == 0:
            raise Refuse(RULE, "the scores are divided by 0", "divf")
        scale_by(score, 1.0 / float(divisor.value))
    else:
        one = Const(1.0, head.dtype)
        _multiply(score, apply("divf", (one, divisor), head.dtype), head)
    return score


def _neg(reader: Reader, head: Apply, axes: Axes) -> Score:
    score = parse_score(reader, head.args[0], axes)
    scale_by(score, -1.0)
    return score


def _add(reader: Reader, head: Apply, axes: Axes) -> Score:
    signs = (1, 1 if head.name == "addf" else -1)
    return score_of_terms(reader, list(zip(signs, head.args, strict=True)), axes)


def _tanh(reader: Reader, head: Apply, axes: Axes) -> Score:
    score = parse_score(reader, head.args[0], axes)
    if score.cap is not None or score.bias or score.keep or score.after:
        raise Refuse(RULE, "tanh of scores that are masked, biased or capped before", "tanh")
    score.cap = 1.0
    return score


def _select(reader: Reader, head: Apply, axes: Axes) -> Score:
    condition, yes, no = head.args
    if _is_score(reader, condition, axes):
        clamped = _spelled_clamp(reader, condition, yes, no)
        if clamped is not None:
            return _clamp(reader, *clamped, axes)
        raise Refuse(RULE, "the mask depends on the scores: a clamp, threshold or top-k", "select")
    side = _one_score(reader, head, (yes, no), axes)
    score = parse_score(reader, (yes, no)[side], axes)
    keep = condition if side == 0 else negate(condition)
    other = (yes, no)[1 - side]
    mask_with(reader, score, keep, other)
    return score


def _maximum(reader: Reader, head: Apply, axes: Axes) -> Score:
    side = _one_score(reader, head, head.args, axes)
    return _clamp(reader, head.args[side], head.args[1 - side], axes)


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


def _clamp(reader: Reader, node: Node, bound: Node, axes: Axes) -> Score:
    """max(scores, the lowest number): it changes -inf alone."""
    score = parse_score(reader, node, axes)
    constant = strip_casts_constant(reader, bound)
    lowest = float(constant.value) if isinstance(constant, Const) else 0.0
    if lowest > lowest_useful(getattr(node, "dtype", "f32")):
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
