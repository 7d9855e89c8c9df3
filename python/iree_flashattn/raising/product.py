"""From a tensor value to the parts of the attention that computes it.

The value is read at free coordinates; what comes out must be ``sum(P * V)`` over the keys with P a
softmax, or the same with the division after the sum, or an attention op.
"""

from __future__ import annotations

from iree.compiler import ir

from .attention_op import NAMES, Product, read_attention
from .axes import Lin
from .dots import axes_of_dot
from .expr import Apply, Const, Load, Node
from .operands import operand_atoms
from .quotient import Softmax, match_quotient
from .reader import Reader, invert_map
from .refuse import Refuse, describe
from .score import Axes
from .scores import score_of_terms
from .sizes import result_number
from .softmax import match_softmax
from .unify import atoms_of, depends, node_atoms, strip_casts


def read_product(reader: Reader, load: Load) -> Product:
    """The parts of the attention that one element of a tensor is. Raises :class:`Refuse`."""
    head = strip_casts(reader, load)
    if isinstance(head, Load):
        op = reader.producer(head.value)
        if op is not None and op.name == NAMES[0]:
            return read_attention(reader, op, head)
        return _contraction(reader, head)
    if isinstance(head, Apply):
        quotient = _quotient(reader, head)
        if quotient is not None:
            return _late_division(reader, *quotient)
    raise Refuse("values", "no product with V", describe(reader, head), near=False)


def _quotient(reader: Reader, head: Apply) -> tuple[Node, Node] | None:
    if head.name == "divf":
        return head.args
    if head.name == "mulf":
        for a, b in (head.args, head.args[::-1]):
            inverse = strip_casts(reader, b)
            if isinstance(inverse, Apply) and inverse.name == "divf":
                one = strip_casts(reader, inverse.args[0])
                if isinstance(one, Const) and one.value == 1:
                    return a, inverse.args[1]
    return None


def _factors(reader: Reader, load: Load) -> tuple[Node, Node, list[Lin]]:
    """(left, right, summed axes) where the leaf is a sum of products that starts at zero."""
    op = reader.producer(load.value)
    name = op.name if op is not None else "an argument"
    reduce = reader.reduction(load)
    if reduce is None or reduce.combine != "add":
        raise Refuse("values", "no sum of products", name)
    body = strip_casts(reader, reduce.body)
    if not isinstance(body, Apply) or body.name != "mulf":
        raise Refuse("values", "no sum of products", name)
    init = strip_casts(reader, reduce.init)
    if not isinstance(init, Const) or init.value != 0:
        raise Refuse("values", "the product with V starts from a tensor", name)
    return body.args[0], body.args[1], list(reduce.axes)


def _contraction(reader: Reader, load: Load) -> Product:
    left, right, keys = _factors(reader, load)
    refused: list[Refuse] = []
    for p, v in ((left, right), (right, left)):
        try:
            softmax = match_softmax(reader, p, keys)
        except Refuse as refuse:
            refused.append(refuse)
            continue
        return _finish(reader, softmax, v, load)
    raise max(refused, key=lambda r: r.near)


def _late_division(reader: Reader, numerator: Node, denominator: Node) -> Product:
    """``sum(exp * V) / sum(exp)``."""
    head = strip_casts(reader, numerator)
    if not isinstance(head, Load):
        raise Refuse("values", "no product with V", describe(reader, head), near=False)
    op = reader.producer(head.value)
    if op is not None and op.name == NAMES[1]:
        return _online(reader, op, head, denominator)
    left, right, keys = _factors(reader, head)
    first: Refuse | None = None
    for p, v in ((left, right), (right, left)):
        try:
            softmax = match_quotient(reader, p, denominator, keys, atoms_of(reader, keys))
        except Refuse as refuse:
            first = first or refuse
            continue
        softmax.spelling = "exp, divided after the product"
        return _finish(reader, softmax, v, head)
    assert first is not None
    raise first


def _online(reader: Reader, op: ir.Operation, load: Load, denominator: Node) -> Product:
    """online_attention, normalised by its own row sums."""
    row_sum = strip_casts(reader, denominator)
    rule, name = "attention op", op.name
    if not isinstance(row_sum, Load) or reader.producer(row_sum.value) != op:
        raise Refuse(rule, "the result is divided by something else than its row sums", name)
    if result_number(op, row_sum.value) != 2:
        raise Refuse(rule, "the result is divided by its row maxima", name)
    maps = reader.shared.parsed.maps(op.attributes["indexing_maps"])
    if maps is None:
        raise Refuse(rule, "the indexing maps are not linear", name)
    out = invert_map(maps[-3], load.coords, 16)
    rows = invert_map(maps[-1], row_sum.coords, 16)
    if out is None or rows is None:
        raise Refuse(rule, "the output map is no projection of the loops", name)
    for a, b in zip(out, rows, strict=True):
        if b is not None and (a is None or reader.space.resolve(a) != reader.space.resolve(b)):
            raise Refuse(rule, "the row sums are read at other rows", name)
    operands = list(op.operands)
    for position in (-3, -2, -1):  # accumulator, row maxima, row sums
        init = operands[position]
        start = reader.head(reader.load(init, [Lin()] * init.type.rank))
        value = float(start.value) if isinstance(start, Const) else None
        if value is None or (position != -2 and value != 0) or value > 0:
            raise Refuse(rule, "the online attention goes on from earlier results", name)
    product = read_attention(reader, op, load)
    product.softmax.row_sums = row_sum
    return product


def _finish(reader: Reader, softmax: Softmax, v: Node, final: Load) -> Product:
    key_atoms = atoms_of(reader, softmax.keys)
    score = score_of_terms(reader, softmax.terms, Axes(key_atoms, node_atoms(reader, v)))
    left, right, inner = axes_of_dot(reader, score.dot)
    if not key_atoms:  # a single key: either may be Q, the one with more axes is
        more = len(operand_atoms(reader, left)) >= len(operand_atoms(reader, right))
        q, k = (left, right) if more else (right, left)
        return Product(softmax, score, q, k, v, inner, reader.producer(final.value))
    sides = [depends(reader, side, key_atoms) for side in (left, right)]
    if sides == [False, True]:
        q, k = left, right
    elif sides == [True, False]:
        q, k = right, left
    else:
        raise Refuse("scores", "not one of the two factors varies with the keys", "")
    return Product(softmax, score, q, k, v, inner, reader.producer(final.value))
