"""Rows in order, best first: the first that serves the site on the target wins."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Sequence
from functools import cache
from types import ModuleType
from typing import TYPE_CHECKING

from .. import catalog, resources
from ..refusal import Refusal
from .choice import Choice, Options
from .demands import demands, element_of, misfit
from .gate import stock_wins
from .splitting import splits_for

if TYPE_CHECKING:
    from ..catalog import Kernel
    from ..site import AttentionSite
    from ..target import Target

# The z axis of a grid has 16 bits in IREE's local devices and in CUDA; Vulkan guarantees as much.
MAX_GRID_YZ = 65535
MAX_GRID_X = 2**31 - 1  # in CUDA, the least of those that use x alone

_NO_BACKEND = (
    "iree-flashattn has kernels for the targets llvm-cpu (embedded-elf), cuda and vulkan-spirv"
)
_NO_STOCK = "; stock IREE 3.13 compiles no attention op for Vulkan, so the compilation will fail"
_UNWANTED = "also writes the attention weights, which the site does not want"
_UNBUILT = "this installation has no kernels for the target: it was built without their compiler"
_TOOLS = {"cuda": " (nvcc: pip install nvidia-cuda-nvcc==13.0.* and build the package again)"}


def choose(
    site: AttentionSite,
    target: Target,
    options: Options | None = None,
    rows: Sequence[Kernel] | None = None,
) -> Choice | Refusal:
    """Kernels for ``site`` on ``target``; ``rows`` replaces the installed table in tests."""

    options = options or Options()

    def refuse(rule: str, reason: str, subject: str = "") -> Refusal:
        if target.backend == "spirv" and site.spelling in ("attention", "online_attention"):
            reason += _NO_STOCK
        return Refusal(site.location, rule, reason, subject, site.spelling)

    if target.backend == "other" or (target.backend == "cpu" and not target.arch):
        return refuse("choose.target", _NO_BACKEND, str(target))
    if found := misfit(site):
        return refuse("choose.site", *found)
    if rows is None:
        if not resources.has_kernels(target.backend):
            return refuse("choose.table", _UNBUILT + _TOOLS.get(target.backend, ""), str(target))
        rows = catalog.kernels(target.backend)
    if options.family:
        rows = [row for row in rows if row.name.endswith(f"_{options.family}")]
    if not rows:
        return refuse(
            "choose.table", "this installation has no kernels for the target", str(target)
        )

    trail: list[str] = []
    if target.backend == "cpu":
        rows = _linkable(rows, options, site, target, trail)
    forward = _first_serving(rows, "forward", site, target, trail)
    partial = _first_serving(rows, "partial", site, target, trail)
    splits = splits_for(site, partial[0]) if partial else 1
    if not forward and splits < 2:
        return refuse("choose.kernel", _closest(trail, rows, site, target), str(target))
    if splits > 1:
        by_name = {row.name: row for row in rows}
        merges = tuple(by_name[n] for n in dict.fromkeys(row.combine for row in partial) if n)
        choice = Choice(tuple(partial), merges, splits, tuple(trail))
    else:
        choice = Choice(tuple(forward), trail=tuple(trail))
    if found := over_grid(site, choice):
        return refuse("choose.grid", *found)
    if options.gate and (reason := stock_wins(site, target, choice)):
        return refuse("choose.gate", reason, choice.name)
    return choice


def over_grid(site: AttentionSite, choice: Choice) -> tuple[str, str] | None:
    """(reason, grid) where an axis has more workgroups than devices can count."""
    sizes = {
        name: getattr(site, name).static or 1 for name in ("batch", "heads", "kv_heads", "q_len")
    }
    for row in (*choice.rows, *choice.combine):
        grid = row.grid_size(sizes | {"splits": choice.splits})
        if max(grid[1:]) > MAX_GRID_YZ:
            reason = f"batch or heads are over {MAX_GRID_YZ}, the limit of a grid axis"
            return reason, f"{row.name}: {grid}"
        if grid[0] > MAX_GRID_X:
            reason = f"query blocks, heads and batch make over {MAX_GRID_X} workgroups"
            return reason, f"{row.name}: {grid}"
    return None


def _linkable(
    rows: Sequence[Kernel], options: Options, site: AttentionSite, target: Target, trail: list[str]
) -> list[Kernel]:
    """The rows but for those that the module's way of linking kernels leaves out."""
    found = []
    for row in rows:
        link = row.extra.get("link", options.cpu_link)
        if link == options.cpu_link:
            found.append(row)
        elif not unserved(row, site, target):
            trail.append(f"{row.name}: needs IREE_FLASHATTN_CPU_LINK={link}")
    return found


def _first_serving(
    rows: Sequence[Kernel], role: str, site: AttentionSite, target: Target, trail: list[str]
) -> list[Kernel]:
    """The best row of the role, behind it further ones as long as the device may refuse one."""
    served: list[Kernel] = []
    for row in rows:
        if row.role != role:
            continue
        if why_not := unserved(row, site, target):
            trail.append(f"{row.name}: {why_not}")
            continue
        rules = _backend_rules(target.backend)
        if hasattr(rules, "narrowed"):
            row = rules.narrowed(row, site)
        if any(_shadows(better, row, target) for better in served):
            continue
        served.append(row)
        if not decided_at_run_time(row, target):
            break
    return served


def unserved(row: Kernel, site: AttentionSite, target: Target) -> str | None:
    """Why the row cannot serve the site on the target; None if it can."""
    if row.element != element_of(site):
        return f"computes in {row.element}, the site in {element_of(site)}"
    if missing := missing_on_target(row, target):
        return f"needs {missing}, which the target lacks"
    if target.backend != "cpu" and "weights" in row.features and site.weights is None:
        return _UNWANTED
    if lacking := sorted(demands(site) - row.features):
        return f"lacks {', '.join(lacking)}"
    if limit := _head_dim_limit(row, int(site.dk), int(site.dv)):
        return limit
    rules = _backend_rules(target.backend)
    if hasattr(rules, "refuses") and (reason := rules.refuses(row, site)):
        return reason
    low, high = row.rows_min, row.rows_max
    rows = site.q_len.static
    if low > 1 and (rows is None or rows < low):
        return f"is for {low} query rows or more, the site has {site.q_len}"
    if high is not None and (rows is None or rows > high):
        return f"is for at most {high} query rows, the site has {site.q_len}"
    return None


def missing_on_target(row: Kernel, target: Target) -> str:
    """What the row's condition asks for and the target does not have, or an empty string."""
    rules = _backend_rules(target.backend)
    return rules.missing(row, target) if rules is not None else ""


def decided_at_run_time(row: Kernel, target: Target) -> bool:
    """Whether the device may still refuse the row, so that another one has to stand behind it."""
    rules = _backend_rules(target.backend)
    return rules is not None and rules.decided_at_run_time(row, target)


def _shadows(better: Kernel, row: Kernel, target: Target) -> bool:
    """Whether every device that could run the row runs the better one."""
    rules = _backend_rules(target.backend)
    return rules is not None and hasattr(rules, "shadows") and rules.shadows(better, row, target)


@cache
def _backend_rules(backend: str) -> ModuleType | None:
    """``choosing/<backend>.py``, which knows what the back end's table says of targets."""
    if importlib.util.find_spec(f"{__package__}.{backend}") is None:
        return None
    return importlib.import_module(f".{backend}", __package__)


def _head_dim_limit(row: Kernel, dk: int, dv: int) -> str | None:
    rule = row.head_dim
    if rule.serves(dk, dv):
        return None
    served = f"dk {list(rule.dk)}, dv {list(rule.dv or rule.dk)}" if rule.dk else ""
    if rule.max is not None:
        served = f"{served} up to {rule.max}".strip()
    if rule.multiple_of > 1:
        served += f" in multiples of {rule.multiple_of}"
    return f"serves head dims {served}, the site has {dk} and {dv}"


def _closest(trail: list[str], rows: Sequence[Kernel], site: AttentionSite, target: Target) -> str:
    """One sentence out of the trail: prefer rows that run on the target in this element type."""
    element = element_of(site)
    near = [
        line
        for role in ("partial", "forward")  # what a partial row lacks is the lesser obstacle
        for line in trail
        for row in rows
        if line.startswith(f"{row.name}:")
        and (row.role, row.element) == (role, element)
        and not line.endswith(_UNWANTED)
        and not missing_on_target(row, target)
    ]
    if near:
        return f"no kernel serves it: {near[-1]}"
    here = sorted({r.element for r in rows if not missing_on_target(r, target)})
    if not here:
        needs = [missing_on_target(r, target) for r in rows if r.element == element] or trail[-1:]
        return f"no kernel runs on this target: they need {needs[-1]}"
    return f"no {element} kernel for this target (it has {', '.join(here)})"
