"""raise_sites: all attention sites of a module, and why candidates are none."""

from __future__ import annotations

from iree.compiler import ir

from ..extent import Extent
from ..refusal import Refusal, of_bug
from ..site import AttentionSite
from .again import Repeats
from .assemble import Attempt, assemble
from .axes import Lin
from .equalities import learn_sizes
from .expr import Load
from .index import Index
from .lse import find_lse, learn_logs
from .product import Product, read_product
from .reader import Reader
from .refuse import Refuse
from .shared import Shared
from .walk import candidate_products, forward_chain
from .weights import place


def raise_sites(
    module: ir.Module, index: Index | None = None, tolerant: bool = False
) -> list[AttentionSite | Refusal]:
    """Every attention of a module at the end of the preprocessing phase, in program order.

    The module is not changed. A candidate that cannot be proven is a :class:`Refusal`; a site's
    views may hold a :class:`~.term.Term` where no single tensor has what a kernel reads.
    ``index`` is the module's, where somebody has made it already. ``tolerant``: a candidate at
    which this package itself fails is a :class:`Refusal`, too.
    """
    index = index or Index(module)
    shared = Shared(index)
    learn_sizes(shared)
    learn_logs(shared)
    repeats = Repeats(shared)
    seen: set = set()
    tried: set = set()
    results: list[AttentionSite | Refusal] = []
    for start in index.starts:
        if start in tried or not start.results:
            continue
        tried.add(start)
        for value in candidate_products(start, shared, seen):
            try:
                outcome = repeats.raised(value, raise_value)
            except Exception as error:
                if not tolerant:
                    raise
                outcome = of_bug(str(start.location), error)
            if outcome is None:
                continue
            if isinstance(outcome, AttentionSite):
                shared.outputs.add(outcome.out.value)
            results.append(outcome)
    return results


def raise_value(value: ir.Value, shared: Shared) -> AttentionSite | Refusal | None:
    """The site that computes ``value`` or the furthest tensor that only rearranges it.

    None where the value is no candidate: nothing near a softmax is multiplied.
    """
    chain = forward_chain(value, shared)
    first: Refuse | None = None
    partial: Attempt | None = None
    for target in reversed(chain):
        try:
            attempt = _read(target, shared)
        except Refuse as refuse:
            if first is None or _progress(refuse) > _progress(first):
                first = refuse
            continue
        if partial is None or attempt.cost < partial.cost:
            partial = attempt
        break
    op = shared.index.producer(value)
    assert op is not None
    if partial is not None:
        return partial.site
    assert first is not None
    if not first.near:
        return None
    return Refusal(
        str(op.location), first.rule, first.reason, first.subject, trail=_trail(first.rule)
    )


# The order in which the rules have their say: how far a candidate got.
STAGES = ("layout", "values", "softmax", "attention op", "scores", "masks", "roles", "views",
          "weights")  # fmt: skip


def _progress(refuse: Refuse) -> tuple[bool, int]:
    return refuse.near, STAGES.index(refuse.rule)


def _trail(rule: str) -> tuple[str, ...]:
    """What each rule said, up to the one that refused."""
    passed = STAGES[1 : STAGES.index(rule)]
    if rule != "attention op":
        passed = tuple(stage for stage in passed if stage != "attention op")
    return (*(f"{stage}: proven" for stage in passed), f"{rule}: refused")


def _read(target: ir.Value, shared: Shared) -> Attempt:
    reader = Reader(shared)
    roots: list[Lin] = reader.axes_of(target)
    out = reader.load(target, roots)
    product: Product = read_product(reader, out)
    # reading operands may split further axes: settle them first
    _settle(reader, product)
    fresh = reader.fresh(out)
    assert isinstance(fresh, Load)
    attempt = assemble(reader, product, fresh, roots)
    attempt.site.equal = [(Extent.of(a), Extent.of(b)) for a, b in dict.fromkeys(reader.equal)]
    place(reader, product, target, attempt)
    find_lse(reader, product, target, attempt)
    return attempt


def _settle(reader: Reader, product: Product) -> None:
    from .operands import candidates
    from .unify import node_atoms

    score = product.score
    # twice: the axes that one operand splits are read in another
    for node in 2 * (product.q, product.k, product.v):
        candidates(reader, node, True)
    for node in (*score.bias, *score.after, *score.keep, *score.factors, *product.softmax.factors):
        node_atoms(reader, node)
    if product.softmax.sinks is not None:
        node_atoms(reader, product.softmax.sinks)
