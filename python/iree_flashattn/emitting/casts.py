"""Element types: a kernel computes in one, so operands that differ are converted before it."""

from __future__ import annotations

from dataclasses import replace

from iree.compiler import ir
from iree.compiler.dialects import arith

from ..choosing.demands import WIDTH
from ..site import AttentionSite, View
from .builder import Builder


def element_type(name: str, context: ir.Context) -> ir.Type:
    return {"f32": ir.F32Type, "f16": ir.F16Type, "bf16": ir.BF16Type}[name].get(context)


def with_element(value: ir.Value, name: str, build: Builder) -> ir.Value:
    """The tensor with its elements converted; the layout of its buffer stays."""
    old = ir.RankedTensorType(value.type)
    new_element = element_type(name, build.context)
    if old.element_type == new_element:
        return value
    new = ir.RankedTensorType.get(old.shape, new_element, old.encoding, loc=build.location)
    old_width, new_width = WIDTH[str(old.element_type)], WIDTH[name]
    if old_width == new_width:  # f16 <-> bf16: exact only through f32
        value = with_element(value, "f32", build)
        old_width = 32
    op = arith.ExtFOp if new_width > old_width else arith.TruncFOp
    return op(new, value, loc=build.location, ip=build.point).result


def unify(site: AttentionSite, element: str, build: Builder) -> AttentionSite:
    """The site with Q, K and V in ``element`` and a bias that the ABI can bind."""

    def converted(view: View, name: str) -> View:
        if view.dtype == name:
            return view
        return replace(view, value=with_element(view.value, name, build), dtype=name)

    changed = {name: converted(getattr(site, name), element) for name in ("q", "k", "v")}
    if site.bias is not None and site.bias.dtype not in ("f32", element):
        changed["bias"] = converted(site.bias, "f32")
    if site.sinks is not None:
        changed["sinks"] = converted(site.sinks, "f32")
    return replace(site, **changed)
