"""Row maxima: what is subtracted before the exponential and cancels in the quotient."""

from __future__ import annotations

from .exponent import Term
from .expr import Apply, Const, Load, Node, Reduce
from .leaves import find_product
from .reader import Reader
from .unify import Unifier, atoms_of, depends, strip_casts


def drop_row_maxima(
    reader: Reader, terms: list[Term], keys: set
) -> tuple[list[Term], list[Term], list[Node]]:
    """(terms that stay, terms that cancel, what the maxima are taken with besides the scores).

    A maximum of the same row of the same scores is finite wherever a score of the row is, so that
    without it nothing changes but rounding. Anything else that is subtracted stays.
    """
    kept, dropped = [], []
    joined: list[Node] = []
    product = next((p for _, n in terms if (p := find_product(reader, n)) is not None), None)
    for sign, node in terms:
        cancels = (
            sign == -1
            and not depends(reader, node, keys)
            and _is_row_maximum(reader, node, product, keys, joined)
        )
        (dropped if cancels else kept).append((sign, node))
    return kept, dropped, joined


def _is_row_maximum(
    reader: Reader, node: Node, product: Load | None, keys: set, joined: list[Node]
) -> bool:
    """A maximum over a reduction, or constants and selections around one."""
    found = False
    others: list[Node] = []

    def taken_with(n: Node) -> bool:
        """Something beside the row's own maximum: it has to be in the sum, too."""
        if find_product(reader, n) is not None:
            return False
        others.append(n)
        return True

    def check(n: Node) -> bool:
        nonlocal found
        head = strip_casts(reader, n)
        if isinstance(head, Const):
            return True
        if isinstance(head, Apply):
            if head.name in ("maximumf", "maxnumf"):
                return all(check(a) or taken_with(a) for a in head.args)
            if head.name == "mulf":
                return all(check(a) for a in head.args)
            if head.name == "select":
                return all(check(a) for a in head.args[1:])
            return False
        if isinstance(head, Load):
            reduce = reader.reduction(head)
            if reduce is not None and reduce.combine == "max":
                found = True
                return _same_row(reader, reduce, product, keys)
        return False

    if not (check(node) and found):
        return False
    joined += others
    return True


def _same_row(reader: Reader, reduce: Reduce, product: Load | None, keys: set) -> bool:
    other = find_product(reader, reduce.body)
    if product is None or other is None:
        return product is other
    if product.value != other.value:
        return False
    unifier = Unifier(reader, atoms_of(reader, reduce.axes))
    if not unifier.same(product, other):
        return False
    # Over keys alone: of a column of scores, say, there is one where the row has a single key.
    images = [lin for axis in reduce.axes if (lin := unifier.bound_form(axis)) is not None]
    return atoms_of(reader, images) <= reader.space.live(keys)
