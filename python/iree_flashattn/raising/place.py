"""Moving a site's dispatch up to where a further result of it is first read."""

from __future__ import annotations

from iree.compiler import ir

from ..extent import Extent
from ..site import AttentionSite, View
from .expr import Apply, Load, Node, Scalar
from .index import PURE_DIALECTS, Index
from .reader import Reader
from .sizes import DimOf
from .term import Term

_VIEWS = ("q", "k", "v", "mask", "bias", "sinks")


def move_anchor(reader: Reader, site: AttentionSite, target: ir.Value, value: ir.Value) -> bool:
    """Lets the dispatch stand before every reader of ``value`` that stays when it is there.

    False, and nothing is changed, where something that the dispatch reads comes later.
    """
    index = reader.shared.index
    block = site.anchor.block
    replaced = [v for v in (target, site.weights and site.weights.value, value) if v is not None]
    gone = {op for op in map(index.producer, replaced) if op is not None}
    stays = {index.producer(v) for v in _read_by(site)}
    first = site.anchor
    for user in index.readers(value):
        if _dies(index, user, gone, stays):
            continue
        if user.block != block:
            return False
        if user.is_before_in_block(first):
            first = user
    if first != site.anchor and not _ready(index, site, first):
        return False
    site.anchor = first
    return True


def _dies(index: Index, op: ir.Operation, gone: set, stays: set) -> bool:
    """Whether nothing reads the op once those in ``gone`` have been replaced; it joins them.

    ``stays``: what the dispatch reads."""
    if op in gone:
        return True
    if op in stays or op.name.partition(".")[0] not in PURE_DIALECTS:
        return False
    readers = [reader for result in op.results for reader in index.readers(result)]
    if not readers or not all(_dies(index, reader, gone, stays) for reader in readers):
        return False
    gone.add(op)
    return True


def _ready(index: Index, site: AttentionSite, first: ir.Operation) -> bool:
    """Whether everything that the dispatch reads is there before ``first``."""
    for value in _read_by(site):
        op = index.producer(value)
        if op is not None and op.block == first.block and not op.is_before_in_block(first):
            return False
    return True


def _read_by(site: AttentionSite) -> list[ir.Value]:
    found: list[ir.Value] = []
    sizes = [getattr(site, name) for name in
             ("batch", "heads", "kv_heads", "q_len", "kv_len", "dk", "dv")]  # fmt: skip
    sizes += [site.band.lo, site.band.hi, *(size for pair in site.equal for size in pair)]
    for view in (getattr(site, name) for name in _VIEWS):
        if view is None:
            continue
        found += _of_view(view)
        sizes += [view.offset, *view.strides]
    sizes += site.out.strides
    for size in sizes:
        found += [] if size is None else _of_size(size)
    if isinstance(site.scale, ir.Value):
        found.append(site.scale)
    return found


def tensors_of(site: AttentionSite) -> list[ir.Value]:
    """The tensors that the dispatch reads, and what those are made of that have to be built."""
    views = (getattr(site, name) for name in _VIEWS)
    return [value for view in views if view is not None for value in _of_view(view)]


def _of_view(view: View) -> list[ir.Value]:
    if isinstance(view.value, Term):
        sizes = [value for n in view.value.shape for value in _of_size(Extent.of(n))]
        return sizes + _of_node(view.value.node)
    return [view.value]


def _of_node(node: Node) -> list[ir.Value]:
    if isinstance(node, (Load, Scalar)):
        return [node.value]
    if isinstance(node, Apply):
        return [value for a in node.args for value in _of_node(a)]
    return []


def _of_size(size: Extent) -> list[ir.Value]:
    symbols = [symbol for term in size.terms for symbol in term]
    return [s.value if isinstance(s, DimOf) else s for s in symbols]  # type: ignore[misc]
