"""The log-sum-exp of the scores as one more result.

A tensor outside that is ``log(sum(exp(s)))`` of the very scores of the site, in whatever spelling,
would make stock code compute the scores again. The kernel has the row's maximum and sum and writes
it, provided that the tensor is dense over (batch, head, query). Where the proof fails, the tensor
stays with stock code: the site is served all the same.
"""

from __future__ import annotations

import math

from iree.compiler import ir

from ..site import AttentionSite, View
from .assemble import Attempt
from .attention_op import NAMES
from .axes import ZERO, Lin, Size, dense_length, times
from .empty import empty_row
from .exponent import Term, exponent, is_zero, same_terms, terms_of
from .expr import Apply, Const, Load, Node, Reduce
from .flex_lse import match_flex_lse
from .leaves import products_of
from .operands import Candidate
from .place import move_anchor
from .product import Product
from .quotient import check_axes
from .reader import Reader
from .refuse import Refuse
from .roles import extent_of
from .rowmax import drop_row_maxima
from .shared import Shared
from .unify import Unifier, atoms_of, strip_casts
from .views import view_of
from .walk import elementwise_results

_ELEMENTS = ("f32", "f16", "bf16")


def find_lse(reader: Reader, product: Product, target: ir.Value, attempt: Attempt) -> None:
    """Sets the site's LSE where a tensor of its block holds it and the kernel can bring it."""
    op = reader.producer(target)
    assert op is not None
    below = product.softmax.row_sums or product.score.dot
    if not isinstance(below, Load):  # the attention op: its scores are no tensor
        return
    for log in reader.shared.logs_over(below.value):
        if log.block != op.block:
            continue
        for value in elementwise_results(log, reader.shared):
            found = _match(reader, product, value, attempt)
            if found is None:
                continue
            view, empty = found
            if move_anchor(reader, attempt.site, target, view.value):
                attempt.site.lse, attempt.site.lse_empty = view, empty  # type: ignore[assignment]
                return
            break


def learn_logs(shared: Shared) -> None:
    """Notes which logarithms have to do with which scores, so that a site looks at its own only."""
    for log in shared.index.logs:
        reader = Reader(shared)
        for result in log.results:
            if not isinstance(result.type, ir.RankedTensorType):
                continue
            for product in _products_under(reader, reader.load(result, reader.axes_of(result)), 8):
                shared.logs.setdefault(product, []).append(log)


def _products_under(reader: Reader, node: Node, depth: int) -> set[ir.Value]:
    """The products of two tensors in the scores that are summed up below the node, or the row sums
    of an online attention op."""
    head = strip_casts(reader, node)
    if isinstance(head, Apply) and depth:
        return set().union(*(_products_under(reader, a, depth - 1) for a in head.args))
    reduce = reader.reduction(head) if isinstance(head, Load) else None
    if isinstance(head, Load) and reduce is None:
        op = reader.producer(head.value)
        return {head.value} if op is not None and op.name == NAMES[1] else set()
    if reduce is None or reduce.combine != "add":
        return set()
    return {found.value for found in products_of(reader, reduce.body)}


def _match(
    reader: Reader, product: Product, value: ir.Value, attempt: Attempt
) -> tuple[View, str] | None:
    """(view, "inf" or "nan") where the tensor is the LSE of the site's scores."""
    if reader.shared.element(value) not in _ELEMENTS:
        return None
    roots = reader.axes_of(value)
    if product.softmax.row_sums is not None:
        online = match_flex_lse(reader, value, roots, product.softmax.row_sums)
        view = None if online is None else _dense(reader, value, roots, online, attempt)
        return None if view is None else (view, "inf")
    parts = _log_of_sum(reader, reader.load(value, roots))
    if parts is None:
        return None
    others, reduce = parts
    summed = atoms_of(reader, reduce.axes)
    terms = exponent(reader, reduce.body, summed)
    if terms is None:
        return None
    kept, maxima, joined = drop_row_maxima(reader, terms, summed)
    if joined:
        return None
    rest = _without(reader, others, maxima)
    if rest is None:
        return None
    unifier = Unifier(reader, atoms_of(reader, roots) | summed)
    kept += rest
    if not same_terms(unifier, product.softmax.terms, kept):
        return None
    try:
        check_axes(reader, unifier, reduce.axes, product.softmax.keys, "logsumexp")
    except Refuse:
        return None
    view = _dense(reader, value, roots, unifier, attempt)
    empty = empty_row(reader, kept, maxima)
    if view is None or empty is None:
        return None
    if not maxima and _may_underflow(attempt.site, product.softmax.stable):
        return None
    return view, empty


def _log_of_sum(reader: Reader, node: Node) -> tuple[list[Term], Reduce] | None:
    """(terms beside the logarithm, the sum under it)."""
    terms = terms_of(reader, node, set())
    for position, (sign, term) in enumerate(terms):
        total = _logarithm(reader, term)
        if sign != 1 or total is None:
            continue
        total = strip_casts(reader, total)
        if isinstance(total, Apply) and total.name == "absf":  # jax: a sum of exponentials anyway
            total = strip_casts(reader, total.args[0])
        if not isinstance(total, Load):
            return None
        reduce = reader.reduction(total)
        if reduce is None or reduce.combine != "add" or not is_zero(reader, reduce.init):
            return None
        return terms[:position] + terms[position + 1 :], reduce
    return None


def _logarithm(reader: Reader, node: Node) -> Node | None:
    """x where the node is log(x), or log2(x) times log 2."""
    head = strip_casts(reader, node)
    if not isinstance(head, Apply):
        return None
    if head.name == "log":
        return head.args[0]
    if head.name == "mulf":
        for a, b in (head.args, head.args[::-1]):
            log, factor = strip_casts(reader, a), strip_casts(reader, b)
            is_log2 = isinstance(log, Apply) and log.name == "log2" and isinstance(factor, Const)
            if is_log2 and abs(float(factor.value) - math.log(2.0)) < 1e-7:
                return log.args[0]
    return None


def _without(reader: Reader, terms: list[Term], maxima: list[Term]) -> list[Term] | None:
    """The terms less the row maxima, each of which has to come back outside of the logarithm."""
    left = list(terms)
    for _, maximum in maxima:  # subtracted, all of them
        for i, (sign, term) in enumerate(left):
            if sign == 1 and Unifier(reader, set()).same(maximum, term):
                del left[i]
                break
        else:
            return None
    return left


def _dense(
    reader: Reader, value: ir.Value, roots: list[Lin], unifier: Unifier, attempt: Attempt
) -> View | None:
    """The tensor as a view over the site's axes, if it is dense and holds each row once."""
    coords = []
    for root, n in zip(roots, reader.sizes.shape(value), strict=True):
        form = ZERO if n == 1 else unifier.bound_form(root)
        if form is None or (n != 1 and dense_length(form) != n):
            return None
        coords.append(form)
    roles = attempt.roles
    groups = [roles.batch, roles.heads, roles.query, []]
    view = view_of(reader, Candidate(reader.load(value, coords)), groups, "any", offset=False)
    stride: Size = 1
    for position in (2, 1, 0):
        if view is None or (groups[position] and view.strides[position] != stride):
            return None
        stride = times(stride, extent_of(groups[position]))
    return view


def _may_underflow(site: AttentionSite, stable: bool) -> bool:
    """Whether a row of low scores has an LSE here but -inf in a source that subtracts no maximum.

    Where the softmax subtracts none either, raising has made low fills -inf."""
    masked = site.mask is not None or not site.band.open
    return stable and (site.bias is not None or (masked and site.fill != -math.inf))
