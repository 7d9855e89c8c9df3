"""From the parts of an attention and an assignment of roles to an AttentionSite."""

from __future__ import annotations

import math
from dataclasses import dataclass

from iree.compiler import ir

from ..extent import Extent
from ..site import AttentionSite, Band, View
from .axes import Lin
from .expr import Apply, Const, Load, Node, Scalar
from .fills import constants_in, has_constant
from .folding import apply, rounded
from .masks import extent_of as bound
from .masks import read_mask
from .operands import Candidate, candidates
from .product import Product
from .quotient import Softmax
from .reader import Reader
from .refuse import Refuse
from .roles import Roles, assignments, extent_of, form_of
from .score import Score, strip_casts_constant
from .term import Term, settled
from .unify import depends, node_atoms
from .views import Found, best_view, built_view, head_groups, view_of

RULE = "views"
ELEMENTS = ("f32", "f16", "bf16")
_UNDERFLOWS = -110.0  # exp of less is 0 in f32: without a row maximum such a fill is -inf


@dataclass
class Attempt:
    site: AttentionSite
    cost: int
    roles: Roles


def assemble(reader: Reader, product: Product, out: Load, roots: list[Lin]) -> Attempt:
    """The site, with as many operands as possible read in place. Raises :class:`Refuse`."""
    best: Attempt | None = None
    refused: Refuse | None = None
    if out.dtype not in ELEMENTS:
        raise Refuse(RULE, f"results of type {out.dtype} have no kernel; use f32, f16 or bf16")
    for roles in assignments(reader, product, out, roots):
        try:
            attempt = _attempt(reader, product, out, roles)
        except Refuse as refuse:
            if refused is None or refused.rule == "layout":
                refused = refuse
            continue
        if best is None or attempt.cost < best.cost:
            best = attempt
        if best.cost == 0:
            break
    if best is None:
        raise refused or Refuse("roles", "no assignment of the axes")
    return best


def _attempt(reader: Reader, product: Product, out: Load, roles: Roles) -> Attempt:
    q_groups = head_groups(roles, roles.query, roles.dk, kv=False)
    k_groups = head_groups(roles, roles.key, roles.dk, kv=True)
    v_groups = head_groups(roles, roles.key, roles.dv, kv=True)
    o_groups = head_groups(roles, roles.query, roles.dv, kv=False)
    s_groups = head_groups(roles, roles.query, roles.key, kv=False)
    out_view = view_of(reader, Candidate(out), o_groups, "row or column", offset=False)
    if out_view is None:
        raise Refuse("layout", "the result has no single stride for one of its roles")
    element = out.dtype
    score = product.score
    q_factors, k_factors, scalar = _sort_factors(reader, product, roles)
    q = _matrix(reader, product.q, q_factors, q_groups, element, scales=True)
    k = _matrix(reader, product.k, k_factors, k_groups, element, scales=True)
    v_factors = product.softmax.factors
    if any(depends(reader, f, {*roles.query, *roles.group}) for f in v_factors):
        raise Refuse("softmax", "the probabilities are scaled by a factor for each row")
    v = _matrix(reader, product.v, v_factors, v_groups, element, scales=False)
    cost = q.cost + k.cost + v.cost
    site = AttentionSite(
        anchor=None,  # type: ignore[arg-type]
        location="",
        q=q.view,
        k=k.view,
        v=v.view,
        out=out_view,
        batch=_extent(roles.batch),
        heads=_extent(roles.heads),
        kv_heads=_extent(roles.kv_heads),
        q_len=_extent(roles.query),
        kv_len=_extent(roles.key),
        dk=_extent(roles.dk),
        dv=_extent(roles.dv),
        spelling=product.softmax.spelling,
        empty_row="zero" if product.softmax.zero_rows else "nan",
    )
    scale = score.scale * q.factor * k.factor
    if score.cap is not None:
        if score.cap < 0:
            score_cap, scale = -score.cap, -scale
        else:
            score_cap = score.cap
        site.softcap = score_cap
        scale *= score_cap
    site.scale = _scale(scale, scalar)
    cost += _mask(reader, site, score, roles, s_groups, product.softmax)
    cost += _bias(reader, site, score, s_groups, element)
    if not product.softmax.stable:
        for term in (*score.bias, *score.after):
            if has_constant(reader, term, lambda n: -math.inf < n < _UNDERFLOWS):
                raise Refuse(
                    "softmax", "no row maximum is subtracted and a finite mask is added: a fully"
                    " masked row would not be NaN"
                )  # fmt: skip
    _sinks(reader, site, product.softmax.sinks, roles)
    if product.softmax.loose_sink and (
        any(has_constant(reader, t, math.isinf) for t in (*score.bias, *score.after))
        or (site.fill == -math.inf and not _attends(site))
        or _overflows(reader, site, score)
    ):
        raise Refuse(
            "softmax", "the row maximum is one without the sink: a fully masked row would not be"
            " NaN; take the maximum with the sink"
        )  # fmt: skip
    sizes = (site.batch, site.q_len, site.kv_len, site.heads)
    site.dynamic = any(s.static is None for s in sizes)
    return Attempt(site, cost, roles)


def _attends(site: AttentionSite) -> bool:
    """Whether every row is known to keep a key: the first one or one further on."""
    lo, hi = site.band.lo, site.band.hi
    if site.mask is not None or (hi is not None and (hi.static is None or int(hi) < 0)):
        return False
    if lo is None:
        return True
    room = (site.kv_len - site.q_len - lo).static
    return room is not None and room >= 0


def _overflows(reader: Reader, site: AttentionSite, score: Score) -> bool:
    """Whether a finite fill and the biases may be -inf together."""
    lowest = site.fill if score.keep else 0.0
    if math.isinf(lowest):
        return False
    for term in (*score.bias, *score.after):
        lowest += min((0.0, *constants_in(reader, term)))
    return rounded(lowest, "f32") == -math.inf


def _extent(atoms: list) -> Extent:
    return Extent.of(extent_of(atoms))


def _scale(scale: float, scalar: Scalar | None) -> float | ir.Value:
    if scalar is None:
        return scale
    if scale != 1.0:
        raise Refuse("scores", "a run-time scale is multiplied by a constant")
    return scalar.value


def _sort_factors(
    reader: Reader, product: Product, roles: Roles
) -> tuple[list[Node], list[Node], Scalar | None]:
    """Factors of the scores that are no constants go to Q or K, or are the scale."""
    to_q: list[Node] = []
    to_k: list[Node] = []
    scalar: Scalar | None = None
    keys, queries = set(roles.key), set(roles.query) | set(roles.group)
    score = product.score
    for factor in score.factors:
        plain = score.scale == 1.0 and score.cap is None and not to_q and len(score.factors) == 1
        if isinstance(factor, Scalar) and factor.dtype == "f32" and plain:
            scalar = factor
        elif not depends(reader, factor, keys):
            to_q.append(factor)
        elif not depends(reader, factor, queries):
            to_k.append(factor)
        else:
            raise Refuse("scores", "the scores are scaled by a factor for each query and key")
    if scalar is not None and (to_q or to_k):
        to_q.append(scalar)
        scalar = None
    return to_q, to_k, scalar


def _matrix(
    reader: Reader, node: Node, factors: list[Node], groups: list, element: str, scales: bool
) -> Found:
    """Q, K or V in place, or else a tensor to build."""
    if not factors:
        options = candidates(reader, node, scales)
        found = best_view(reader, options, groups, "row or column", dtypes=(element,))
        if found is not None:
            return found
    product = node
    for factor in factors:
        product = apply("mulf", (product, factor), "f32")
    found = built_view(reader, product, groups, element)
    if found is None:
        raise Refuse(RULE, "an operand varies with an axis that has no role")
    return found


def _mask(
    reader: Reader, site: AttentionSite, score: Score, roles: Roles, groups: list, softmax: Softmax
) -> int:
    if not score.keep:
        return 0
    site.fill = score.fill
    if not softmax.stable and -math.inf < score.fill < _UNDERFLOWS:
        if softmax.zero_rows and not softmax.nan_guard:
            raise Refuse(
                "softmax", "no row maximum is subtracted, and the guard for masked rows does not"
                " look for the fill: a fully masked row would not be NaN"
            )  # fmt: skip
        site.fill = -math.inf
    mask = read_mask(
        reader, score.keep, form_of(roles.key), form_of(roles.query), (roles.query, roles.key)
    )
    site.band = Band(bound(mask.lo), bound(mask.hi))
    if not mask.rest:
        return 0
    if len(mask.rest) == 1:
        options = candidates(reader, mask.rest[0])
        found = best_view(reader, options, groups, "column or none", False, ("i1", "i8"))
        if found is not None:
            site.mask, site.mask_drops = found.view, mask.drops
            return found.cost
    rest = mask.rest
    if mask.drops:
        rest = [Apply("not", (rest[0],), "i1")]
    keep = rest[0]
    for condition in rest[1:]:
        keep = Apply("andi", (keep, condition), "i1")
    found = built_view(reader, keep, groups, "i1")
    if found is None:
        raise Refuse("masks", "the mask varies with an axis that has no role")
    site.mask, site.mask_drops = found.view, False
    return found.cost


def _bias(reader: Reader, site: AttentionSite, score: Score, groups: list, element: str) -> int:
    if score.bias and score.after:
        raise Refuse("scores", "a bias before and one after the fill")
    terms = score.bias or score.after
    if not terms:
        return 0
    site.bias_after_fill = bool(score.after)
    dtypes = ("f32", element)
    if len(terms) == 1:
        options = candidates(reader, terms[0])
        found = best_view(reader, options, groups, "column or none", False, dtypes)
        if found is not None:
            site.bias = found.view
            return found.cost
    total = terms[0]
    for term in terms[1:]:
        total = Apply("addf", (total, term), "f32")
    found = built_view(reader, total, groups, "f32")
    if found is None:
        raise Refuse("scores", "the bias varies with an axis that has no role")
    site.bias = found.view
    return found.cost


def _sinks(reader: Reader, site: AttentionSite, node: Node | None, roles: Roles) -> None:
    if node is None:
        return
    heads = set(roles.heads)
    if node_atoms(reader, node) - heads:
        raise Refuse("softmax", "the sink varies with more than the head")
    groups = [[], roles.heads, [], []]
    for candidate in candidates(reader, node):
        if candidate.load.dtype != "f32":
            continue
        view = view_of(reader, candidate, groups, "any", offset=False)
        if view is not None and (view.strides[1] == 1 or not roles.heads):
            site.sinks = View(view.value, "f32", (Extent(0), Extent(1), Extent(0), Extent(0)))
            return
    site.sinks = _built_sinks(reader, node, roles)


def _built_sinks(reader: Reader, node: Node, roles: Roles) -> View:
    constant = strip_casts_constant(reader, node)
    try:
        inner = constant if isinstance(constant, Const) else settled(reader, node)
    except ValueError as error:
        raise Refuse("softmax", f"the sink cannot be read: {error}") from None
    term = Term(reader, inner, tuple(roles.heads), "f32")
    return View(term, "f32", (Extent(0), Extent(1), Extent(0), Extent(0)))  # type: ignore[arg-type]
