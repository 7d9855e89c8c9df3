"""What is added to scores and what masks them, kept in the one order that kernels have."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

import numpy as np

from .constants import Constants, NotConstant
from .expr import Apply, Const, Load, Node
from .folding import apply, negate, rounded
from .indicators import as_select
from .leaves import has_product
from .reader import Reader
from .refuse import Refuse
from .score import Score, strip_casts_constant
from .unify import Unifier, strip_casts

RULE = "scores"
FAR = 1e30  # adding a score to a value beyond this leaves the value as it is


def lowest_useful(dtype: str) -> float:
    """A score that was filled with this or less cannot be told from the fill."""
    return -6e4 if dtype == "f16" else -FAR


def add_term(reader: Reader, score: Score, term: Node) -> None:
    """Adds a term without scores: nothing, a mask that is written as a sum, or a bias."""
    constant = strip_casts_constant(reader, term)
    if isinstance(constant, Const) and constant.value == 0:
        return
    head = strip_casts(reader, term)
    if _holds_extremum(reader, head):
        raise Refuse(RULE, "an extremum of the scores is added at other places than its row")
    if isinstance(head, Apply) and head.name == "addf" and _has_mask(reader, head):
        for a in head.args:
            add_term(reader, score, a)
        return
    either = as_select(reader, head)
    if either is not None:
        dtype = getattr(term, "dtype", "f32")
        fill = _additive_mask(reader, either, dtype)
        if fill is not None:
            keep, value = fill
            if not score.keep and math.isfinite(value) and _may_be_far(reader, score.bias):
                # The score is lost in the fill, the bias may not be.
                score.keep, score.fill = [keep], value
                score.after, score.bias = score.bias, []
                return
            if not score.keep or value == -math.inf:
                mask_with(reader, score, keep, Const(value, "f32"))
                return
        if _moves_the_fill(reader, score, either, dtype):
            return
    if score.keep and score.fill != -math.inf:
        _fold_bias_into_after(score)
        score.after.append(term)
    else:
        score.bias.append(term)


def _may_be_far(reader: Reader, nodes: list[Node]) -> bool:
    """Whether a bias may have numbers that show beside those of a mask: it is written with some,
    or an input of the program, of which nothing is known."""
    return any(
        has_constant(reader, node, lambda n: abs(n) >= FAR) or _reads_inputs(reader, node)
        for node in nodes
    )


def _reads_inputs(reader: Reader, node: Node, depth: int = 12) -> bool:
    head = strip_casts(reader, node)
    if isinstance(head, Apply):
        return depth == 0 or any(_reads_inputs(reader, a, depth - 1) for a in head.args)
    if not isinstance(head, Load):
        return False
    op = reader.producer(head.value)
    return op is None or op.name == "hal.tensor.import"


def _moves_the_fill(reader: Reader, score: Score, either: Apply, dtype: str) -> bool:
    """``s * mask - 1e4 * (1 - mask)``: what is added where the scores are filled already."""
    if len(score.keep) != 1 or score.after or not math.isfinite(score.fill):
        return False
    condition, yes, no = either.args
    for keep, kept, filled in ((condition, yes, no), (negate(condition), no, yes)):
        if isinstance(kept, Const) and kept.value == 0 and isinstance(filled, Const):
            value = rounded(score.fill + float(filled.value), dtype)
            same = Unifier(reader, set()).same(keep, score.keep[0])
            if same and not math.isnan(value) and value != math.inf:
                score.fill = value
                return True
    return False


def _holds_extremum(reader: Reader, node: Node, depth: int = 8) -> bool:
    """Whether an extremum of scores is part of the expression."""
    head = strip_casts(reader, node)
    if isinstance(head, Apply):
        return depth > 0 and any(_holds_extremum(reader, a, depth - 1) for a in head.args)
    reduce = reader.reduction(head) if isinstance(head, Load) else None
    return (
        reduce is not None and reduce.combine in ("max", "min") and has_product(reader, reduce.body)
    )


def has_constant(reader: Reader, node: Node, wanted: Callable[[float], bool]) -> bool:
    """Whether such a number is among :func:`constants_in` the expression."""
    return any(wanted(n) for n in constants_in(reader, node))


def constants_in(reader: Reader, node: Node, depth: int = 12) -> Iterator[float]:
    """The floats written anywhere in the expression, constant tensors included.

    Of a tensor its smallest and largest finite numbers and infinities.
    """
    head = reader.head(node)
    if isinstance(head, Const) and isinstance(head.value, float):
        yield head.value
    elif isinstance(head, Load):
        try:
            array = Constants(reader).of_value(head.value)
        except NotConstant:
            return
        if array.dtype.kind == "f":
            yield from (float(n) for n in _extremes(array))
    elif isinstance(head, Apply) and depth:
        for a in head.args:
            yield from constants_in(reader, a, depth - 1)


def _extremes(array: np.ndarray) -> list[float]:
    finite = array[np.isfinite(array)]
    ends = [finite.min(), finite.max()] if finite.size else []
    return [*ends, *(n for n in (-math.inf, math.inf) if (array == n).any())]


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
            if value <= lowest_useful(dtype):
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
