"""The whole pattern over one module: raise, choose, emit; in place."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

from . import report as reporting
from .choosing import Choice, Options, choose
from .emitting import CannotBuildError, Executables, Replaced, emit
from .emitting.bounds import outside
from .emitting.cleanup import erase_dead
from .emitting.inlining import inline_bf16
from .emitting.shapes import UnknownShapeError
from .refusal import Refusal, of_bug
from .report import Report, SiteReport, UserError
from .site import AttentionSite
from .target import Devices, Target

if TYPE_CHECKING:
    from iree.compiler import ir

    from .raising.index import Index


def rewrite_module(module: ir.Module, options: Options | None = None) -> Report:
    """Substitutes every attention site that kernels serve and returns what was done.

    ``module`` is at the end of the preprocessing phase. It is untouched where nothing matches.
    Options come from the environment if none are given. Writes the report file and raises
    ``UserError`` as the options say.
    """
    from .raising import raise_sites
    from .raising.index import Index

    if options is None:
        try:
            options = Options.from_environment()
        except ValueError as error:
            raise UserError(f"iree-flashattn: {error}") from error
    index = Index(module)
    return substitute(module, raise_sites(module, index, tolerant=True), options, index)


def substitute(
    module: ir.Module,
    candidates: list[AttentionSite | Refusal],
    options: Options,
    index: Index,
) -> Report:
    """Choose and emit for candidates that were raised from ``module``.

    ``index``: of the module as it is before.
    """
    devices = Devices(module)
    executables = Executables(module, options)
    done = Report()
    replaced: list[Replaced] = []
    for candidate in candidates:
        if isinstance(candidate, Refusal):
            done.sites.append(reporting.of_refusal(candidate))
            continue
        without: list[str] = []
        while True:
            # The description is taken first: emitting replaces values that it reads.
            served = SiteReport(
                reporting.readable(candidate.location), True, spelling=candidate.spelling
            )
            served.description = reporting.describe(candidate)
            answer = _serve(candidate, devices, executables, index, options, replaced)
            if candidate.lse is None or not isinstance(answer, Refusal):
                break
            without = [f"LSE is left to stock code: {answer.reason}"]
            candidate = dataclasses.replace(candidate, lse=None)
        if isinstance(answer, Refusal):
            done.sites.append(reporting.of_refusal(answer, candidate))
        else:
            served.kernel = answer[0][1].name
            served.trail = without + [line for _, choice in answer for line in choice.trail]
            done.sites.append(served)
    # A site may read what an earlier one computed, by the value that it had then.
    for one in replaced:
        one.replace_uses()
    if replaced:
        inline_bf16(index.constants)  # while all of them are there
    erase_dead([one.old for one in replaced], index)
    if options.report:
        done.write(options.report)
    if options.strict:
        done.require_all()
    return done


def _serve(
    site: AttentionSite,
    devices: Devices,
    executables: Executables,
    index: Index,
    options: Options,
    replaced: list[Replaced],
) -> list[tuple[Target, Choice]] | Refusal:
    def refuse(rule: str, reason: str, subject: str = "") -> Refusal:
        return Refusal(site.location, rule, reason, subject, site.spelling)

    targets = devices.targets_at(site.anchor)
    if not targets:
        return refuse(
            "target", "the module names no device; compile with --iree-hal-target-device="
        )
    if {"cpu", "spirv"} <= devices.backends:
        # It fails for any program, and crashes on dispatches with kernels that are already built.
        return refuse(
            "target",
            "IREE 3.13 cannot compile one module for CPU and Vulkan devices together;"
            " compile one for each",
            ", ".join(str(target) for target in targets),
        )
    if len({target.backend for target in targets}) > 1:
        # The 3.13 compiler crashes on one dispatch with kernels of several back ends.
        return refuse(
            "emit.variants",
            "the site may run on devices of different kinds; place it on one with stream.affinity",
            ", ".join(str(target) for target in targets),
        )
    choices: list[tuple[Target, Choice]] = []
    try:
        if found := outside(site):
            return refuse("emit.bounds", *found)
        for target in targets:
            choice = choose(site, target, options)
            if isinstance(choice, Refusal):
                return choice
            choices.append((target, choice))
    except Exception as error:
        if getattr(error, "for_user", False):
            raise
        return of_bug(site.location, error, site.spelling)
    shapes = {(bool(choice.combine), choice.splits) for _, choice in choices}
    if len(shapes) > 1:
        return refuse(
            "emit.variants",
            "the site may run on several targets whose kernels split the keys differently;"
            " place it on one device",
            ", ".join(f"{target}: {choice.name}" for target, choice in choices),
        )
    try:
        with site.anchor.context:
            replaced += emit(site, choices, executables, index)
    except UnknownShapeError as error:
        return refuse("emit.shape", str(error))
    except CannotBuildError as error:
        return refuse("emit.build", "an operand cannot be built as a tensor", str(error))
    return choices
