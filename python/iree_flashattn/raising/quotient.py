"""Quotients ``exp(A) / sum(exp(A))``: the same exponentials above and below, over all keys.

What is subtracted from A and does not vary over the keys cancels; row maxima are dropped because
they are finite wherever a score of their row is. A term beside the sum is an attention sink.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from .axes import Lin, dense_length
from .columns import split_last_column
from .exponent import Term, exponent, is_zero, same_terms, terms_of
from .expr import Apply, Const, Load, Node, Reduce
from .floors import floor_matters, without_floor
from .folding import apply
from .leaves import has_product
from .reader import Reader
from .refuse import Refuse, describe
from .rowmax import drop_row_maxima
from .unify import Unifier, atoms_of, depends, strip_casts

RULE = "softmax"


@dataclass
class Softmax:
    terms: list[Term]  # their sum is the score, up to what cancels
    keys: list[Lin]
    sinks: Node | None = None
    loose_sink: bool = False  # the row maximum is one without the sink
    stable: bool = True  # a row maximum is subtracted before the exponential
    zero_rows: bool = False  # a guard makes a row without any finite score zero
    nan_guard: bool = False  # the guard looks for NaN, not for scores of -inf
    trail: list[Load] = field(default_factory=list)  # tensors that hold P, outermost first
    scaled: list[Load] = field(default_factory=list)  # tensors that hold P times ``factors``
    factors: list[Node] = field(default_factory=list)  # what P is multiplied by before V
    spelling: str = "exp / sum"
    row_sums: Load | None = None  # of the online attention op that the softmax is in


def quotient_of(reader: Reader, head: Node, keys: set) -> tuple[Node, Node, str]:
    """(numerator, denominator) of the probabilities."""
    if isinstance(head, Apply):
        if head.name == "divf":
            return head.args[0], head.args[1], "exp / sum"
        if head.name == "mulf":
            for a, b in (head.args, head.args[::-1]):
                inverse = strip_casts(reader, b)
                if isinstance(inverse, Apply) and inverse.name == "divf":
                    one = strip_casts(reader, inverse.args[0])
                    if isinstance(one, Const) and one.value == 1:
                        return a, inverse.args[1], "exp * (1 / sum)"
        if head.name == "exp":
            terms = terms_of(reader, head.args[0], keys)
            for position, (sign, node) in enumerate(terms):
                log = strip_casts(reader, node)
                if sign == -1 and isinstance(log, Apply) and log.name == "log":
                    rest = terms[:position] + terms[position + 1 :]
                    return _exp_of(reader, rest), log.args[0], "exp(x - log sum)"
            raise Refuse(RULE, "the exponentials are never divided by their sum", "exp", near=False)
    what = describe(reader, head)
    if holds_probabilities(reader, head):
        reason = f"the probabilities go through {what} before the product with V"
        raise Refuse(RULE, reason, what)
    raise Refuse(RULE, "no quotient of exponentials", what, near=False)


def holds_probabilities(reader: Reader, node: Node, depth: int = 6) -> bool:
    """Whether exponentials over a sum are somewhere below, through elementwise ops."""
    head = strip_casts(reader, node)
    if isinstance(head, Load):
        op = reader.producer(head.value)
        return op is not None and op.name == "linalg.softmax"
    if not isinstance(head, Apply) or depth == 0:
        return False
    if head.name == "divf":
        top, bottom = (strip_casts(reader, a) for a in head.args)
        if isinstance(top, Apply) and top.name in ("exp", "exp2") and isinstance(bottom, Load):
            reduce = reader.reduction(bottom)
            return reduce is not None and reduce.combine == "add"
    return any(holds_probabilities(reader, a, depth - 1) for a in head.args)


def _exp_of(reader: Reader, terms: list[Term]) -> Node:
    """Scores come first, so that no two other terms make a sum that is one term of its own."""
    total: Node = Const(0.0, "f32")
    for sign, node in sorted(terms, key=lambda term: not has_product(reader, term[1])):
        total = apply("addf" if sign > 0 else "subf", (total, node), "f32")
    return Apply("exp", (total,), "f32")


def match_quotient(
    reader: Reader, numerator: Node, denominator: Node, keys: list[Lin], key_atoms: set
) -> Softmax:
    terms = exponent(reader, numerator, key_atoms)
    if terms is None:
        what = describe(reader, numerator)
        raise Refuse(RULE, "the numerator is no exponential", what, near=False)
    kept, dropped, joined = drop_row_maxima(reader, terms, key_atoms)
    floor = ""
    if dropped:
        denominator, floor = without_floor(reader, denominator)
    sinks: Node | None = None
    summed = column = False
    for part in _sum_parts(reader, denominator):
        head = strip_casts(reader, part)
        if isinstance(head, Load):
            split = _match_sum(reader, head, numerator, terms, keys)
            summed = True
            if split is not None:
                column = True
                sinks = _one_sink(sinks, _sink(reader, split, dropped, key_atoms))
        elif isinstance(head, Const) and not dropped and float(head.value) > 0:
            sinks = _one_sink(sinks, Const(math.log(float(head.value)), "f32"))
        else:
            sinks = _one_sink(sinks, _sink(reader, part, dropped, key_atoms))
    if not summed:
        what = describe(reader, denominator)
        raise Refuse(RULE, "the denominator is no sum", what, near=False)
    for other in joined:
        if sinks is None or not Unifier(reader, set()).same(other, sinks):
            what = describe(reader, other)
            raise Refuse(RULE, "the row maximum is taken with more than the sum holds", what)
    zero_rows = False
    if floor:
        effect = None if sinks is not None else floor_matters(reader, kept, dropped)
        if effect is None:
            raise Refuse(RULE, "the sum of the exponentials is kept above a number", floor)
        zero_rows = effect
    loose = sinks is not None and bool(dropped) and not column and not joined
    return Softmax(kept, keys, sinks, loose, stable=bool(dropped), zero_rows=zero_rows)


def _one_sink(have: Node | None, new: Node) -> Node:
    if have is not None:
        raise Refuse(RULE, "more than one term besides the sum in the denominator")
    return new


def _sum_parts(reader: Reader, node: Node) -> list[Node]:
    head = strip_casts(reader, node)
    if isinstance(head, Apply) and head.name == "addf":
        return _sum_parts(reader, head.args[0]) + _sum_parts(reader, head.args[1])
    if isinstance(head, Apply) and head.name == "absf":  # in JAX's logsumexp: it is positive
        return _sum_parts(reader, head.args[0])
    return [node]


def _match_sum(
    reader: Reader, load: Load, numerator: Node, terms: list[Term], keys: list[Lin]
) -> Node | None:
    """The leaf is the sum of the numerator over the keys; a concatenated column is returned."""
    op = reader.producer(load.value)
    name = op.name if op is not None else "an argument"
    reduce = reader.reduction(load)
    if reduce is None or reduce.combine != "add":
        raise Refuse(RULE, "the denominator is no sum", name)
    if not is_zero(reader, reduce.init):
        raise Refuse(RULE, "the sum of the exponentials does not start at zero", name)
    bound = atoms_of(reader, reduce.axes)
    unifier = Unifier(reader, set(bound))
    different = Refuse(RULE, "numerator and denominator are of different scores", name)
    if _same_exponentials(reader, unifier, numerator, terms, reduce.body, bound):
        try:
            check_axes(reader, unifier, reduce.axes, keys, name)
        except Refuse as refuse:
            different = refuse
        else:
            return None
    column = _split_column(reader, reduce, numerator, terms, keys)
    if column is None:
        raise different
    return column


def _same_exponentials(
    reader: Reader, unifier: Unifier, numerator: Node, terms: list[Term], body: Node, bound: set
) -> bool:
    if unifier.same(numerator, body):
        return True
    unifier.binding.clear()
    theirs = exponent(reader, body, bound | unifier.bound)
    return theirs is not None and same_terms(unifier, terms, theirs)


def check_axes(
    reader: Reader, unifier: Unifier, axes: tuple[Lin, ...], keys: list[Lin], name: str
) -> None:
    """The sum runs over the keys, all of them, each once."""
    seen: set = set()
    for axis in axes:
        form = unifier.bound_form(axis)
        resolved = reader.space.resolve(axis)
        if form is None or dense_length(form) != dense_length(resolved):
            raise Refuse(RULE, "the sum does not run over the keys", name)
        seen |= set(form.atoms())
    # splitting may have renamed the keys since
    if seen != atoms_of(reader, keys):
        raise Refuse(RULE, "sum and product run over different axes", name)


def _split_column(
    reader: Reader, reduce: Reduce, numerator: Node, terms: list[Term], keys: list[Lin]
) -> Node | None:
    """A sum over the keys and one more column: scores concatenated with a sink."""
    parts = split_last_column(reader, reduce)
    if parts is None:
        return None
    axis, body, column = parts
    unifier = Unifier(reader, atoms_of(reader, [axis]))
    if not _same_exponentials(reader, unifier, numerator, terms, body, atoms_of(reader, [axis])):
        return None
    check_axes(reader, unifier, (axis,), keys, "tensor.concat")
    return column


def _sink(reader: Reader, node: Node, dropped: list[Term], keys: set) -> Node:
    """T where the node is exp(T - the row maxima that the scores lost)."""
    terms = exponent(reader, node, keys)
    if terms is None:
        raise Refuse(
            RULE, "something is added to the sum of the exponentials", describe(reader, node)
        )
    left = list(terms)
    for sign, maximum in dropped:
        for i, (s, other) in enumerate(left):
            if s == sign and Unifier(reader, set()).same(maximum, other):
                del left[i]
                break
        else:
            raise Refuse(RULE, "the sink is not relative to the same maximum")
    if len(left) > 1:
        raise Refuse(RULE, "the sink is a sum of terms")
    if not left:
        return Const(0.0, "f32")
    sign, sink = left[0]
    if depends(reader, sink, keys):
        raise Refuse(RULE, "the sink varies over the keys")
    return sink if sign > 0 else Apply("negf", (sink,), "f32")
