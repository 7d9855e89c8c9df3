"""Looking for the product of Q and K at the leaves of an expression."""

from __future__ import annotations

from iree.compiler import ir

from .axes import Lin
from .expr import Apply, Load, Node
from .moves import concat_pieces
from .reader import Reader


def has_product(reader: Reader, node: Node, depth: int = 40) -> bool:
    """Whether a contraction of two tensors is below the node through elementwise ops."""
    if depth == 0:
        return False
    node = reader.head(node)
    if isinstance(node, Load):
        op = reader.producer(node.value)
        return op is not None and is_contraction(reader, op)
    if isinstance(node, Apply):
        return node.name == "scaled_dot" or any(
            has_product(reader, a, depth - 1) for a in node.args
        )
    return False


def is_contraction(reader: Reader, op: ir.Operation) -> bool:
    if not op.name.startswith("linalg."):
        return False
    info = reader.shared.linalg(op)
    if info is None or not info.reduced:
        return False
    if info.kind == "product":
        return True
    reducer = reader.shared.reducer(info, 0)
    return len(info.ins) == 2 and reducer is not None and reducer[0] == "add"


def find_product(reader: Reader, node: Node, depth: int = 40) -> Load | None:
    """The first contraction below the node, also in a part of concatenated scores."""
    if depth == 0:
        return None
    node = reader.head(node)
    if isinstance(node, Load):
        op = reader.producer(node.value)
        if op is None:
            return None
        if is_contraction(reader, op):
            return node
        concat = concat_pieces(reader, op)
        if concat is not None:
            dim, pieces = concat
            for operand, start, _ in pieces:
                coords = list(node.coords)
                coords[dim] = coords[dim].add(Lin((), start), -1)  # type: ignore[arg-type]
                found = find_product(reader, reader.load(operand, coords), depth - 1)
                if found is not None:
                    return found
    if isinstance(node, Apply):
        for a in node.args:
            found = find_product(reader, a, depth - 1)
            if found is not None:
                return found
    return None


def products_of(reader: Reader, node: Node, depth: int = 40) -> list[Load]:
    """All contractions below the node through elementwise ops."""
    node = reader.head(node)
    if isinstance(node, Load):
        op = reader.producer(node.value)
        return [node] if op is not None and is_contraction(reader, op) else []
    if isinstance(node, Apply) and depth:
        return [found for a in node.args for found in products_of(reader, a, depth - 1)]
    return []
