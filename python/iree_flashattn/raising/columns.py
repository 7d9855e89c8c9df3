"""Sums over concatenated scores: the keys and one more column (attention sinks)."""

from __future__ import annotations

from .axes import ZERO, Lin, plus, size
from .expr import Apply, Load, Node, Reduce
from .moves import concat_pieces
from .reader import Reader


def split_last_column(reader: Reader, reduce: Reduce) -> tuple[Lin, Node, Node] | None:
    """(axis, body over the first columns, body at the last one) of a sum over a concatenation.

    The sum over n + 1 elements is that over a fresh axis of n plus one element.
    """
    if len(reduce.axes) != 1:
        return None
    resolved = reader.space.resolve(reduce.axes[0])
    if len(resolved.terms) != 1:
        return None
    atom = resolved.terms[0][0]
    boundary = _boundary(reader, reduce.body, atom, 30)
    if boundary is None or plus(atom.extent, -1) != boundary:
        return None
    axis = reader.space.axis(size(boundary))
    first = replace_axis(reader, reduce.body, atom, axis)
    last = replace_axis(reader, reduce.body, atom, Lin((), boundary))
    return axis, first, last


def _boundary(reader: Reader, node: Node, atom, depth: int):
    """Where a concatenation below the node changes pieces along the axis."""
    if depth == 0:
        return None
    node = reader.head(node)
    if isinstance(node, Apply):
        for a in node.args:
            found = _boundary(reader, a, atom, depth - 1)
            if found is not None:
                return found
        return None
    if isinstance(node, Load):
        op = reader.producer(node.value)
        found = None if op is None else concat_pieces(reader, op)
        if found is None:
            return None
        dim, pieces = found
        lin = reader.space.resolve(node.coords[dim])
        if lin.const == 0 and lin.terms == ((atom, 1),):
            return pieces[-1][1]
    return None


def replace_axis(reader: Reader, node: Node, atom, lin: Lin) -> Node:
    """The node with one axis replaced by a form."""
    if isinstance(node, Load):
        coords = [_replaced(reader.space.resolve(c), atom, lin) for c in node.coords]
        return reader.load(node.value, coords)
    if isinstance(node, Apply):
        args = tuple(replace_axis(reader, a, atom, lin) for a in node.args)
        return Apply(node.name, args, node.dtype)
    if hasattr(node, "lin"):
        return type(node)(_replaced(reader.space.resolve(node.lin), atom, lin), node.dtype)
    return node


def _replaced(form: Lin, atom, lin: Lin) -> Lin:
    result = Lin((), form.const)
    for a, c in form.terms:
        result = result.add(lin if a is atom else ZERO.add(Lin(((a, 1),))), c)
    return result
