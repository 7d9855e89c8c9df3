"""Rows in order, best first: the first that serves the site on the target wins."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from .. import catalog
from ..refusal import Refusal
from .choice import Choice, Options
from .demands import demands, element_of, misfit
from .gate import stock_wins
from .splitting import splits_for

if TYPE_CHECKING:
    from ..catalog import KernelRow
    from ..site import AttentionSite
    from ..target import Target

_NO_BACKEND = (
    "iree-flashattn has kernels for the targets llvm-cpu (embedded-elf), cuda and vulkan-spirv"
)


def choose(
    site: AttentionSite,
    target: Target,
    options: Options = Options(),
    rows: Sequence[KernelRow] | None = None,
) -> Choice | Refusal:
    """Kernels for ``site`` on ``target``; ``rows`` replaces the installed table in tests."""

    def refuse(rule: str, reason: str, subject: str = "") -> Refusal:
        return Refusal(site.location, rule, reason, subject, site.spelling)

    if target.backend == "other" or (target.backend == "cpu" and not target.arch):
        return refuse("choose.target", _NO_BACKEND, str(target))
    if found := misfit(site):
        return refuse("choose.site", *found)
    if rows is None:
        rows = catalog.rows(target.backend)
    if not rows:
        return refuse("choose.table", "this installation has no kernels for the target", str(target))

    trail: list[str] = []
    served: list[KernelRow] = []
    for row in rows:
        if row.role == "combine":
            continue
        why_not = unserved(row, site, target)
        if why_not is None and row.role == "partial" and splits_for(site, row, target) < 2:
            why_not = "enough work without splitting the keys"
        if why_not is not None:
            trail.append(f"{row.name}: {why_not}")
            continue
        if served and (row.role != served[0].role):
            continue
        served.append(row)
        if not decided_at_run_time(row, target):
            break
    if not served:
        return refuse("choose.kernel", _closest(trail, rows, site, target), str(target))

    choice = Choice(tuple(served), trail=tuple(trail))
    if served[0].role == "partial":
        by_name = {row.name: row for row in rows}
        merges = tuple(by_name[row.combine] for row in served)
        choice = Choice(tuple(served), merges, splits_for(site, served[0], target), tuple(trail))
    if options.gate and (reason := stock_wins(site, target, choice)):
        return refuse("choose.gate", reason, choice.name)
    return choice


def unserved(row: KernelRow, site: AttentionSite, target: Target) -> str | None:
    """Why the row cannot serve the site on the target; None if it can."""
    if row.element != element_of(site):
        return f"computes in {row.element}, the site in {element_of(site)}"
    if missing := missing_on_target(row, target):
        return f"needs {missing}, which the target lacks"
    if lacking := sorted(demands(site) - row.features):
        return f"lacks {', '.join(lacking)}"
    if limit := _head_dim_limit(row, int(site.dk), int(site.dv)):
        return limit
    low, high = row.min_rows, row.max_rows
    rows = site.q_len.static
    if low > 1 and (rows is None or rows < low):
        return f"is for {low} query rows or more, the site has {site.q_len}"
    if high is not None and (rows is None or rows > high):
        return f"is for at most {high} query rows, the site has {site.q_len}"
    return None


def missing_on_target(row: KernelRow, target: Target) -> str:
    """What the row's condition asks for and the target does not have, or an empty string."""
    condition = row.target
    if target.backend == "cpu":
        if condition.get("arch") != target.arch:
            return f"arch {condition.get('arch')}"
        return ", ".join(f for f in condition.get("features", ()) if f not in target.features)
    return ""


def decided_at_run_time(row: KernelRow, target: Target) -> bool:
    """Whether the device may still refuse the row, so that another one has to stand behind it."""
    return False


def _head_dim_limit(row: KernelRow, dk: int, dv: int) -> str | None:
    rule = row.head_dim
    for name, size in (("dk", dk), ("dv", dv)):
        if name in rule and size not in rule[name]:
            return f"{name} {size} is not among {rule[name]}"
        if "max" in rule and size > rule["max"]:
            return f"{name} {size} is over {rule['max']}"
        if size % rule.get("multiple_of", 1):
            return f"{name} {size} is no multiple of {rule['multiple_of']}"
    return None


def _closest(trail: list[str], rows: Sequence, site: AttentionSite, target: Target) -> str:
    """One sentence out of the trail: prefer rows that run on the target in this element type."""
    element = element_of(site)
    near = [
        line
        for line, row in ((line, r) for line in trail for r in rows if line.startswith(r.name + ":"))
        if row.element == element and not missing_on_target(row, target)
    ]
    if near:
        return f"no kernel serves it: {near[-1]}"
    here = sorted({r.element for r in rows if not missing_on_target(r, target)})
    if not here:
        return f"no kernel runs on this target: {trail[-1]}"
    return f"no {element} kernel for this target (it has {', '.join(here)})"
