"""Raises random programs and compares what a site means with what the program computes."""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import dataclass, field

import numpy as np
from iree.compiler import ir

from fuzzing.cases import Case, make_case
from fuzzing.evaluate import evaluate_site, scatter, values_of
from iree_flashattn.raising import raise_sites
from iree_flashattn.raising.place import tensors_of
from iree_flashattn.refusal import Refusal
from iree_flashattn.site import AttentionSite


@dataclass
class Tally:
    cases: int = 0
    plain: int = 0  # cases without a twist
    sites: int = 0  # raised
    substituted: int = 0  # in the compiled modules
    missed: list[str] = field(default_factory=list)  # plain cases that were refused
    wrong: list[str] = field(default_factory=list)
    crashed: list[str] = field(default_factory=list)
    stock_failed: list[str] = field(default_factory=list)  # stock cannot compile or run these
    stock_wrong: list[str] = field(default_factory=list)  # and miscomputes these
    vanished: int = 0  # programs whose scores float64 keeps and their own type loses
    # feature -> [attentions in plain programs that have it, those that are substituted]
    features: dict[str, list[int]] = field(default_factory=lambda: defaultdict(lambda: [0, 0]))
    raised_of: Counter[str] = field(default_factory=Counter)  # program -> its sites

    def as_json(self) -> dict:
        own = {k: v for k, v in vars(self).items() if k != "raised_of"}
        return own | {"features": dict(self.features)}

    def add(self, other: dict) -> None:
        for name, value in other.items():
            if isinstance(value, dict):
                for key, pair in value.items():
                    mine = getattr(self, name)[key]
                    mine[0], mine[1] = mine[0] + pair[0], mine[1] + pair[1]
            else:
                setattr(self, name, getattr(self, name) + value)


def check(seed: int, tally: Tally, dynamic: bool = False) -> Case:
    case = make_case(seed, dynamic)
    tally.cases += 1
    _check(case, seed, tally)
    return case


def _check(case: Case, seed: int, tally: Tally) -> None:
    text = "module {\n" + case.net.function(case.results) + "}\n"
    with ir.Context() as context:
        context.allow_unregistered_dialects = True
        module = ir.Module.parse(text)
        try:
            found = raise_sites(module)
        except Exception as error:
            tally.crashed.append(f"seed {seed}: {type(error).__name__}: {error}")
            return
        known = values_of(module.body.operations[0].operation, case.net)
        sites = [s for s in found if not isinstance(s, Refusal)]
        tally.sites += len(sites)
        tally.raised_of[case.net.name] = len(sites)
        for site in sites:
            problem = compare(site, known)
            if problem:
                tally.wrong.append(f"seed {seed}: {problem} {case.notes}")
        if case.plain and len(sites) == case.sites and (alive := softmax_left(module, sites)):
            tally.missed.append(f"seed {seed}: {alive} is still computed {case.notes}")
        if case.plain:
            refused = [r for r in found if isinstance(r, Refusal)]
            meant = sum(may_refuse(r, case) for r in refused)
            tally.plain += 1
            for feature in case.features:
                tally.features[feature][0] += case.sites - meant
            if len(sites) + meant < case.sites:
                reasons = "; ".join(str(r) for r in refused)
                tally.missed.append(f"seed {seed}: {reasons or 'no candidate'} {case.notes}")


def softmax_left(module: ir.Module, sites: list[AttentionSite]) -> str:
    """An exponential that the program still needs when all sites are substituted, or nothing."""
    served: set[ir.Value] = set()
    for site in sites:
        served |= {view.value for view in (site.out, site.weights, site.lse) if view is not None}
    function = module.body.operations[0].operation.regions[0].blocks[0]
    wanted = list(function.operations[len(function.operations) - 1].operands)
    wanted += [value for site in sites for value in tensors_of(site)]
    known = set(served)
    while wanted:
        value = wanted.pop()
        if value in known or not isinstance(value.owner, ir.Operation | ir.OpView):
            continue
        known.add(value)
        op = value.owner.operation
        inner = {o.operation.name for r in op.regions for b in r.blocks for o in b.operations}
        if {op.name, *inner} & {"math.exp", "math.exp2", "linalg.softmax"}:
            return str(value.get_name())
        if op.name != "tensor.dim":
            wanted += op.operands
    return ""


def may_refuse(refusal: Refusal, case: Case) -> bool:
    """Refusals of plain programs that are meant: P elsewhere in another layout, masks that
    underflow where no maximum is subtracted, maxima that leave out the sink, heads that have no
    single stride in the result where the sink leaves no other reading, and results that are read
    before they lie row by row or column by column."""
    return (
        refusal.rule == "weights"
        or "no row maximum" in refusal.reason
        or "the row maximum is one without the sink" in refusal.reason
        or "the sink varies with more than the head" in refusal.reason
        or (refusal.rule == "layout" and (case.sites > 1 or "tiled heads" in case.notes))
    )


def compare(site, known: dict) -> str:
    """What is wrong with a site; the empty string if it means what the program computes.

    The program is computed without rounding, and a fill is rounded. Where a bias that is built
    stands beside it in a row, one of two readings is right: with the bias rounded, or without.
    """
    return _compare(site, known, False) and _compare(site, known, True)


def _compare(site, known: dict, round_terms: bool) -> str:
    output, weights, lse = evaluate_site(site, known, round_terms)
    # A fill of -1e4, say, is rounded as the source rounds it, not as float64 would.
    coarse = abs(site.fill) * 2.0**-23 if -1e5 < site.fill < 0 else 0.0
    problem = _difference("O", scatter(site.out, output, known[site.out.value].shape, known),
                          known[site.out.value], coarse)  # fmt: skip
    if site.weights is not None and not problem:
        wanted = known[site.weights.value]
        problem = _difference(
            "P", scatter(site.weights, weights, wanted.shape, known), wanted, coarse
        )
    if site.lse is not None and not problem:
        wanted = known[site.lse.value]
        got = scatter(site.lse, lse[..., None], wanted.shape, known)
        problem = _difference("LSE", got, wanted)
        if (np.isnan(got) != np.isnan(wanted)).any():
            problem = "LSE: NaN in other places"
    return problem


def _difference(name: str, got: np.ndarray, wanted: np.ndarray, coarse: float = 0.0) -> str:
    if (np.isfinite(got) != np.isfinite(wanted)).any():
        return f"{name}: finite in other places"
    finite = np.isfinite(wanted)
    if not finite.any():
        return ""
    error = np.abs(got[finite] - wanted[finite]).max() / max(1.0, np.abs(wanted[finite]).max())
    return "" if error < 1e-5 + coarse else f"{name}: error {error:.2g}"


def run(first: int, count: int, dynamic: bool = False) -> Tally:
    tally = Tally()
    for seed in range(first, first + count):
        check(seed, tally, dynamic)
    return tally
