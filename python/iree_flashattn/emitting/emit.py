"""Emit one site: the dispatch in front of its anchor, and its value in place of the old one."""

from __future__ import annotations

from dataclasses import dataclass

from iree.compiler import ir

from ..choosing import Choice
from ..choosing.demands import element_of
from ..extent import Extent
from ..raising.index import Index
from ..raising.materialise import resolve
from ..site import AttentionSite
from ..target import Target, affinity_of
from .bounds import check, check_grid
from .builder import Builder
from .casts import element_type, unify, with_element
from .executables import Executables, Placed
from .interface import WORKLOAD
from .shapes import dynamic_sizes
from .words import words


class CannotBuildError(Exception):
    """An operand that has to be built cannot be; the message names the value."""


@dataclass(frozen=True)
class Result:
    """Type and run-time sizes of one result of a dispatch."""

    type: ir.Type
    sizes: list[ir.Value]


def emit(
    site: AttentionSite, choices: list[tuple[Target, Choice]], added: Executables, index: Index
) -> list[Replaced]:
    """Replaces the site's value (weights, LSE) by those of a dispatch of the chosen kernels.

    Sites that are emitted later may still read the old values, which are returned for that.
    ``index`` is that of the module before anything was emitted.
    ``choices`` holds one choice for each target the site may run on; all have the same split.
    Raises ``UnknownShapeError`` or ``CannotBuildError`` before anything is replaced.
    """
    build = Builder(site.anchor)
    results = [_result_like(site.out.value, build)]
    if site.weights is not None:
        results.append(_result_like(site.weights.value, build))
    lse = None if site.lse is None else _f32(_result_like(site.lse.value, build))
    try:
        site = resolve(site, build, added.terms)
    except ValueError as error:
        raise CannotBuildError(str(error)) from error

    element = element_of(site)
    assert element is not None  # choosing has seen to it
    check(site, build, any(target.backend == "spirv" for target, _ in choices))
    check_grid(site, choices[0][1].splits, build)
    site = unify(site, element, build)
    results = [_with_element(result, element) for result in results]
    forward = [Placed(row, target) for target, choice in choices for row in choice.rows]
    merge = [Placed(row, target) for target, choice in choices for row in choice.combine]
    splits = choices[0][1].splits
    constants = words(site, splits, build)
    sizes = (site.q_len, site.heads, site.kv_heads, site.batch, Extent(splits))
    workload = [build.extent(size) for size in sizes]
    assert len(workload) == len(WORKLOAD)

    operands = _operands(site)
    buffer = None if lse is None else _empty(lse, build)
    wanted = (site.weights is not None, lse is not None)
    if merge:
        entry = added.entry_points(forward)
        partial = list(_dispatch(
            entry, workload, constants, operands, _partials(site, splits, build), site, build
        ).results)  # fmt: skip
        operands = [*partial, operands[-1], buffer or partial[0]]
        entry = added.entry_points(merge, *wanted)
    else:
        operands.append(buffer or site.q.value)
        entry = added.entry_points(forward, *wanted)
    made = _dispatch(entry, workload, constants, operands, results, site, build, in_place=lse)

    views = (site.out, site.weights, site.lse)
    old_values = [view.value for view in views if view is not None]
    replaced = [
        Replaced(old, _like(new, old.type, build), _in_front(old, made, index, build))
        for old, new in zip(old_values, made.results, strict=True)
    ]
    for one in replaced:
        one.replace_uses()
    return replaced


@dataclass(frozen=True)
class Replaced:
    """A value of the source and what stands for it now, but for readers in front of the dispatch.

    There P may have one more reader: the stock product with V, which is dead but for questions
    about its size, to which the compiler finds answers later.
    """

    old: ir.Value
    new: ir.Value
    in_front: list[ir.Operation]

    def replace_uses(self) -> None:
        # (looking at each use would import the dialects of all readers)
        self.old.replace_all_uses_except(self.new, self.in_front)


def _in_front(old: ir.Value, made: ir.Operation, index: Index, build: Builder) -> list:
    """The readers of ``old`` before the dispatch: the module's, and questions about sizes."""
    found = build.dims_of(old)
    for user in index.readers(old):
        outer = user
        while outer.block != made.block and outer.parent is not None:
            outer = outer.parent.operation
        if outer.block == made.block and outer.is_before_in_block(made):
            found.append(user)
    return found


def _operands(site: AttentionSite) -> list[ir.Value]:
    """Q, K, V, mask, bias, sinks; Q stands in for what the site does not have."""
    optional = (site.mask, site.bias, site.sinks)
    present = [site.q.value, site.k.value, site.v.value]
    return present + [site.q.value if view is None else view.value for view in optional]


def _partials(site: AttentionSite, splits: int, build: Builder) -> list[Result]:
    """PARTIAL_O f32[splits, batch, heads, q_len, dv] and PARTIAL_ML f32[…, 2]."""
    found = []
    for last in (site.dv, Extent(2)):
        shape = [Extent(splits), site.batch, site.heads, site.q_len, last]
        dynamic = ir.ShapedType.get_dynamic_size()
        sizes = [dynamic if s.static is None else s.static for s in shape]
        f32 = ir.F32Type.get(build.context)
        kind = ir.RankedTensorType.get(sizes, f32, loc=build.location)
        found.append(Result(kind, [build.extent(s) for s in shape if s.static is None]))
    return found


def _dispatch(
    entry_points: ir.ArrayAttr,
    workload: list[ir.Value],
    constants: list[ir.Value],
    tensors: list[ir.Value],
    results: list[Result],
    site: AttentionSite,
    build: Builder,
    in_place: Result | None = None,
) -> ir.Operation:
    """Its results: ``results`` and, behind them, what the last tensor becomes if ``in_place``."""
    argument_dims = []
    for value in tensors:
        kind = ir.RankedTensorType(value.type)
        axes = range(kind.rank)
        argument_dims += [build.dim(value, axis) for axis in axes if kind.is_dynamic_dim(axis)]
    ties = [-1] * len(results)
    if in_place is not None:
        results = [*results, in_place]
        ties.append(len(constants) + len(tensors) - 1)
    result_dims = [size for result in results for size in result.sizes]
    groups = [workload, [*constants, *tensors], argument_dims, result_dims]
    attributes = {
        "entry_points": entry_points,
        "operandSegmentSizes": ir.DenseI32ArrayAttr.get([len(g) for g in groups], build.context),
    }
    if in_place is not None:
        index = ir.IndexType.get(build.context)
        attributes["tied_operands"] = ir.ArrayAttr.get([ir.IntegerAttr.get(index, t) for t in ties])
    affinity = affinity_of(site.anchor)
    if affinity is not None:
        attributes["stream.affinity"] = affinity
    return ir.Operation.create(
        "flow.dispatch",
        results=[result.type for result in results],
        operands=[value for group in groups for value in group],
        attributes=attributes,
        loc=build.location,
        ip=build.point,
    )


def _result_like(value: ir.Value, build: Builder) -> Result:
    return Result(value.type, dynamic_sizes(value, build))


def _f32(result: Result) -> Result:
    return _with_element(result, "f32")


def _empty(result: Result, build: Builder) -> ir.Value:
    operation = ir.Operation.create(
        "tensor.empty",
        results=[result.type],
        operands=result.sizes,
        loc=build.location,
        ip=build.point,
    )
    return operation.results[0]


def _with_element(result: Result, element: str) -> Result:
    kind = ir.RankedTensorType(result.type)
    if str(kind.element_type) == element:
        return result
    wanted = element_type(element, kind.context)
    loc = ir.Location.unknown(kind.context)
    return Result(ir.RankedTensorType.get(kind.shape, wanted, loc=loc), result.sizes)


def _like(value: ir.Value, kind: ir.Type, build: Builder) -> ir.Value:
    """The value in the old one's type: the dispatch's element may be wider than the result's."""
    return with_element(value, str(ir.RankedTensorType(kind).element_type), build)
