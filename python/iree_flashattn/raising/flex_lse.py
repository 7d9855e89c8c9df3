"""The log-sum-exp of PyTorch's flex_attention, which comes from IREE's online attention op.

    (log(row sum) + row maximum) * log 2

PyTorch defines the inner sum in base 2 and multiplies it by log 2: the product is the natural
log-sum-exp of the scores, and that is what the kernel writes. (The stock compiler, which imports
the inner sum as it stands above, keeps the maximum in base 2 and the logarithm in base e, and so
adds unlike things: its LSE is wrong.) Anything else that reads row sums or maxima stays as it is.
"""

from __future__ import annotations

import math

from iree.compiler import ir

from .axes import Lin
from .expr import Apply, Const, Load, Node
from .reader import Reader, invert_map
from .sizes import result_number
from .unify import Unifier, atoms_of, strip_casts

_LN2 = math.log(2.0)
_MAXIMA, _SUMS = 1, 2  # results of the op


def match_flex_lse(reader: Reader, value: ir.Value, roots: list[Lin], sums: Load) -> Unifier | None:
    """The tensor's axes ``roots`` bound to those that the site reads its row sums with, where the
    tensor is the LSE of the same rows."""
    parts = _parts(reader, reader.load(value, roots))
    op = reader.producer(sums.value)
    if parts is None or op is None:
        return None
    total, top = parts
    for leaf, number in ((total, _SUMS), (top, _MAXIMA)):
        if reader.producer(leaf.value) != op or result_number(op, leaf.value) != number:
            return None
    maps = reader.shared.parsed.maps(op.attributes["indexing_maps"])
    if maps is None:
        return None
    mine = invert_map(maps[-1], sums.coords, 16)
    rows = [invert_map(maps[-1], total.coords, 16), invert_map(maps[-2], top.coords, 16)]
    if mine is None or rows[0] is None or rows[0] != rows[1]:
        return None
    unifier = Unifier(reader, atoms_of(reader, roots))
    for a, b in zip(mine, rows[0], strict=True):
        if (a is None) != (b is None):
            return None
        if a is not None and b is not None and not unifier.lin(a, b):
            return None
    return unifier


def _parts(reader: Reader, node: Node) -> tuple[Load, Load] | None:
    """(row sums, row maxima) where the node is (log(row sum) + row maximum) * log 2."""
    head = strip_casts(reader, node)
    if not isinstance(head, Apply) or head.name != "mulf":
        return None
    for inner, factor in (head.args, head.args[::-1]):
        number, total = strip_casts(reader, factor), strip_casts(reader, inner)
        if not isinstance(number, Const) or abs(float(number.value) - _LN2) > 1e-6:
            continue
        if not isinstance(total, Apply) or total.name != "addf":
            continue
        for a, b in (total.args, total.args[::-1]):
            log, top = strip_casts(reader, a), strip_casts(reader, b)
            if isinstance(log, Apply) and log.name == "log" and isinstance(top, Load):
                found = strip_casts(reader, log.args[0])
                if isinstance(found, Load):
                    return found, top
    return None
