"""Raises random programs and compares what a site means with what the program computes."""

from __future__ import annotations

import sys
from dataclasses import dataclass, field

import numpy as np
from iree.compiler import ir

from fuzzing.cases import Case, make_case
from fuzzing.evaluate import evaluate_site, scatter, values_of
from iree_flashattn.raising import raise_sites
from iree_flashattn.refusal import Refusal


@dataclass
class Tally:
    cases: int = 0
    sites: int = 0
    plain: int = 0  # cases without a twist
    missed: list[str] = field(default_factory=list)  # plain cases that were refused
    wrong: list[str] = field(default_factory=list)
    crashed: list[str] = field(default_factory=list)


def check(seed: int, tally: Tally, dynamic: bool = False) -> None:
    case = make_case(seed, dynamic)
    tally.cases += 1
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
        for site in sites:
            problem = compare(site, known)
            if problem:
                tally.wrong.append(f"seed {seed}: {problem} {case.notes}")
        if case.plain:
            tally.plain += 1
            if not sites and not (found and all(_may_refuse(r) for r in found)):
                reasons = "; ".join(str(r) for r in found)
                tally.missed.append(f"seed {seed}: {reasons or 'no candidate'} {case.notes}")


def _may_refuse(refusal: Refusal) -> bool:
    """Refusals of plain programs that are meant: P elsewhere in another layout, and masks that
    underflow where no maximum is subtracted."""
    return refusal.rule == "weights" or "no row maximum" in refusal.reason


def compare(site, known: dict) -> str:
    """What is wrong with a site; the empty string if it means what the program computes."""
    output, weights, lse = evaluate_site(site, known)
    problem = _difference("O", scatter(site.out, output, known[site.out.value].shape, known),
                          known[site.out.value])  # fmt: skip
    if site.weights is not None and not problem:
        wanted = known[site.weights.value]
        problem = _difference("P", scatter(site.weights, weights, wanted.shape, known), wanted)
    if site.lse is not None and not problem:
        wanted = known[site.lse.value]
        got = scatter(site.lse, lse[..., None], wanted.shape, known)
        problem = _difference("LSE", got, wanted)
        if (np.isnan(got) != np.isnan(wanted)).any():
            problem = "LSE: NaN in other places"
    return problem


def _difference(name: str, got: np.ndarray, wanted: np.ndarray) -> str:
    if (np.isfinite(got) != np.isfinite(wanted)).any():
        return f"{name}: finite in other places"
    finite = np.isfinite(wanted)
    if not finite.any():
        return ""
    error = np.abs(got[finite] - wanted[finite]).max() / max(1.0, np.abs(wanted[finite]).max())
    return "" if error < 1e-5 else f"{name}: error {error:.2g}"


def run(first: int, count: int, dynamic: bool = False) -> Tally:
    tally = Tally()
    for seed in range(first, first + count):
        check(seed, tally, dynamic)
    return tally


def show(case: Case) -> str:
    return "module {\n" + case.net.function(case.results) + "}\n"


if __name__ == "__main__":
    start, number = int(sys.argv[1]), int(sys.argv[2])
    result = run(start, number, dynamic="dynamic" in sys.argv[3:])
    for line in [*result.crashed, *result.wrong, *result.missed]:
        print(line)
    print(f"seeds {start}..{start + number - 1}: {result.sites} sites in {result.cases} cases,"
          f" {result.plain} plain, {len(result.missed)} of them missed,"
          f" {len(result.wrong)} wrong, {len(result.crashed)} crashed")  # fmt: skip
