"""Run-time sizes that ops need to be equal: both are one size, and the program checks it.

A linalg op whose operands have different lengths for one loop has no meaning, and neither has a
reshape to another number of elements. So wherever a function's own block holds such an op, sizes
that go by two names (the dims of two arguments, say) are read as one. The dispatch of a site that
relies on this is preceded by a comparison on the host.
"""

from __future__ import annotations

from iree.compiler import ir

from ..extent import Extent
from ..site import AttentionSite
from .axes import Size, times
from .region import scalar_name
from .shared import Shared
from .sizes import DimOf
from .structure import Map


def learn_sizes(shared: Shared) -> None:
    sizes = shared.sizes
    heard: set = set()  # what layer after layer says again
    for op in shared.index.asserts:  # what torch-mlir asserts: it is compared already
        compare = shared.index.maker(op.operands[0])
        always = op.parent.name.endswith(".func")  # not in one branch alone
        if always and compare is not None and scalar_name(compare) == "cmpi.eq":
            sizes.assume_equal(*(sizes.of_index(v) for v in compare.operands), None)
    for op in shared.index.sized:
        if op.name == "tensor.reshape":
            if not op.results[0].type.has_static_shape:
                before, after = sizes.shape(op.operands[0]), sizes.shape(op.results[0])
                sizes.assume_same_product(list(before), list(after), op)
            continue
        if op.name == "tensor.expand_shape":
            _learn_expansion(shared, op)
            continue
        found = _operands_and_maps(op, shared)
        if found is not None:
            _learn_loops(shared, op, *found, heard)
    sizes.settle()


def _operands_and_maps(op: ir.Operation, shared: Shared) -> tuple[list[ir.Value], list[Map]] | None:
    if op.name == "linalg.generic":
        maps = shared.parsed.maps(op.attributes["indexing_maps"])
        return None if maps is None else (list(op.operands), maps)
    if op.name.startswith("linalg."):
        info = shared.linalg(op)
        return None if info is None else ([*info.ins, *info.outs], info.maps)
    if op.name in ("iree_linalg_ext.attention", "iree_linalg_ext.online_attention"):
        maps = shared.parsed.maps(op.attributes["indexing_maps"])
        return None if maps is None else (list(op.operands), maps)
    return None


def _learn_expansion(shared: Shared, op: ir.Operation) -> None:
    shape = shared.sizes.shape(op.results[0])
    source = shared.sizes.shape(op.operands[0])
    for n, group in zip(source, op.attributes["reassociation"], strict=True):
        product: Size = 1
        for d in group:
            product = times(product, shape[d.value])
        shared.sizes.assume_equal(n, product, op)


def _learn_loops(
    shared: Shared,
    op: ir.Operation,
    operands: list[ir.Value],
    maps: list[Map],
    heard: set[tuple],
) -> None:
    shapes = tuple([shared.sizes.shape_if_tensor(value) for value in operands])
    key = (tuple(map(id, maps)), shapes)  # (equal attributes have one parsed map)
    if key in heard:
        return
    heard.add(key)
    lengths: dict[int, Size] = {}
    for shape, mapping in zip(shapes, maps, strict=False):
        if shape is None:
            continue
        for n, (terms, const) in zip(shape, mapping, strict=True):
            if len(terms) != 1 or const != 0:
                continue
            ((loop, c),) = terms.items()
            if c == 1 and lengths.setdefault(loop, n) != n:
                shared.sizes.assume_equal(lengths[loop], n, op)


def comparable(shared: Shared, site: AttentionSite) -> list[tuple[Extent, Extent]]:
    """The equalities that the site relies on, as far as both sizes are known before it."""
    pairs: list[tuple[Size, Size]] = list(site.equal)
    mine = _symbols_of(site)
    for one, other, op in shared.sizes.assumed:
        rest = _symbols(shared.sizes.canonical(other))
        if op.block == site.anchor.block and (not rest or rest & mine):
            pairs.append((one, other))
    found = dict.fromkeys((Extent.of(a), Extent.of(b)) for a, b in pairs)
    return [
        (a, b) for a, b in found
        if all(_known_before(shared, site.anchor, s) for s in (*_symbols(a), *_symbols(b)))
    ]  # fmt: skip


def _symbols(size: Size) -> set:
    return set() if isinstance(size, int) else {s for key in size.terms for s in key}


def _symbols_of(site: AttentionSite) -> set:
    sizes = [site.batch, site.heads, site.q_len, site.kv_len, site.dk, site.dv]
    for view in (site.q, site.k, site.v, site.out, site.mask, site.bias):
        if view is not None:
            sizes += [*view.strides, view.offset]
    sizes += [bound for bound in (site.band.lo, site.band.hi) if bound is not None]
    return set().union(*(_symbols(Extent.of(n)) for n in sizes))


def _known_before(shared: Shared, anchor: ir.Operation, symbol: object) -> bool:
    value = symbol.value if isinstance(symbol, DimOf) else symbol
    op = shared.index.maker(value)  # type: ignore[arg-type]
    return op is None or op.block != anchor.block or op.is_before_in_block(anchor)
