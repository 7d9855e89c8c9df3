"""Which axis is what: batch, kv head, head in its group, query, key, head dims.

Nothing is told by position. An axis that only V and the output have is V's head dim; one that Q
and the output have, but neither K nor V, is a query or a head of a group; what K or V share with
the output is batch or kv head. Where several assignments are possible (they are all correct), the
one is taken in which most operands are read in place.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import permutations

from .axes import Atom, Lin, Size, times
from .expr import Apply, Load, Node
from .masks import _affine_bounds, conjuncts
from .operands import address, operand_atoms
from .product import Product
from .reader import Reader
from .refuse import Refuse
from .unify import atoms_of, node_atoms

RULE = "roles"


@dataclass
class Roles:
    """Axes by role, outermost first. Heads are ``kv_heads`` times ``group``."""

    batch: list[Atom] = field(default_factory=list)
    kv_heads: list[Atom] = field(default_factory=list)
    group: list[Atom] = field(default_factory=list)
    query: list[Atom] = field(default_factory=list)
    key: list[Atom] = field(default_factory=list)
    dk: list[Atom] = field(default_factory=list)
    dv: list[Atom] = field(default_factory=list)

    @property
    def heads(self) -> list[Atom]:
        return self.kv_heads + self.group


def extent_of(atoms: list[Atom]) -> Size:
    result: Size = 1
    for a in atoms:
        result = times(result, a.extent)
    return result


def form_of(atoms: list[Atom]) -> Lin:
    """The index that counts through the axes."""
    terms, stride = {}, 1
    for a in reversed(atoms):
        terms[a] = stride
        stride = times(stride, a.extent)
    return Lin.build(terms)


def _order(atoms: set[Atom], place: Lin) -> list[Atom]:
    """Outermost first, by their place in a buffer."""

    def weight(atom: Atom) -> tuple[int, int, int]:
        c = dict(place.terms).get(atom, 0)
        if isinstance(c, int):
            return (0, c, -atom.id)
        degree = max(len(k) for k in c.terms)
        return (degree, max(c.terms.values()), -atom.id)

    return sorted(atoms, key=weight, reverse=True)


def assignments(reader: Reader, product: Product, out: Load, roots: list[Lin]) -> Iterator[Roles]:
    """All sensible assignments, the most natural first. Raises :class:`Refuse` if there is none."""
    place = address(reader, out)
    score = product.score
    keys = atoms_of(reader, product.softmax.keys)
    inner = atoms_of(reader, product.inner)
    free = set(place.atoms())
    q, k, v = (operand_atoms(reader, n) for n in (product.q, product.k, product.v))
    extra = [*score.bias, *score.after, *score.keep, *score.factors, *product.softmax.factors]
    if product.softmax.sinks is not None:
        extra.append(product.softmax.sinks)
    others = set().union(*(node_atoms(reader, n) for n in extra))
    if q & keys:
        raise Refuse(RULE, "Q varies with the keys")
    stray = (q | k | v | others) - free - keys - inner
    if stray:
        raise Refuse(RULE, "an operand varies with an axis that the result does not have")
    if inner & (v | others):
        raise Refuse(RULE, "V or the mask varies with the head dim of Q and K")
    dv = v - q - k - others - keys
    q_only = q - k - v - inner
    if not q_only and (q & v & free) - k - _as_multiplied(reader, product.k):
        if k - v - keys - inner:
            raise Refuse(RULE, "the scores are mixed by a product before the softmax")
        # a softmax between two products, and no attention: experts behind a router
        raise Refuse(RULE, "every query has values of its own but shares the keys", near=False)
    outer = free - dv - q_only
    key_order = _order(keys, form_or(reader, product.softmax.keys))
    inner_order = _order(inner, form_or(reader, product.inner))
    outer_order = _order(outer, place)
    dv_order = _order(dv, place)
    for query in _queries(reader, product, q_only, place, roots, key_order):
        group = [a for a in _order(q_only, place) if a not in query]
        for batch, kv_heads, inner_group in _splits(outer_order, group):
            yield Roles(
                batch, kv_heads, inner_group, query, list(key_order), list(inner_order),
                list(dv_order),
            )  # fmt: skip


def _as_multiplied(reader: Reader, node: Node) -> set[Atom]:
    """The axes of an operand as the product reads it: repeated for the heads of a group, say."""
    if isinstance(node, Load):
        return atoms_of(reader, node.coords)
    if isinstance(node, Apply):
        return set().union(*(_as_multiplied(reader, a) for a in node.args))
    return set()


def form_or(reader: Reader, lins: list[Lin]) -> Lin:
    """One form that orders the axes of several: the later ones inside."""
    total, stride = Lin(), 1
    for lin in reversed(lins):
        resolved = reader.space.resolve(lin)
        total = total.add(resolved, stride)
        for a, _ in resolved.terms:
            stride = times(stride, a.extent)
    return total


def _queries(
    reader: Reader,
    product: Product,
    q_only: set[Atom],
    place: Lin,
    roots: list[Lin],
    keys: list[Atom],
) -> list[list[Atom]]:
    """Candidates for the query axis: what one dimension of the result or of a mask was split
    into."""
    if not q_only:
        return [[]]
    found: list[list[Atom]] = []

    def propose(atoms: list[Atom]) -> None:
        if atoms and atoms not in found:
            found.append(atoms)

    by_root = [
        [a for a in _order(set(reader.space.resolve(root).atoms()), place) if a in q_only]
        for root in roots
    ]
    by_root = [g for g in by_root if g]
    bounded = [g for g in by_root if _bounds_something(reader, product, g, keys)]
    for group in bounded:
        propose(group)
    for group in sorted(by_root, key=_largest, reverse=True):
        propose(group)
    for atom in _order(q_only, place):
        propose([atom])
    propose(_order(q_only, place))
    if product.softmax.sinks is not None:
        found.append([])  # a single query: what looks like queries may be heads with their sinks
    return found


def _largest(atoms: list[Atom]) -> int:
    size = extent_of(atoms)
    return size if isinstance(size, int) else 1 << 40


def _bounds_something(
    reader: Reader, product: Product, query: list[Atom], keys: list[Atom]
) -> bool:
    key, rows = form_of(keys), form_of(query)
    for condition in product.score.keep:
        for node in conjuncts(reader, condition):
            bounds = _affine_bounds(reader, node, key, rows)
            if bounds is not None and bounds != "always":
                return True
    return False


def _splits(
    outer: list[Atom], group: list[Atom]
) -> Iterator[tuple[list[Atom], list[Atom], list[Atom]]]:
    """(batch, kv heads, group): how the outer axes are dealt out."""
    orders = [outer]
    if 1 < len(outer) <= 3:
        orders += [list(p) for p in permutations(outer) if list(p) != outer]
    for order in orders:
        cuts = sorted(range(len(order) + 1), key=lambda c: (abs(c - (len(order) - 1)), c))
        for cut in cuts:
            kv = order[cut:]
            if all(isinstance(a.extent, int) for a in [*kv, *group]):
                yield order[:cut], kv, group
    if group:
        for order in orders:
            # heads of a group as batch: K and V do not vary with them, the batch has to be free
            if all(isinstance(a.extent, int) for a in order):  # kernels know how many heads
                yield group, order, []
            yield group + order, [], []
            yield order + group, [], []
